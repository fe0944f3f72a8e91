"""E-mail: what a real SMTP server gets, and what follows when it says no, later, or nothing."""

import asyncio
import email
import email.policy
import functools
import re
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from conformance import Conforms, Place, deliver
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dagster_project.lib.delivery.configuration import load_destinations
from dagster_project.lib.delivery.destination import ACCEPTED, Refused, Unavailable, rejected, try_again
from dagster_project.lib.delivery.ledger import Ledger
from dagster_project.lib.delivery.mail import Letter, Mail, Server
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home

COLUMNS = ("customer_id", "email", "first_name")
ROWS = [
    {"customer_id": "a", "email": "ann@example.com", "first_name": "Ann"},
    {"customer_id": "b", "email": "bo@example.com", "first_name": None},
    {"customer_id": "c", "email": "wang@example.cn", "first_name": "小明"},
]


class Box:
    """The handler of a real SMTP server; keeps messages and answers as it is told."""

    def __init__(self) -> None:
        self.messages: list[tuple[Session, Envelope, EmailMessage]] = []
        self.says: dict[str, list[str | None]] = {}  # next answers by command; None hangs up, after DATA with the message kept
        self.refused: dict[str, str] = {}  # answers by address
        self.sessions: set[int] = set()

    def _answer(self, server: SMTP, session: Session, command: str, usual: str) -> str:
        self.sessions.add(id(session))
        answer = self.says[command].pop(0) if self.says.get(command) else usual
        if answer is None:
            server.transport.abort()
            return usual
        return answer

    async def handle_MAIL(self, server, session, envelope, address, options):  # noqa: N802
        answer = self._answer(server, session, "MAIL", "250 OK")
        if answer.startswith("250"):
            envelope.mail_from = address
        return answer

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802
        answer = self._answer(server, session, "RCPT", self.refused.get(address, "250 OK"))
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        answer = self._answer(server, session, "DATA", "250 2.0.0 queued as 4F7")
        if server.transport.is_closing() or answer.startswith("250"):
            message = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
            self.messages.append((session, envelope, message))
        return answer

    @property
    def read(self) -> list[EmailMessage]:
        return [message for _, _, message in self.messages]


@pytest.fixture
def box() -> Box:
    return Box()


class Running:
    """A mail server on loopback, in a thread of its own."""

    def __init__(self, box: Box, ssl_context: ssl.SSLContext | None = None, **options: object) -> None:
        self._loop = asyncio.new_event_loop()
        make = functools.partial(SMTP, box, enable_SMTPUTF8=True, loop=self._loop, **options)
        serving = self._loop.create_server(make, "127.0.0.1", 0, ssl=ssl_context)
        self._server = self._loop.run_until_complete(serving)
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        conversations = asyncio.all_tasks() - {asyncio.current_task()}
        for task in conversations:
            task.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)


@pytest.fixture
def start(box: Box) -> Iterator:
    """Starts servers; each call gives a port."""
    running: list[Running] = []

    def begin(**options: object) -> int:
        running.append(Running(box, **options))
        return running[-1].port

    begin.stop = lambda: running.pop().stop()
    yield begin
    for server in running:
        server.stop()


def letter(**options: object) -> Letter:
    given = {
        "sender": "小店 <news@shop.example>",
        "subject": "Hello {{ first_name or 'you' }}",
        "text": "您好 {{ first_name }}\n",
    }
    return Letter(columns=COLUMNS, to="email", **(given | options))


def mail(port: int, security: str = "none", login: tuple[str, str] | None = None, **options: object) -> Mail:
    return Mail(Server("127.0.0.1", port, security, login), letter(**options), "regulars", COLUMNS, ("customer_id",))


# ------------------------------------------------------------------ like every destination


class MailPlace(Place):
    rows = ROWS
    removes = False  # nobody can take a message back

    def __init__(self, box: Box, start) -> None:
        self.box, self.start, self.port = box, start, start()

    def open(self) -> Mail:
        return mail(self.port)

    def content(self) -> list[str]:
        customers = {row["email"]: row["customer_id"] for row in ROWS}
        return [customers[message["To"]] for message in self.box.read]

    def refuse(self, customer_id: str) -> None:
        (address,) = (row["email"] for row in ROWS if row["customer_id"] == customer_id)
        self.box.refused[address] = f"550 5.1.1 <{address}> is unknown"

    def leave(self) -> None:
        self.start.stop()


class TestMail(Conforms):
    @pytest.fixture
    def place(self, box: Box, start) -> MailPlace:
        return MailPlace(box, start)


# ------------------------------------------------------------------ what is written


def test_a_message_has_its_member_s_values_in_text_and_html(box: Box, start) -> None:
    destination = mail(
        start(),
        html='<p title="{{ first_name }}">{{ first_name }}</p>',
        subject="{{ first_name }}，你好：{{ audience }}",
        reply_to="help@shop.example",
    )
    row = {**ROWS[2], "first_name": "小明<b>&\"'"}
    assert destination.send("add", [row], "k").results == [ACCEPTED]
    (message,) = box.read
    assert message["From"] == "小店 <news@shop.example>"
    assert (message["To"], message["Reply-To"]) == ("wang@example.cn", "help@shop.example")
    assert message["Subject"] == "小明<b>&\"'，你好：regulars"
    assert message.get_body(("plain",)).get_content() == "您好 小明<b>&\"'\r\n"
    assert message.get_body(("html",)).get_content().strip() == (
        '<p title="小明&lt;b&gt;&amp;&#34;&#39;">小明&lt;b&gt;&amp;&#34;&#39;</p>'
    )
    assert abs(datetime.now(UTC) - message["Date"].datetime) < timedelta(minutes=1)
    assert message["Auto-Submitted"] == "auto-generated"
    (raw,) = (envelope.original_content for _, envelope, _ in box.messages)
    assert raw.isascii()
    assert max(map(len, raw.split(b"\r\n"))) <= 998


def test_nothing_in_a_row_makes_a_header_or_another_recipient(box: Box, start) -> None:
    row = {"customer_id": "a", "email": "ann@example.com", "first_name": "x\r\nBcc: spy@example.com\r\n\r\nbody"}
    destination = mail(start(), subject="Hello {{ first_name }}")
    destination.send("add", [row], "k")
    for address in ("ann@example.com\r\nRCPT TO:<spy@example.com>", "ann@example.com, spy@example.com", "<x@y.z>", None, "ann"):
        outcome = destination.send("add", [{**row, "email": address}], "k")
        assert outcome.results == [rejected("no usable identifier")]
    (message,) = box.read
    assert message["Bcc"] is None
    assert message["Subject"] == "Hello x Bcc: spy@example.com body"
    assert [envelope.rcpt_tos for _, envelope, _ in box.messages] == [["ann@example.com"]]


def test_lines_of_dots_arrive_as_they_are(box: Box, start) -> None:
    mail(start(), text=".\n..\nend\n.").send("add", ROWS[:1], "k")
    assert box.read[0].get_content().splitlines() == [".", "..", "end", "."]


def test_unsubscribing_is_a_link_and_one_click(box: Box, start) -> None:
    url = "https://shop.example/unsubscribe/" + "x" * 120 + "?c={{ customer_id | urlencode }}"
    destination = mail(start(), unsubscribe=url, text="Stop: {{ unsubscribe_url }}")
    destination.send("add", [{**ROWS[0], "customer_id": "a b"}], "k")
    wanted = "https://shop.example/unsubscribe/" + "x" * 120 + "?c=a%20b"
    (message,) = box.read
    assert message["List-Unsubscribe"] == f"<{wanted}>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert message.get_content().strip() == f"Stop: {wanted}"
    broken = mail(start(), unsubscribe="https://shop.example/{{ first_name }}")
    outcome = broken.send("add", [{**ROWS[0], "first_name": "a>\r\nBcc: x@y.z"}], "k")
    assert outcome.results == [rejected("unsubscribe is no URL")]


def test_a_message_id_is_the_same_for_whoever_sends_it_again_and_for_nobody_else(box: Box, start) -> None:
    port = start()
    sent = [mail(port).send("add", [row], key).request_id for key in ("k-1", "k-1.2", "k-2") for row in ROWS[:2]]
    assert [message["Message-ID"] for message in box.read] == sent
    assert sent[:2] == sent[2:4]
    assert len(set(sent)) == 4
    assert re.fullmatch(r"<[0-9a-f]{40}@shop\.example>", sent[0])


def test_addresses_with_other_letters_go_where_the_server_takes_them(box: Box, start) -> None:
    destination = mail(start())
    rows = [{**ROWS[0], "email": "用户@例子.cn"}, {**ROWS[0], "email": "user@例子.cn"}]
    assert destination.send("add", rows[:1], "k").results == [ACCEPTED]
    assert destination.send("add", rows[1:], "k").results == [ACCEPTED]
    assert [envelope.rcpt_tos for _, envelope, _ in box.messages] == [["用户@xn--fsqu00a.cn"], ["user@xn--fsqu00a.cn"]]
    assert box.read[0]["To"] == "用户@xn--fsqu00a.cn"


def test_a_template_reaches_nothing_but_the_row(start) -> None:
    secret = mail(start(), text="{{ first_name.__class__.__mro__ }}")
    (result,) = secret.send("add", [ROWS[0]], "k").results
    assert result == rejected("the message cannot be written (SecurityError)")


def test_a_template_that_does_not_fit_one_member_is_that_member_s_letter(box: Box, start) -> None:
    destination = mail(start(), text="{{ first_name[0] }}")
    statuses = [destination.send("add", [row], "k").results[0].status for row in ROWS]
    assert statuses == ["accepted", "rejected", "accepted"]
    numbers = mail(start(), text="{{ 1000 // (first_name | length) }}{{ '%d' | format(first_name) }}")
    assert numbers.send("add", ROWS[:1], "k").results == [rejected("the message cannot be written (TypeError)")]


def test_who_changes_or_leaves_is_sent_nothing(box: Box, start) -> None:
    destination = mail(start())
    for operation in ("update", "remove"):
        assert destination.send(operation, ROWS, "k").results == [ACCEPTED] * 3
    assert box.read == []


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("command", ["RCPT", "DATA"])
@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("450 4.2.1 <ann@example.com> is busy", try_again("SMTP 450 4.2.1", 60)),
        ("451 greylisted", try_again("SMTP 451", 60)),
        ("550 5.1.1 <ann@example.com> is unknown", rejected("SMTP 550 5.1.1")),
        ("554 no", rejected("SMTP 554")),
    ],
)
def test_a_message_that_is_not_taken_is_tried_again_or_rejected_by_its_code(box: Box, start, command, answer, result) -> None:
    box.says[command] = [answer]
    destination = mail(start())
    assert destination.send("add", ROWS[:1], "k").results == [result]
    assert destination.send("add", ROWS[1:2], "k").results == [ACCEPTED]
    assert len(box.sessions) == 1


@pytest.mark.parametrize(
    ("command", "answer"), [("MAIL", "421 too many"), ("MAIL", "452 full"), ("MAIL", None), ("RCPT", None), ("RCPT", "421 bye")]
)
def test_a_connection_that_ends_before_the_message_has_certainly_sent_nothing(box: Box, start, command, answer) -> None:
    box.says[command] = [answer]
    destination = mail(start())
    with pytest.raises(Unavailable) as raised:
        destination.send("add", ROWS[:1], "k")
    assert raised.value.is_certain
    assert destination.send("add", ROWS[:1], "k").results == [ACCEPTED]


def test_a_kept_connection_that_has_ended_is_made_anew_at_once(box: Box, start) -> None:
    destination = mail(start())
    destination.send("add", ROWS[:1], "k")
    box.says["MAIL"] = ["421 idle for too long"]
    assert destination.send("add", ROWS[1:2], "k").results == [ACCEPTED]
    box.says["RCPT"] = [None]
    assert destination.send("add", ROWS[2:], "k").results == [ACCEPTED]
    assert len(box.read) == 3


def test_a_connection_that_ends_with_the_message_leaves_that_one_uncertain_and_the_others_not(
    home: Home, box: Box, start
) -> None:
    destination = mail(start())
    box.says["DATA"] = ["250 OK", None]  # it arrives, and nobody hears so
    report = deliver(home, destination, ROWS)
    assert (report.accepted, report.uncertain, report.is_finished) == (2, 1, False)
    assert sorted(message["To"] for message in box.read) == sorted(row["email"] for row in ROWS)
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "there")
        (doubtful,) = ledger.uncertain(target)
        assert [row.customer_id for row in ledger.rows_of(doubtful)] == ["b"]
        ledger.settle(target, doubtful.key, was_sent=False)
    assert deliver(home, destination, ROWS).is_finished
    ids = [message["Message-ID"] for message in box.read if message["To"] == "bo@example.com"]
    assert len(ids) == 2 and len(set(ids)) == 1  # whoever reads the log of the server sees that they are one


def test_a_server_that_stops_answering_is_left_before_everybody_is_uncertain(home: Home, box: Box, start) -> None:
    rows = [{"customer_id": name, "email": f"{name}@example.com", "first_name": name} for name in "abc"]
    box.says["DATA"] = [None] * 3
    report = deliver(home, mail(start()), rows)
    assert report.uncertain == 3
    assert len(box.read) == 3


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:]])
def test_more_rows_than_one_are_answered_for_one_by_one(box: Box, start, rows) -> None:
    box.says["MAIL"] = ["250 OK", "452 full"]  # as are of batches that were planned for another kind of destination
    results = mail(start()).send("add", rows, "k").results
    assert [result.status for result in results] == ["accepted", *["try again"] * (len(rows) - 1)]


def test_a_sender_that_the_server_does_not_take_is_nobody_s_dead_letter(box: Box, start) -> None:
    box.says["MAIL"] = ["553 5.7.1 not your address"]
    with pytest.raises(Refused, match=r"`from` \(SMTP 553 5.7.1\)"):
        mail(start()).send("add", ROWS[:1], "k")


def test_a_server_that_wants_a_log_in_says_so(box: Box, start) -> None:
    box.says["RCPT"] = ["530 5.7.0 authentication required"]
    with pytest.raises(Refused, match="username and password"):
        mail(start()).send("add", ROWS[:1], "k")


# ------------------------------------------------------------------ encryption and log-in


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for this machine and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("certificate") / "server.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


def _context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def _let_in(server, session, envelope, mechanism, data) -> AuthResult:
    is_right = (data.login, data.password) == (b"shop", b"open sesame")
    return AuthResult(success=is_right, handled=False)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_messages_go_encrypted_with_a_log_in(box: Box, start, certificate, monkeypatch, security) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    options = {"authenticator": _let_in}
    if security == "starttls":
        port = start(tls_context=_context(certificate), require_starttls=True, auth_required=True, **options)
    else:
        port = start(ssl_context=_context(certificate), auth_require_tls=False, **options)
    destination = mail(port, security, ("shop", "open sesame"))
    assert destination.send("add", ROWS[:1], "k").results == [ACCEPTED]
    ((session, _, _),) = box.messages
    assert session.ssl is not None or security == "tls"
    destination.close()
    with pytest.raises(Refused, match=r"SMTP 535.*check user, password"):
        mail(port, security, ("shop", "wrong")).send("add", ROWS[:1], "k")
    with pytest.raises(Refused, match="letters a to z"):
        mail(port, security, ("shop", "密码")).send("add", ROWS[:1], "k")


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_that_nobody_vouches_for_gets_nothing(box: Box, start, certificate, security) -> None:
    context = {"tls_context" if security == "starttls" else "ssl_context": _context(certificate)}
    with pytest.raises(Refused, match=r"certificate of the mail server 127\.0\.0\.1"):
        mail(start(**context), security).send("add", ROWS[:1], "k")
    assert box.sessions == set()


def test_a_server_without_encryption_gets_nothing(box: Box, start) -> None:
    with pytest.raises(Refused, match="offers no STARTTLS"):
        mail(start(), "starttls").send("add", ROWS[:1], "k")
    assert box.sessions == set()


# ------------------------------------------------------------------ configuration

GOOD = """
kind: smtp
host: smtp.example.com
username: {env: SMTP_USER}
password: {env: SMTP_PASSWORD}
from: 小店 <news@shop.example>
subject: "{{ first_name }}，我们想念您"
text: "您好 {{ first_name }}"
audiences: [regulars, lapsed]
columns: [customer_id, email, first_name]
"""


def configured(home: Home, text: str):
    folder = home.path / "destinations"
    folder.mkdir(exist_ok=True)
    (folder / "news.yaml").write_text(text)
    return load_destinations(home, {"regulars", "lapsed"}, {"customer_id", "email", "first_name"})["news"]


def test_a_home_s_file_makes_the_destination(home: Home, box: Box, start, monkeypatch) -> None:
    (home.path / "destinations").mkdir()
    (home.path / "destinations" / "news.html").write_text("<p>{{ first_name }}</p>")
    text = GOOD.replace("smtp.example.com", f"127.0.0.1\nport: {start()}\nsecurity: none") + "html: {file: news.html}\n"
    text = re.sub(r"(username|password).*\n", "", text) + "bounces: bounces@shop.example\n"
    destination = configured(home, text).open(home, "news", "lapsed")
    assert deliver(home, destination, ROWS).is_finished
    assert [message["Subject"] for message in box.read][2] == "小明，我们想念您"
    assert box.read[2].get_body(("html",)).get_content().strip() == "<p>小明</p>"
    assert {envelope.mail_from for _, envelope, _ in box.messages} == {"bounces@shop.example"}
    (home.path / "destinations" / "news.html").write_text("<p>{{ nobody }}</p>")
    with pytest.raises(OnefoldError, match="destination news: html names 'nobody'"):
        configured(home, text).open(home, "news", "lapsed")
    (home.path / "destinations" / "news.html").unlink()
    with pytest.raises(OnefoldError, match=r"news\.html cannot be read"):
        configured(home, text).open(home, "news", "lapsed")


def test_encryption_is_the_default_and_secrets_are_of_the_environment(home: Home, monkeypatch) -> None:
    found = configured(home, GOOD)
    assert (found.security, found.batch_size, found.is_advertising) == ("starttls", 1, False)
    monkeypatch.delenv("SMTP_USER", raising=False)
    with pytest.raises(OnefoldError, match="SMTP_USER is not set"):
        found.open(home, "news", "lapsed")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "security: none\n", "security: none is for a mail server on this machine"),
        (GOOD.replace("{env: SMTP_PASSWORD}", "hush"), "password: "),
        (re.sub("password.*\n", "", GOOD), "a log-in needs both"),
        (GOOD.replace("text:", "html:").replace("您好 {{ first_name }}", "{{ name }}"), "html names 'name', which is none of"),
        (GOOD.replace("，我们", "{% if %}"), "subject is no template that Jinja understands"),
        (GOOD.replace("news@shop.example", "news"), "from: .* is no e-mail address"),
        (GOOD + "to: mail\n", "to: 'mail' is none of the columns"),
        (GOOD + "key: email\n", "a second message"),
        (GOOD + "batch_size: 50\n", "batch_size"),
        (GOOD + "unsubscribe: http://shop.example\n", "unsubscribe: has to be an https"),
        (GOOD + "html: {file: ../../secret.key}\n", r"html\.file"),
        (re.sub("text:.*\n", "", GOOD), "a message needs a text, html, or both"),
    ],
)
def test_a_wrong_file_says_which_key_is_wrong(home: Home, text: str, words: str) -> None:
    with pytest.raises(OnefoldError, match=words):
        configured(home, text)
