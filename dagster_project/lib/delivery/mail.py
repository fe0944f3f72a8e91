"""E-mail by SMTP (RFC 5321): one message to each member who is added."""

import contextlib
import hashlib
import json
import re
import smtplib
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from typing import Any, Literal

from dagster_project.lib.delivery.destination import (
    ACCEPTED,
    NO_IDENTIFIER,
    Operation,
    Outcome,
    Refused,
    Result,
    Row,
    Unavailable,
    rejected,
    try_again,
)
from dagster_project.lib.delivery.wording import UNFIT, template

Security = Literal["starttls", "tls", "none"]
PORTS: dict[Security, int] = {"starttls": 587, "tls": 465, "none": 25}

_TIMEOUT = 60.0
_GREY = 60.0  # seconds after which a server that takes nobody at first (greylisting) may take a message
_SAFE = policy.SMTP.clone(cte_type="7bit")  # base64 and quoted-printable, which any server passes on
_INTERNATIONAL = policy.SMTPUTF8.clone(cte_type="7bit")


@dataclass(frozen=True)
class Server:
    """Where messages are handed in."""

    host: str
    port: int
    security: Security = "starttls"
    login: tuple[str, str] | None = None

    def connect(self) -> smtplib.SMTP:
        """A connection, encrypted and logged in as configured.

        Raises:
            Unavailable: the server is not there now.
            Refused: it does not let in, or its certificate is not valid.
        """
        where = f"the mail server {self.host}:{self.port}"
        smtp: smtplib.SMTP | None = None
        try:
            if self.security == "tls":
                smtp = smtplib.SMTP_SSL(self.host, self.port, timeout=_TIMEOUT, context=ssl.create_default_context())
            else:
                smtp = smtplib.SMTP(self.host, self.port, timeout=_TIMEOUT)
            smtp.ehlo_or_helo_if_needed()
            if self.security == "starttls":
                smtp.starttls(context=ssl.create_default_context())
                smtp.ehlo()
            if self.login:
                smtp.login(*self.login)
            return smtp
        except UnicodeEncodeError:
            smtp.close()
            raise Refused(f"user and password for {where} may have letters a to z, digits and signs only") from None
        except OSError as error:  # smtplib's own are such, too
            if smtp is not None:
                smtp.close()
            code = getattr(error, "smtp_code", None)
            if isinstance(error, ssl.SSLCertVerificationError):
                raise Refused(f"the certificate of {where} is not valid for it: {error.verify_message}") from None
            if isinstance(error, smtplib.SMTPNotSupportedError):
                raise Refused(f"{where} offers no {'log-in' if 'AUTH' in str(error) else 'STARTTLS'}; see `security`") from None
            if isinstance(code, int) and code >= 500:
                raise Refused(f"{where} does not let in (SMTP {code}): check user, password, address and port") from None
            told = f"SMTP {code}" if code else type(error).__name__
            raise Unavailable(f"no connection to {where} ({told})", is_certain=True) from None


class Unwritable(ValueError):  # noqa: N818
    """A member's message that cannot be sent, for a reason that quotes nothing of theirs."""


class Letter:
    """What is written to a member.

    Args:
        to: the column with the address.
        subject, text, html, unsubscribe: Jinja templates over the columns, `audience` and `unsubscribe_url`.
        unsubscribe: the address of the page that ends such messages; for List-Unsubscribe (RFC 2369, 8058).

    Raises:
        ValueError: a template or an address of the sender is wrong; begins with the key that it is.
    """

    def __init__(
        self,
        *,
        columns: Sequence[str],
        to: str,
        sender: str,
        subject: str,
        text: str | None = None,
        html: str | None = None,
        reply_to: str | None = None,
        unsubscribe: str | None = None,
    ) -> None:
        self.to = to
        self.sender = _named("from", sender)
        self._reply_to = _named("reply_to", reply_to) if reply_to else None
        known = {*columns, "audience"}
        self._unsubscribe = _compiled("unsubscribe", unsubscribe, known)
        if unsubscribe:
            known |= {"unsubscribe_url"}
        self._subject = _compiled("subject", subject, known)
        self._text = _compiled("text", text, known)
        self._html = _compiled("html", html, known, is_html=True)

    def written(self, row: Row, audience: str, message_id: str) -> tuple[str, bytes]:
        """The address, and the message as it goes through SMTP.

        Raises:
            Unwritable: there is no address, or `unsubscribe` gives none.
            Exception: of `wording.UNFIT`: a template cannot be filled.
        """
        address = _address(row.get(self.to))
        values: dict[str, Any] = {**row, "audience": audience}
        url = self._unsubscribe(values).strip() if self._unsubscribe else None
        if url is not None and not re.fullmatch(r"[!-;=?-~]+", url):  # a header's: visible ASCII and no angle brackets
            raise Unwritable("unsubscribe is no URL")
        values["unsubscribe_url"] = url
        message = EmailMessage(policy=_SAFE if address.isascii() else _INTERNATIONAL)
        message["From"] = self.sender
        local, _, domain = address.rpartition("@")
        message["To"] = Address(username=local, domain=domain)
        if self._reply_to:
            message["Reply-To"] = self._reply_to
        message["Subject"] = " ".join(self._subject(values).split())  # no line break, so that no value makes a header
        message["Date"] = formatdate(usegmt=True)
        message["Message-ID"] = message_id
        message["Auto-Submitted"] = "auto-generated"
        if self._text:
            message.set_content(self._text(values))
        if self._html:
            add = message.add_alternative if self._text else message.set_content
            add(self._html(values), subtype="html")
        content = message.as_bytes()
        if url:  # by hand: a long URL would be folded into what no mail program reads
            one_click = "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" if url.startswith("https://") else ""
            content = f"List-Unsubscribe: <{url}>\r\n{one_click}".encode() + content
        return address, content


class Mail:
    """Sends each member who is added one message; who changes or leaves is sent nothing.

    A message cannot be taken back, so each is a batch of its own: whatever is killed or cut off, one message alone is
    uncertain. Its Message-ID is made from batch and row, so that one that was sent again can be recognised.
    """

    batch_size = 1
    semantics: Literal["appends"] = "appends"

    def __init__(
        self,
        server: Server,
        letter: Letter,
        audience: str,
        columns: tuple[str, ...],
        keyed_by: tuple[str, ...],
        bounces: str | None = None,
    ) -> None:
        self.columns, self.keyed_by, self.audience = columns, keyed_by, audience
        self._server, self._letter = server, letter
        self._envelope_sender = bounces or f"{letter.sender.username}@{letter.sender.domain}"
        self._smtp: smtplib.SMTP | None = None

    def send(self, operation: Operation, rows: Sequence[Row], key: str) -> Outcome:
        """Send a member's message; see Destination.send. The request's id is the Message-ID."""
        if operation != "add":
            return Outcome(None, [ACCEPTED] * len(rows))
        results: list[Result] = []
        for row in rows:  # one, unless they were planned for a destination of another kind
            message_id = self._message_id(row, key)
            try:
                results.append(self._send(row, message_id))
            except Unavailable as error:
                if not results or not error.is_certain:
                    raise
                results += [try_again(str(error), error.after)] * (len(rows) - len(results))
                break
        return Outcome(message_id, results)

    def close(self) -> None:
        """End the connection."""
        smtp, self._smtp = self._smtp, None
        if smtp is not None:
            with contextlib.suppress(OSError):
                smtp.quit()
            smtp.close()

    def _message_id(self, row: Row, key: str) -> str:
        batch = key.partition(".")[0]  # the same for a row that was asked for again
        named = json.dumps([row.get(name) for name in self.keyed_by], ensure_ascii=False)
        return f"<{hashlib.sha256(f'{batch} {named}'.encode()).hexdigest()[:40]}@{self._letter.sender.domain}>"

    def _send(self, row: Row, message_id: str) -> Result:
        try:
            address, content = self._letter.written(row, self.audience, message_id)
        except Unwritable as error:
            return rejected(str(error))
        except UNFIT as error:  # its text may quote a value
            return rejected(f"the message cannot be written ({type(error).__name__})")
        is_kept = self._smtp is not None
        try:
            return self._hand_in(address, content)
        except _Lost:
            self.close()
            if is_kept:  # servers end connections that were idle or had many messages
                with contextlib.suppress(_Lost):
                    return self._hand_in(address, content)
                self.close()
            raise Unavailable("the mail server ended the connection before the message", is_certain=True) from None

    def _hand_in(self, address: str, content: bytes) -> Result:
        if self._smtp is None:
            self._smtp = self._server.connect()
        smtp = self._smtp
        options = [] if address.isascii() else ["SMTPUTF8"]
        if options and not smtp.has_extn("smtputf8"):
            return rejected("the mail server takes no address with letters other than a to z")
        with _losing():
            code, words = smtp.mail(self._envelope_sender, options)
            if code == 421:
                raise _Lost
            if code >= 500:
                self.close()
                raise Refused(f"the mail server takes no message from the address in `from` ({_told(code, words)})")
            if code != 250:
                self.close()
                raise Unavailable(f"the mail server takes no message now ({_told(code, words)})", is_certain=True)
            code, words = smtp.rcpt(address)
            if code in (250, 251):
                code, words = smtp.docmd("DATA")
            if code == 421:
                raise _Lost
            if code == 530:
                self.close()
                raise Refused(f"the mail server wants a log-in ({_told(code, words)}); set username and password")
            if code != 354:
                smtp.rset()
                return _judged(code, words)
        try:
            smtp.send(re.sub(rb"(?m)^\.", b"..", content) + b".\r\n")
            code, words = smtp.getreply()
        except OSError as error:
            self.close()
            raise Unavailable(f"the connection was lost while a message was sent ({type(error).__name__})") from None
        if code < 200:
            self.close()
            raise Unavailable("the mail server's answer to a message was none of SMTP")
        return _judged(code, words)


class _Lost(Exception):  # noqa: N818
    """The connection ended before a message was sent."""


@contextlib.contextmanager
def _losing() -> Any:
    try:
        yield
    except OSError as error:
        raise _Lost from error


def _judged(code: int, words: bytes) -> Result:
    if 200 <= code < 300:
        return ACCEPTED
    return try_again(_told(code, words), _GREY) if 400 <= code < 500 else rejected(_told(code, words))


def _told(code: int, words: bytes) -> str:
    """A reply's numbers (RFC 3463), without its text, which quotes addresses."""
    status = re.match(rb"[245]\.\d{1,3}\.\d{1,3}\b", words or b"")
    return f"SMTP {code} {status[0].decode()}" if status else f"SMTP {code}"


def _compiled(key: str, text: str | None, known: set[str], is_html: bool = False) -> Callable[[Mapping[str, Any]], str] | None:
    if text is None:
        return None
    try:
        return template(text, known, is_html)
    except ValueError as error:
        raise ValueError(f"{key} {error}") from error


def _named(key: str, given: str) -> Address:
    """An address with or without a name, such as `小店 <news@example.com>`."""
    name, address = parseaddr(given)
    try:
        local, _, domain = _address(address).rpartition("@")
        return Address(name, local, domain)
    except ValueError:
        raise ValueError(f"{key}: '{given}' is no e-mail address, such as Shop <news@example.com>") from None


def _address(given: object) -> str:
    """An address as SMTP takes it, the domain in ASCII.

    Raises:
        Unwritable: it is none.
    """
    local, at, domain = str(given or "").strip().rpartition("@")
    try:
        domain = domain if domain.isascii() else domain.encode("idna").decode()
        if at and re.fullmatch(r"[^\s<>()\[\],;:\\\"@\x00-\x1f\x7f]+", local) and re.fullmatch(r"[A-Za-z0-9.-]+", domain):
            return f"{local}@{domain}"
    except ValueError:  # of which errors of encoding are some
        pass
    raise Unwritable(NO_IDENTIFIER)
