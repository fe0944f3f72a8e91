"""The errors that a person is meant to read."""

import re


class OnefoldError(Exception):
    """Something a user can put right; the message names the thing, the place and the remedy."""


_HELD = re.compile(r'Could not set lock on file "([^"]+)"(?:.*held in (.+?) \(PID (\d+)\))?', re.S)
_REMEDIES = {
    r"no space left on device|database or disk is full|disk quota exceeded|max_temp_directory_size": (
        "the disk is full: free space on it (docs/operate.md says what may go) and run the same command again; what was "
        "finished stays, what was not is done then"
    ),
    # SQLite's words also for a full disk, where it keeps its index of the log in memory that the disk backs.
    r"disk i/o error": (
        "the disk is full or fails: free space on it, look at the machine's log, and run the same command again; what was "
        "finished stays, what was not is done then"
    ),
    r"out of memory error|cannot allocate memory": (
        "the machine's memory is used up: close other programs or give it more, and run the same command again"
    ),
}


def remedy(text: str) -> str | None:
    """What to do about a fault of the machine that an error's text tells of; None if it is another kind of error."""
    if held := _HELD.search(text):
        file, program, process = held.groups()
        holder = f"{program} (process {process})" if process else "another program"
        return (
            f"{holder} has {file} open, which shuts everybody else out: close it there and run the same command again. "
            "To look at the tables, open serving/current/onefold.duckdb instead: it may stay open"
        )
    return next((what for sign, what in _REMEDIES.items() if re.search(sign, text, re.I)), None)


def told(error: BaseException | None) -> str | None:
    """An error's words and the remedy, where the machine is to blame for it or for what led to it; else None."""
    while error is not None:
        if remedy(str(error)):
            return with_remedy(str(error).splitlines()[0])
        error = error.__cause__ or error.__context__
    return None


def with_remedy(text: str) -> str:
    """An error's text, and what to do where the machine is to blame."""
    advice = remedy(text)
    return text if advice is None or advice in text else f"{text}\n{advice}"
