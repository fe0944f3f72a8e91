"""Tools through drt-core, on loopback: HubSpot and Klaviyo with their addresses changed, REST APIs and webhooks as they are."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conformance import Conforms, Place, deliver
from drt.destinations import hubspot, klaviyo, rate_limiter

from dagster_project.lib.delivery import tool
from dagster_project.lib.delivery.configuration import load_destinations
from dagster_project.lib.delivery.destination import ACCEPTED, Refused, Unavailable, rejected
from dagster_project.lib.delivery.ledger import Ledger
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home

ROWS = [
    {"customer_id": "a", "email": "ann@example.com", "firstname": "Ann"},
    {"customer_id": "b", "email": "bo@example.com", "firstname": 'Bo "the\nboss'},
    {"customer_id": "c", "email": "wang@example.cn", "firstname": "小明"},
]


class Far:
    """A server that other companies' tools are played on: `act` gets method, path, headers and JSON."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, dict, object]] = []
        self.answers: list[tuple[int, dict, object]] = []  # of the next requests, before `act` is asked
        self.act = lambda method, path, headers, body: (200, {})
        far = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                try:
                    body = json.loads(raw)
                except ValueError:
                    body = raw.decode()
                headers = {name.lower(): value for name, value in self.headers.items()}
                far.got.append((self.command, self.path, headers, body))
                if far.answers:
                    status, extra, answer = far.answers.pop(0)
                else:
                    (status, answer), extra = far.act(self.command, self.path, headers, body), {}
                if status == 0:  # hang up without a word
                    self.close_connection = True
                    return
                data = b"" if status == 204 else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **extra, "content-length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class HubSpot:
    """Contacts by e-mail, as the CRM API has them: a POST makes one or says 409, a PATCH changes one."""

    def __init__(self, far: Far) -> None:
        self.contacts: dict[str, dict] = {}
        self.invalid: set[str] = set()
        far.act = self._act

    def _act(self, method: str, path: str, headers: dict, body: dict) -> tuple[int, object]:
        if headers.get("authorization") != "Bearer pat-test":
            return 401, {"status": "error", "category": "INVALID_AUTHENTICATION"}
        properties = body["properties"]
        if not all(isinstance(value, str | None) for value in properties.values()):
            return 400, {"status": "error", "category": "VALIDATION_ERROR", "message": f"{properties} has what is no text"}
        if method == "POST":
            address = properties["email"]
            if address in self.invalid:
                return 400, {"status": "error", "message": f"{address} is invalid", "category": "VALIDATION_ERROR"}
            if address in self.contacts:
                return 409, {"status": "error", "category": "CONFLICT"}
            self.contacts[address] = dict(properties)
            return 201, {"id": "1"}
        address = path.rpartition("/")[2].partition("?")[0]
        self.contacts[address] |= properties
        return 200, {"id": "1"}


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    far = Far()
    monkeypatch.setattr(hubspot, "_HUBSPOT_API", f"{far.url}/crm/v3/objects")
    monkeypatch.setattr(klaviyo, "_BASE", f"{far.url}/api")
    monkeypatch.setattr(rate_limiter.RateLimiter, "acquire", lambda self: None)  # nine rows a second
    for name, value in {"HUBSPOT_TOKEN": "pat-test", "KLAVIYO_API_KEY": "pk", "CHAT": f"{far.url}/chat"}.items():
        monkeypatch.setenv(name, value)
    yield far
    if far.server.fileno() != -1:
        far.stop()


COLUMNS = "columns: [customer_id, email, firstname]\naudiences: regulars\n"
HUBSPOT = f"""
kind: drt
destination: {{type: hubspot, auth: {{type: bearer, token: {{env: HUBSPOT_TOKEN}}}}}}
membership: in_{{audience}}
key: email
{COLUMNS}"""


def configured(home: Home, text: str):
    (home.path / "destinations").mkdir(exist_ok=True)
    (home.path / "destinations" / "crm.yaml").write_text(text)
    return load_destinations(home, {"regulars", "lapsed"}, {"customer_id", "email", "firstname"})["crm"]


def opened(home: Home, text: str, audience: str = "regulars"):
    return configured(home, text).open(home, "crm", audience)


# ------------------------------------------------------------------ like every destination


class HubSpotPlace(Place):
    """Members are the contacts whose property says so."""

    rows = ROWS

    def __init__(self, home: Home, far: Far) -> None:
        self.home, self.far, self.tool = home, far, HubSpot(far)
        self.leave = far.stop

    def open(self):
        return opened(self.home, HUBSPOT)

    def content(self) -> list[str]:
        return [one["customer_id"] for one in self.tool.contacts.values() if one["in_regulars"] == "true"]

    def refuse(self, customer_id: str) -> None:
        self.tool.invalid |= {row["email"] for row in ROWS if row["customer_id"] == customer_id}


class TestHubSpot(Conforms):
    @pytest.fixture
    def place(self, home: Home, far: Far) -> HubSpotPlace:
        return HubSpotPlace(home, far)


class ChatPlace(Place):
    """A message for each member, to a webhook of Slack's form."""

    rows = ROWS
    removes = False

    def __init__(self, home: Home, far: Far) -> None:
        self.home, self.far, self.taken, self.invalid = home, far, [], set()
        far.act, self.leave = self._act, far.stop

    def _act(self, method: str, path: str, headers: dict, body: dict) -> tuple[int, object]:
        customer_id, address = body["text"].split()
        if customer_id in self.invalid:
            return 400, {"error": f"no {address}"}
        self.taken.append(customer_id)
        return 200, "ok"

    def open(self):
        message = "message_template: '{{ row.customer_id }} {{ row.email }}'"
        return opened(self.home, f"kind: drt\ndestination: {{type: slack, webhook_url: {{env: CHAT}}, {message}}}\n{COLUMNS}")

    def content(self) -> list[str]:
        return list(self.taken)

    def refuse(self, customer_id: str) -> None:
        self.invalid.add(customer_id)


class TestMessages(Conforms):
    @pytest.fixture
    def place(self, home: Home, far: Far) -> ChatPlace:
        return ChatPlace(home, far)


class RestPlace(Place):
    """A REST API that knows its idempotency keys again."""

    rows = ROWS

    def __init__(self, home: Home, far: Far) -> None:
        self.home, self.far, self.known, self.invalid = home, far, {}, set()
        far.act, self.leave = self._act, far.stop

    def _act(self, method: str, path: str, headers: dict, body: dict) -> tuple[int, object]:
        if body.get("customer_id") in self.invalid:
            return 422, {"code": "invalid_email", "message": body["email"]}
        assert headers["authorization"] == "Bearer pat-test"
        self.known.setdefault(headers["idempotency-key"], body)
        return 200, {}

    def open(self):
        auth = "auth: {type: bearer, token: {env: HUBSPOT_TOKEN}}"
        text = f"kind: drt\ndestination: {{type: rest_api, url: {self.far.url}/contacts, {auth}}}\nsemantics: deduplicates\n"
        return opened(self.home, f"{text}membership: member\n{COLUMNS}")

    def content(self) -> list[str]:
        there: list[dict] = []
        for body in self.known.values():  # one request that came under two keys would be in it twice
            same = [other for other in there if other["customer_id"] == body["customer_id"] and other != body]
            there = [other for other in there if other not in same] + ([body] if body["member"] else [])
        return [body["customer_id"] for body in there]

    def refuse(self, customer_id: str) -> None:
        self.invalid.add(customer_id)


class TestRestApi(Conforms):
    @pytest.fixture
    def place(self, home: Home, far: Far) -> RestPlace:
        return RestPlace(home, far)


# ------------------------------------------------------------------ what is sent


def test_who_leaves_is_told_by_a_property_and_keeps_the_others(home: Home, far: Far) -> None:
    there = HubSpot(far)
    there.contacts["bo@example.com"] = {"email": "bo@example.com", "lifecyclestage": "customer"}
    assert deliver(home, opened(home, HUBSPOT), ROWS).accepted == 3
    assert there.contacts["bo@example.com"] == ROWS[1] | {"lifecyclestage": "customer", "in_regulars": "true"}
    changed = [{**ROWS[0], "firstname": "Anna"}, *ROWS[1:]]
    assert deliver(home, opened(home, HUBSPOT), changed).accepted == 1
    assert there.contacts["ann@example.com"] == changed[0] | {"in_regulars": "true"}
    assert deliver(home, opened(home, HUBSPOT), changed[:1]).accepted == 2
    assert there.contacts["bo@example.com"] == ROWS[1] | {"lifecyclestage": "customer", "in_regulars": "false"}


def test_templates_make_what_a_tool_wants_and_names_cannot_add_to_it(home: Home, far: Far) -> None:
    template = """
  properties_template: |
    {"email": {{ row.email | tojson_safe }}, "in_regulars": {{ row.member | string | lower | tojson_safe }}
    {%- if row.member %}, "firstname": {{ row.firstname | tojson_safe }}{% endif %}}
membership: member"""
    text = HUBSPOT.replace("destination: {type", "destination:\n  type").replace(", auth", "\n  auth").replace("}}}", "}}", 1)
    text = text.replace("\nmembership: in_{audience}", template)
    there = HubSpot(far)
    rows = [{**ROWS[0], "firstname": 'x", "lifecyclestage": "customer'}]
    assert deliver(home, opened(home, text), rows).is_finished
    assert there.contacts["ann@example.com"] == {
        "email": rows[0]["email"],
        "in_regulars": "true",
        "firstname": rows[0]["firstname"],
    }
    opened(home, text).send("remove", [{"email": "ann@example.com"}], "k")
    assert there.contacts["ann@example.com"]["in_regulars"] == "false"


def test_klaviyo_gets_profiles_and_puts_them_on_its_list(home: Home, far: Far) -> None:
    far.answers = [
        (201, {}, {"data": {"id": "P1"}}),
        (204, {}, {}),
        (409, {}, {"errors": [{"meta": {"duplicate_profile_id": "P2"}}]}),
        (200, {}, {}),
        (204, {}, {}),
    ]
    text = f"kind: drt\ndestination: {{type: klaviyo, list_id: L1}}\nmembership: regular\n{COLUMNS}"
    assert opened(home, text).send("add", ROWS[:2], "k").results == [ACCEPTED] * 2
    assert [(method, path) for method, path, _, _ in far.got] == [
        ("POST", "/api/profiles/"),
        ("POST", "/api/lists/L1/relationships/profiles/"),
        ("POST", "/api/profiles/"),
        ("PATCH", "/api/profiles/P2/"),
        ("POST", "/api/lists/L1/relationships/profiles/"),
    ]
    attributes = far.got[0][3]["data"]["attributes"]
    assert attributes == {
        "email": "ann@example.com",
        "properties": {"customer_id": "a", "firstname": "Ann", "regular": True},
    }
    assert far.got[0][2]["authorization"] == "Klaviyo-API-Key pk"


def test_removals_that_are_ignored_send_nothing(home: Home, far: Far) -> None:
    crm = opened(home, HUBSPOT.replace("membership: in_{audience}", "removes: ignore"))
    assert crm.send("remove", [{"email": "ann@example.com"}], "k").results == [ACCEPTED]
    assert far.got == []


def test_each_audience_has_a_field_of_its_own(home: Home, far: Far) -> None:
    there = HubSpot(far)
    text = HUBSPOT.replace("audiences: regulars", "audiences: [regulars, lapsed]")
    for audience in ("regulars", "lapsed"):
        opened(home, text, audience).send("add", ROWS[:1], "k")
    assert there.contacts["ann@example.com"] == ROWS[0] | {"in_regulars": "true", "in_lapsed": "true"}


def test_a_row_in_a_request_of_many_that_is_at_fault_is_found(home: Home, far: Far) -> None:
    def act(method: str, path: str, headers: dict, body: list) -> tuple[int, object]:
        return (400, {"code": "bad_row"}) if any("bo@" in one["email"] for one in body) else (200, {})

    far.act = act
    destination = (
        f"  type: rest_api\n  url: {far.url}/many\n  body_mode: batch\n  batch_template: '{{{{ rows | tojson_safe }}}}'\n"
    )
    crm = opened(home, f"kind: drt\ndestination:\n{destination}semantics: set\nmembership: member\n{COLUMNS}")
    assert crm.send("add", ROWS, "k").results == [ACCEPTED, rejected("HTTP 400 bad_row"), ACCEPTED]
    assert [len(body) for _, _, _, body in far.got] == [1, 2, 1, 1]


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_a_tool_that_fails_is_left_alone_and_the_rest_tried_again(home: Home, far: Far, monkeypatch, status: int) -> None:
    monkeypatch.setattr("dagster_project.lib.delivery.tool._AT_ONCE", 1)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    crm, there = opened(home, HUBSPOT), HubSpot(far)
    crm.send("add", ROWS[:1], "k")
    there.contacts.clear()
    act, far.act = far.act, lambda *given: (status, {}) if given[3]["properties"]["email"] == "bo@example.com" else act(*given)
    results = crm.send("add", ROWS, "k").results
    assert [result.status for result in results] == ["accepted", "try again", "try again"]
    assert set(there.contacts) == {"ann@example.com"}
    with pytest.raises(Unavailable) as raised:
        crm.send("add", ROWS[1:], "k")
    assert raised.value.is_certain == (status in (429, 503))


def test_a_pause_that_a_tool_asks_for_is_kept_where_a_row_may_be_sent_again(home: Home, far: Far, monkeypatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    HubSpot(far)
    far.answers = [(429, {"Retry-After": "17"}, {})]
    assert opened(home, HUBSPOT).send("add", ROWS[:1], "k").results == [ACCEPTED]
    assert [seconds for seconds in slept if seconds >= 1] == [17]


def test_a_message_whose_answer_is_lost_is_not_repeated_behind_the_ledger_s_back(home: Home, far: Far) -> None:
    place = ChatPlace(home, far)
    far.answers = [(0, {}, {})]
    report = deliver(home, place.open(), ROWS)
    assert (report.accepted, report.uncertain) == (2, 1)
    assert len(far.got) == 3
    with Ledger(home) as ledger:
        (doubtful,) = ledger.uncertain(ledger.target("regulars", "there"))
        assert doubtful.row_count == 1


def test_several_rows_that_were_planned_for_another_kind_are_in_doubt_as_one(home: Home, far: Far) -> None:
    crm = ChatPlace(home, far).open()
    far.answers = [(200, {}, "ok"), (0, {}, {})]
    with pytest.raises(Unavailable) as raised:
        crm.send("add", ROWS, "k")
    assert not raised.value.is_certain
    far.answers = [(200, {}, "ok"), (429, {}, {})]
    assert [result.status for result in crm.send("add", ROWS, "k").results] == ["accepted", "try again", "try again"]


def test_a_row_that_the_tool_has_no_use_for_is_rejected_without_a_request(home: Home, far: Far) -> None:
    text = f"kind: drt\ndestination: {{type: klaviyo}}\nmembership: regular\n{COLUMNS}"
    rows = [{**row, "email": None} if row["customer_id"] in given else row for given in ("ab", "b", "c") for row in ROWS]
    results = opened(home, text).send("add", rows, "k").results
    assert results == [rejected("Row missing email field ….") if row["email"] is None else ACCEPTED for row in rows]
    assert len(far.got) == 5
    numbers = f"""
kind: drt
destination:
  type: twilio
  account_sid: {{env: HUBSPOT_TOKEN}}
  auth_token: {{env: HUBSPOT_TOKEN}}
  from_number: "+8613800138000"
  to_template: "{{{{ row.email }}}}"
  message_template: 你好
{COLUMNS}"""
    (result,) = opened(home, numbers).send("add", ROWS[:1], "k").results
    assert result == rejected("Invalid to_number … (row 0). Must be E.164 format.")


def test_one_that_is_away_is_asked_no_more_than_needed(home: Home, far: Far, monkeypatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    HubSpot(far)
    crm = opened(home, HUBSPOT)
    act, far.act = far.act, lambda *given: (0, {}) if len(far.got) > 3 else act(*given)
    rows = [{**ROWS[0], "email": f"{number}@example.com"} for number in range(60)]
    statuses = [result.status for result in crm.send("add", rows, "k").results]
    assert statuses == ["accepted"] * 3 + ["try again"] * 57
    assert len(far.got) <= 3 + 2 * 9  # drt's two attempts for what is left of the ten, and one row alone


def test_wrong_secrets_are_nobody_s_dead_letter(home: Home, far: Far, monkeypatch) -> None:
    HubSpot(far)
    monkeypatch.setenv("HUBSPOT_TOKEN", "pat-old")
    with pytest.raises(Refused, match="HTTP 401 INVALID_AUTHENTICATION: check its secret"):
        opened(home, HUBSPOT).send("add", ROWS, "k")


def test_a_row_that_fills_no_template_is_rejected_alone(home: Home, far: Far) -> None:
    HubSpot(far)
    template = '{"email": {{ row.email | tojson_safe }}, "firstname": {{ row.firstname[7] | tojson_safe }}}'
    text = HUBSPOT.replace("{type: hubspot", f"{{type: hubspot, properties_template: '{template}'")
    crm = opened(home, text.replace("membership: in_{audience}", "removes: ignore"))
    results = crm.send("add", [ROWS[1], ROWS[0]], "k").results
    assert results == [ACCEPTED, rejected("properties_template cannot be filled (TypeError)")]


# ------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HUBSPOT.replace("hubspot", "salesforce_bulk"), "Onefold sends through drt's airtable, .*, not 'salesforce_bulk'"),
        (HUBSPOT.replace("hubspot", "google_ads"), "not 'google_ads'"),
        (HUBSPOT.replace("{env: HUBSPOT_TOKEN}", "pat-secret"), r"destination\.auth\.token: write \{env: NAME\}"),
        (HUBSPOT.replace("{type: hubspot", "{type: hubspot, object: contacts"), r"destination\.object: drt knows no such key"),
        (HUBSPOT.replace("{type: hubspot", "{type: hubspot, retry: {max_attempts: 9}"), r"destination\.retry: is Onefold's"),
        (
            HUBSPOT.replace("{type: hubspot", "{type: hubspot, object_type: people"),
            r"destination: object_type: Input should be",
        ),
        (HUBSPOT.replace("membership: in_{audience}", ""), "membership: name a field that says who is a member"),
        (HUBSPOT.replace("in_{audience}", "email"), "'email' is one of the columns"),
        (HUBSPOT.replace("regulars", "[regulars, lapsed]").replace("in_{audience}", "member"), "several audiences would share"),
        (HUBSPOT + "semantics: appends\n", "semantics: hubspot holds each once"),
        (
            HUBSPOT.replace("{type: hubspot", """{type: hubspot, properties_template: '{"email": "{{ row.email }}"}'"""),
            r"destination\.properties_template: a name with a quotation mark",
        ),
        (
            HUBSPOT.replace(
                "{type: hubspot", """{type: hubspot, properties_template: '{"email": {{ row.email | tojson_safe }}}'"""
            ),
            "does not say 'in_regulars', so that nobody would learn who left",
        ),
        (
            HUBSPOT.replace(
                "{type: hubspot",
                """{type: hubspot, properties_template: '{"a": {{ [row.in_regulars, row.firstname] | tojson_safe }}}'""",
            ),
            "for somebody who leaves, of whom only email, in_regulars are known",
        ),
        (f"kind: drt\ndestination: {{type: slack, webhook_url: https://hooks}}\n{COLUMNS}", r"destination\.webhook_url: write"),
        (
            f"kind: drt\nmembership: x\ndestination: {{type: slack, webhook_url: {{env: A}}}}\n{COLUMNS}",
            "nothing can be changed",
        ),
        (
            f"kind: drt\ndestination: {{type: rest_api, url: 'http://crm.example.com'}}\n{COLUMNS}",
            r"destination\.url: is not an",
        ),
        (
            f"kind: drt\ndestination: {{type: rest_api, url: 'https://x.y', headers: {{X-Api-Key: abc}}}}\n{COLUMNS}",
            r"destination\.headers: 'X-Api-Key' looks like a secret; use `auth`",
        ),
    ],
)
def test_a_wrong_file_says_which_key_is_wrong(home: Home, text: str, words: str) -> None:
    with pytest.raises(OnefoldError, match=words) as raised:
        configured(home, text)
    assert "pat-secret" not in str(raised.value)


def test_a_secret_that_is_not_set_is_named(home: Home, monkeypatch) -> None:
    monkeypatch.delenv("HUBSPOT_TOKEN", raising=False)
    with pytest.raises(OnefoldError, match="destination crm: the environment variable HUBSPOT_TOKEN is not set"):
        opened(home, HUBSPOT)
    monkeypatch.delenv("KLAVIYO_API_KEY", raising=False)
    klaviyo_file = f"kind: drt\ndestination: {{type: klaviyo}}\nmembership: regular\n{COLUMNS}"
    with pytest.raises(Refused, match="KLAVIYO_API_KEY"):
        opened(home, klaviyo_file).send("add", ROWS, "k")


BEARER = {"type": "bearer", "token": {"env": "A"}}
MINIMAL = {
    "airtable": ({"base_id": "app1", "table_name": "People"}, "appends"),
    "amplitude": ({}, "set"),
    "discord": ({"webhook_url": {"env": "A"}}, "appends"),
    "hubspot": ({"auth": BEARER}, "set"),
    "intercom": ({"auth": BEARER, "properties_template": '{"email": {{ row.email | tojson_safe }}}'}, "set"),
    "jira": (
        {
            "base_url": {"env": "A"},
            "email": {"env": "A"},
            "token": {"env": "A"},
            "project_key": "CRM",
            "summary_template": "{{ row.customer_id }}",
            "description_template": "x",
        },
        "appends",
    ),
    "klaviyo": ({}, "set"),
    "linear": ({"title_template": "x", "description_template": "x", "auth": BEARER}, "appends"),
    "mixpanel": ({}, "set"),
    "notion": ({"database_id": "d", "auth": BEARER}, "appends"),
    "rest_api": ({"url": "https://crm.example.com"}, "appends"),
    "sendgrid": ({"from_email": "a@b.c", "subject_template": "x", "body_template": "x", "auth": BEARER}, "appends"),
    "slack": ({"webhook_url": {"env": "A"}}, "appends"),
    "teams": ({"webhook_url": {"env": "A"}}, "appends"),
    "twilio": (
        {
            "account_sid": {"env": "A"},
            "auth_token": {"env": "A"},
            "from_number": "+8613800138000",
            "to_template": "{{ row.phone }}",
            "message_template": "x",
        },
        "appends",
    ),
    "zendesk": ({"subdomain": "us", "email": {"env": "A"}, "api_token": {"env": "A"}}, "set"),
}


@pytest.mark.parametrize("kind", tool.TYPES)
def test_every_tool_that_is_offered_is_understood(kind: str) -> None:
    given, semantics = MINIMAL[kind]
    made = tool.Tool(
        tool.setting({"type": kind, **given}, None, None, ("customer_id",)), ("customer_id",), ("customer_id",), 50
    )
    assert (made.semantics, made.batch_size) == (semantics, 1 if semantics == "appends" else 50)


def test_messages_are_one_row_a_batch_and_updates_are_batches(home: Home, far: Far) -> None:
    assert ChatPlace(home, far).open().batch_size == 1
    assert opened(home, HUBSPOT).batch_size == 100
    assert not configured(home, HUBSPOT).is_advertising
