"""Messages to teams through Apprise, to services on loopback."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conformance import Conforms, Place, deliver

from dagster_project.lib.delivery.chat import Chat
from dagster_project.lib.delivery.configuration import load_destinations
from dagster_project.lib.delivery.destination import ACCEPTED, Refused, Unavailable, rejected
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home

COLUMNS = ("customer_id",)
ROWS = [{"customer_id": name} for name in "abc"]


class Room:
    """A chat service; `answers` are statuses of the next requests, then 200."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict]] = []
        self.answers: list[int] = []
        room = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status = room.answers.pop(0) if room.answers else 200
                if status == 0:
                    self.close_connection = True
                    return
                if status == 200:
                    room.got.append((self.path, body))
                self.send_response(status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def read(self) -> list[str]:
        return [body["message"] for _, body in self.got]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    from apprise.plugins.base import NotifyBase

    monkeypatch.setattr(NotifyBase, "request_rate_per_sec", 0)  # it pauses 5.5 s between two messages
    room = Room()
    yield room
    if room.server.fileno() != -1:
        room.stop()


def chat(room: Room, **options: object) -> Chat:
    given = {"columns": COLUMNS, "keyed_by": COLUMNS, "batch_size": 2} | options
    return Chat(f"json://{room.address}/hook", "regulars", **given)


class ChatPlace(Place):
    rows = ROWS
    removes = False
    is_certain = False  # as Apprise does not tell why there was no answer
    refuse = None

    def __init__(self, room: Room) -> None:
        self.room = room

    def open(self) -> Chat:
        return chat(
            self.room, message="{% if operation == 'add' %}{{ rows | map(attribute='customer_id') | join(' ') }}{% endif %}"
        )

    def content(self) -> list[str]:
        return [name for message in self.room.read for name in message.split()]

    def leave(self) -> None:
        self.room.stop()


class TestChat(Conforms):
    @pytest.fixture
    def place(self, room: Room) -> ChatPlace:
        return ChatPlace(room)


def test_one_message_says_how_many_and_nothing_about_whom(home: Home, room: Room) -> None:
    assert deliver(home, chat(room, batch_size=1_000), ROWS).is_finished
    assert deliver(home, chat(room, batch_size=1_000), ROWS[:2]).is_finished
    assert [(body["title"], body["message"]) for _, body in room.got] == [
        ("regulars", "3 customers entered"),
        ("regulars", "1 customer left"),
    ]
    assert not {"a", "b", "c"} & set(json.dumps([body for _, body in room.got]).split('"'))


def test_words_are_one_s_own_and_in_any_language(room: Room) -> None:
    own = chat(
        room, title="人群：{{ audience }}", message="{{ '进入' if operation == 'add' else '离开' }} {{ count }} 人 <b>*_"
    )
    assert own.send("add", ROWS, "k").results == [ACCEPTED] * 3
    assert own.send("update", ROWS, "k").results == [ACCEPTED] * 3
    ((_, body),) = room.got
    assert (body["title"], body["message"]) == ("人群：regulars", "进入 3 人 <b>*_")


def test_wecom_and_slack_get_what_they_understand(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    from apprise.plugins.slack import NotifySlack
    from apprise.plugins.wecombot import NotifyWeComBot

    monkeypatch.setattr(NotifyWeComBot, "notify_url", f"http://{room.address}/wecom?key={{key}}")
    monkeypatch.setattr(NotifySlack, "webhook_url", f"http://{room.address}/slack")
    for url in ("wecombot://BOTKEY", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#crm"):
        destination = Chat(url, "regulars", COLUMNS, COLUMNS, 10)
        assert destination.send("add", ROWS, "k").results == [ACCEPTED] * 3
    (path, wecom), (slack_path, slack) = room.got
    assert path == "/wecom?key=BOTKEY"
    assert wecom == {"msgtype": "text", "text": {"content": "regulars\r\n3 customers entered"}}
    assert slack_path == "/slack/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    assert slack["channel"] == "#crm"
    assert "3 customers entered" in json.dumps(slack)


@pytest.mark.parametrize(
    ("status", "is_certain"), [(429, True), (503, True), (500, False), (502, False), (408, False), (0, False)]
)
def test_what_passes_is_tried_again(room: Room, status: int, is_certain: bool) -> None:
    room.answers = [status]
    destination = chat(room)
    with pytest.raises(Unavailable) as raised:
        destination.send("add", ROWS, "k")
    assert raised.value.is_certain == is_certain
    assert destination.send("add", ROWS, "k").results == [ACCEPTED] * 3


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_what_somebody_has_to_put_right_is_nobody_s_dead_letter(room: Room, status: int) -> None:
    room.answers = [status]
    with pytest.raises(Refused, match=f"answers {status}: check the URL"):
        chat(room).send("add", ROWS, "k")


def test_a_message_that_cannot_be_written_is_rejected(room: Room) -> None:
    broken = chat(room, message="{{ 1 / (count - 3) }}")
    assert broken.send("add", ROWS, "k").results == [rejected("the message cannot be written (ZeroDivisionError)")] * 3


@pytest.mark.parametrize("url", ["nonsense://x", "just words", "", "json://a, json://b"])
def test_a_url_that_is_not_one_service_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(Refused, match="knows no service of that URL") as raised:
        Chat(url, "regulars", COLUMNS, COLUMNS, 10)
    assert "nonsense" not in str(raised.value)


def test_customers_data_go_encrypted_only(room: Room) -> None:
    columns = ("customer_id", "city")
    with pytest.raises(Refused, match="not encrypted"):
        Chat("json://chat.example.com/hook", "regulars", columns, COLUMNS, 10)
    Chat("jsons://chat.example.com/hook", "regulars", columns, COLUMNS, 10)
    Chat("wecombot://BOTKEY", "regulars", columns, COLUMNS, 10)
    Chat("json://chat.example.com/hook", "regulars", COLUMNS, COLUMNS, 10)
    Chat(f"json://{room.address}/hook", "regulars", columns, COLUMNS, 10)


def configured(home: Home, text: str):
    (home.path / "destinations").mkdir(exist_ok=True)
    (home.path / "destinations" / "team.yaml").write_text(text)
    return load_destinations(home, {"regulars"}, {"customer_id", "city"})["team"]


GOOD = "kind: apprise\nurl: {env: TEAM_URL}\naudiences: regulars\n"


def test_a_home_s_file_makes_the_destination(home: Home, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_URL", f"json://{room.address}/hook")
    found = configured(home, GOOD + "message: '{{ count }} 人'\n")
    assert (found.on_uncertain, found.is_advertising) == ("resend", False)
    assert deliver(home, found.open(home, "team", "regulars"), ROWS).is_finished
    assert room.read == ["3 人"]
    monkeypatch.delenv("TEAM_URL")
    with pytest.raises(OnefoldError, match="TEAM_URL is not set"):
        found.open(home, "team", "regulars")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("{env: TEAM_URL}", "wecombot://KEY"), "url: "),
        (GOOD + "message: '{{ names }}'\n", "message names 'names'"),
        (GOOD + "title: '{{'\n", "title is no template"),
    ],
)
def test_a_wrong_file_says_which_key_is_wrong(home: Home, text: str, words: str) -> None:
    with pytest.raises(OnefoldError, match=words):
        configured(home, text)
