"""Bringing a text file of any encoding to one that DuckDB reads in bulk: UTF-8, one kind of line end, no endless line.

A plain UTF-8 file is only looked through, at the speed of its disk, and read where it is.
"""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dagster_project.lib.errors import OnefoldError

LONGEST_LINE = 16 * 2**20  # bytes; a line has to fit into memory several times over
_CHUNK = 2**20
_HEAD = 2**16
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark begins alike
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UTF8 = ("utf-8", "utf-8-sig")
_NO_TEXT = {
    b"PK\x03\x04": "a workbook or ZIP archive",
    b"\xd0\xcf\x11\xe0": "an old or encrypted workbook",
    b"\x1f\x8b": "packed with gzip",
    b"\x28\xb5\x2f\xfd": "packed with Zstandard",
    b"PAR1": "Parquet",
}


@dataclass(frozen=True)
class TextFile:
    """A file in UTF-8 that DuckDB can read; `head` is its text to the end of the first line or for 64 KiB, if that is more."""

    path: Path
    compression: str
    head: str = ""
    is_whole: bool = False  # head is all there is

    def with_plain_line_ends(self, folder: Path) -> "TextFile":
        """A copy in which every line end is a line feed, those inside quotes too."""
        target = folder / "plain.txt"
        with _opened(self.path, self.compression) as stream, target.open("wb") as copy:
            for chunk in _chunks(stream, whole_ends=True):
                copy.write(chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        return TextFile(target, "none", self.head, self.is_whole)


def as_utf8(path: Path, compression: str, encoding: str | None, folder: Path, lines: bool = True) -> TextFile:
    """Find out a file's encoding, unless it is given, and make it readable.

    The rule: a byte order mark; else NUL bytes at every second place (UTF-16); else UTF-8 if all of the file is, or if
    more of its characters beyond ASCII are than are not; else GB18030 if all of the file is and at least half of
    those characters are common ones (GB 2312); else Windows-1252, or Latin-1 where a byte is not in that.

    Args:
        compression: none, gzip or zstd.
        folder: where a copy goes if one is needed.
        lines: whether records are lines, which then may not be longer than LONGEST_LINE.

    Raises:
        OnefoldError: the file is damaged, is not in the given encoding, is no text or has an endless line.
    """
    limit = LONGEST_LINE if lines else None
    with _opened(path, compression) as stream:
        head = stream.read(_HEAD)
    for magic, kind in _NO_TEXT.items():
        if head.startswith(magic):
            raise OnefoldError(f"is no text: it is {kind}; give it the ending of what it is, and land it again")
    found = encoding or _marked(head) or _without_mark(head)
    if found is None or codecs.lookup(found).name in _UTF8:
        looked = _look(path, compression, limit)
        if looked.is_utf8 or encoding:
            found = "utf-8"
        elif found is None:
            found = _guessed(path, compression)
    here = TextFile(path, compression)
    if codecs.lookup(found).name not in _UTF8:
        here = _in_utf8(here, found, folder / "utf8.txt")
        looked = _look(here.path, "none", limit)
    if lines and looked.has_mixed_ends:
        here = _with_one_line_end(here, folder / "lines.txt")
    return _with_head(here)


@dataclass
class _Look:
    is_utf8: bool = True
    has_crlf: bool = False
    has_lf: bool = False

    @property
    def has_mixed_ends(self) -> bool:
        return self.has_crlf and self.has_lf


class _Unpacked(io.RawIOBase):
    """Zstandard frames as a stream of bytes. zstandard's own reader takes a frame that is cut off for a whole one."""

    def __init__(self, packed: BinaryIO) -> None:
        import zstandard

        self._packed, self._unpacker = packed, zstandard.ZstdDecompressor()
        self._frame, self._rest, self._ready = None, b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while not self._ready:
            # Few bytes at once, as each block of some may stand for 128 KiB.
            if not (piece := self._rest or self._packed.read(1024)):
                if self._frame and not self._frame.eof:
                    raise EOFError("its last frame has no end")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._unpacker.decompressobj()
            self._ready = self._frame.decompress(piece)
            self._rest = self._frame.unused_data if self._frame.eof else b""
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


@contextmanager
def _opened(path: Path, compression: str) -> Iterator[BinaryIO]:
    """The unpacked bytes of a file."""
    import zstandard

    try:
        match compression:
            case "gzip":
                with gzip.open(path, "rb") as stream:
                    yield stream
            case "zstd":
                with path.open("rb") as packed, io.BufferedReader(_Unpacked(packed)) as stream:
                    yield stream
            case _:
                with path.open("rb") as stream:
                    yield stream
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError, EOFError) as error:
        raise OnefoldError(f"is damaged or cut off, it cannot be unpacked ({error}); pack or transfer it again") from error


def _chunks(stream: BinaryIO, whole_ends: bool = False) -> Iterator[bytes]:
    """The bytes piece by piece; with whole ends, a return and its line feed are in the same piece."""
    kept = b""
    while chunk := stream.read(_CHUNK):
        chunk = kept + chunk
        kept = b"\r" if whole_ends and chunk.endswith(b"\r") else b""
        yield chunk[: len(chunk) - len(kept)]
    if kept:
        yield kept


def _look(path: Path, compression: str, limit: int | None) -> _Look:
    """Look through all bytes once: whether they are UTF-8, how lines end, and whether one is too long."""
    look, decoder = _Look(), codecs.getincrementaldecoder("utf-8")()
    length, number, ended_in_return = 0, 1, False
    with _opened(path, compression) as stream:
        for chunk in _chunks(stream):
            if look.is_utf8 and not (chunk.isascii() and not decoder.getstate()[0]):
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    look.is_utf8 = False
            has_return = b"\r" in chunk
            end = b"\r" if has_return and b"\n" not in chunk else b"\n"  # files of old Macs end lines so
            first = chunk.find(end)
            length += len(chunk) if first < 0 else first
            if limit and length > limit:
                raise OnefoldError(
                    f"has a line of more than {limit // 2**20} MiB, line {number} or later; that is no record: "
                    "repair the export, so that each record ends in a line feed"
                )
            if first >= 0:
                length = len(chunk) - chunk.rfind(end) - 1
                number += 1
            if not look.has_mixed_ends:
                both = chunk.count(b"\r\n") if has_return else 0
                both += ended_in_return and chunk.startswith(b"\n")
                look.has_crlf |= both > 0
                look.has_lf |= (chunk.count(b"\n") > both) if both else end == b"\n" and first >= 0
            ended_in_return = chunk.endswith(b"\r")
    with_rest = decoder.getstate()[0]
    look.is_utf8 &= not with_rest
    return look


def _marked(head: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)


def _without_mark(head: bytes) -> str | None:
    """UTF-16, if at least one in twenty pairs holds a NUL and nearly always at the same of its two places."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if zeros >= max(1, len(head) // 40) and zeros >= 10 * others:
            return encoding
    return None


def _guessed(path: Path, compression: str) -> str:
    """The encoding of a file that is not UTF-8 throughout."""
    as_utf8, as_chinese = codecs.getincrementaldecoder("utf-8")("replace"), codecs.getincrementaldecoder("gb18030")()
    sound = broken = foreign = common = 0
    is_chinese, is_western = True, True
    with _opened(path, compression) as stream:
        for chunk in _chunks(stream):
            text = as_utf8.decode(chunk)
            replaced = text.count("\ufffd")
            sound, broken = sound + _beyond_ascii(text) - replaced, broken + replaced
            is_western = is_western and not chunk.translate(None, delete=_WESTERN)
            if is_chinese:
                try:
                    text = as_chinese.decode(chunk)
                except UnicodeDecodeError:
                    is_chinese = False
                    continue
                beyond = _beyond_ascii(text)
                foreign += beyond
                common += (len(text.encode("gb2312", "ignore")) - (len(text) - beyond)) // 2
    if sound > broken:
        return "utf-8"  # with broken lines, which go to quarantine
    if is_chinese and not as_chinese.getstate()[0] and common * 2 >= foreign:
        return "gb18030"
    return "cp1252" if is_western else "latin-1"


_WESTERN = bytes(set(range(256)) - {0x81, 0x8D, 0x8F, 0x90, 0x9D})  # the bytes that Windows-1252 defines


def _beyond_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))


def _in_utf8(file: TextFile, encoding: str, target: Path) -> TextFile:
    """An unpacked copy in UTF-8."""
    decoder, done = codecs.getincrementaldecoder(encoding)(), 0
    with _opened(file.path, file.compression) as stream, target.open("wb") as copy:
        try:
            for chunk in _chunks(stream):
                copy.write(decoder.decode(chunk).encode())
                done += len(chunk)
            copy.write(decoder.decode(b"", True).encode())
        except UnicodeError as error:
            raise OnefoldError(
                f"is not in the encoding {encoding} (after byte {done}); say the right one as `encoding` in its source, "
                "or export the file again in UTF-8"
            ) from error
    return TextFile(target, "none")


def _with_one_line_end(file: TextFile, target: Path) -> TextFile:
    """An unpacked copy in which lines end in a line feed alone; what stands between quotes is left as it is."""
    is_quoted = False
    with _opened(file.path, file.compression) as stream, target.open("wb") as copy:
        for chunk in _chunks(stream, whole_ends=True):
            pieces = chunk.split(b'"')
            for number in range(int(is_quoted), len(pieces), 2):
                pieces[number] = pieces[number].replace(b"\r\n", b"\n")
            is_quoted ^= len(pieces) % 2 == 0
            copy.write(b'"'.join(pieces))
    return TextFile(target, "none")


def _with_head(file: TextFile) -> TextFile:
    with _opened(file.path, file.compression) as stream:
        head = stream.read(_HEAD)
        while not (b"\n" in head or b"\r" in head) and len(head) <= LONGEST_LINE and (more := stream.read(_CHUNK)):
            head += more
        is_whole = not stream.read(1)
    return TextFile(file.path, file.compression, head.decode("utf-8-sig", "replace"), is_whole)
