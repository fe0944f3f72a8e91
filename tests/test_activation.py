"""From published audiences to destinations through the real job and commands: what leaves, and what is said of the rest."""

import json
import shutil
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner
from receiver import Receiver
from rows import build, deliver, land_rows, query

from dagster_project.cli import main
from dagster_project.defs import automation
from dagster_project.jobs import problems, run_job
from dagster_project.lib import dbt
from dagster_project.lib.contracts import load_channels
from dagster_project.lib.delivery.configuration import FilesConfigured
from dagster_project.lib.delivery.deliver import Delivery, destinations_of
from dagster_project.lib.delivery.files import Files
from dagster_project.lib.delivery.ledger import SentRow
from dagster_project.lib.home import Home
from dagster_project.lib.ingest import ingest_channel
from dagster_project.lib.live import Live
from dagster_project.lib.publish import audiences
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State
from dagster_project.lib.statements import NewRefusals, Statement, state

AUDIENCE = "first_tier_city_customers"
BOTH = [f"both{number}" for number in range(5)]  # granted and denied at the same moment
CITIES = {"anna": "上海", "bo": "北京", "chen": "广州", "dai": "深圳", "li": "上海"}


def _consents(*names: str) -> list[dict]:
    said = {"identifier_type": "email", "purpose": "marketing", "status": "granted", "occurred_at": "2025-02-01"}
    return [{**said, "identifier_value": f"{name}@mail.cn"} for name in names]


def _refresh(home: Home) -> None:
    """Ingest, refresh and publish, as the continuous mode does."""
    assert [done.problems for done in Live(home, lambda _: None).passes(until_idle=True)] in ([], [[]])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of five customers in an audience of four: nobody asked Li."""
    home = Home(tmp_path_factory.mktemp("home")).prepare()
    (home.path / "onefold.yaml").write_text("landing_settle_seconds: 0\n")
    contacts = [
        {"contact_id": f"k-{name}", "email": f"{name}@mail.cn", "city": city, "updated_at": "2025-01-01"}
        for name, city in CITIES.items()
    ]
    land_rows(home, "crm/contacts/a.csv", contacts)
    land_rows(home, "crm/consents/a.csv", _consents("anna", "bo", "chen", "dai"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEFOLD_HOME", str(home.path))
        _refresh(home)
    return home.path


@pytest.fixture
def shop(home: Home, published: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of it, with files, a webhook that answers, and one where nobody listens."""
    shutil.rmtree(home.path)
    shutil.copytree(published, home.path, symlinks=True)
    monkeypatch.setenv("HOOK_SECRET", "whsec_c2VjcmV0")
    _configure(home, "newsletter", f"kind: files\naudiences: {AUDIENCE}\ncolumns: {{mail: email, id: customer_id}}\nkey: id\n")
    _hook(home, "crm", receiver.url)
    return home


def _configure(home: Home, name: str, text: str) -> None:
    (home.path / "destinations").mkdir(exist_ok=True)
    (home.path / "destinations" / f"{name}.yaml").write_text(text)


def _hook(home: Home, name: str, url: str) -> None:
    _configure(
        home,
        name,
        f"kind: webhook\nurl: {url}\nsecret: {{env: HOOK_SECRET}}\naudiences: {AUDIENCE}\ncolumns: [customer_id, email]\n"
        "semantics: deduplicates\nretries: {attempts: 1}\n",
    )


def _deliver(home: Home) -> bool:
    """Whether everything was sent."""
    return not any(report.stopped for report in deliver(home))


def _run(*arguments: str):
    return CliRunner().invoke(main, [*arguments, "--json"])


def _mails(home: Home) -> list[list[str]]:
    """What the files of the newsletter say, in their order."""
    folder = home.deliveries / "_destinations" / "newsletter" / AUDIENCE
    return [sorted(line.split("@")[0] for line in file.read_text().splitlines()[1:]) for file in sorted(folder.glob("*.csv"))]


def _sent(receiver: Receiver) -> list[tuple[str, set[str | None]]]:
    bodies = [json.loads(body) for _, body in receiver.requests]
    return [(body["operation"], {row.get("email") for row in body["rows"]}) for body in bodies]


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_every_destination_is_an_asset_and_one_that_is_down_holds_up_no_other(shop: Home, receiver: Receiver) -> None:
    _hook(shop, "down", f"http://127.0.0.1:{_unused_port()}/")
    result = run_job(shop, "deliver")
    assert not result.success
    [problem] = [line for line in problems(result) if "down" in line]
    assert f"{AUDIENCE} to down: no connection" in problem or "no answer" in problem, problem
    assert _mails(shop) == [["add,anna", "add,bo", "add,chen", "add,dai"]]
    assert _sent(receiver) == [("add", {f"{name}@mail.cn" for name in ("anna", "bo", "chen", "dai")})]

    made = {event.asset_key.path[1]: event.materialization.metadata for event in result.get_asset_materialization_events()}
    assert {name: (m["held"].value, m["adds"].value, m["accepted"].value) for name, m in made.items()} == {
        "newsletter": (4, 4, 4),
        "crm": (4, 4, 4),
        "down": (0, 4, 0),
    }
    assert "unavailable" in made["down"]["log"].value and "finished" in made["crm"]["versions"].value
    checks = {check.asset_key.path[1]: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {"newsletter": True, "crm": True, "down": False}
    assert query(shop, "select destination, status, adds, accepted from audiences.deliveries order by 1") == [
        ("crm", "finished", 4, 4),
        ("down", "open", 4, 0),
        ("newsletter", "finished", 4, 4),
    ]

    # What is left is asked for again, and what went through is not sent twice.
    with dg.instance_for_test() as instance:
        [request] = automation.published_audiences.evaluate_tick(dg.build_sensor_context(instance=instance)).run_requests
    assert request.run_key.startswith("deliver-")
    assert State(shop).progress("delivered") == 0
    _hook(shop, "down", receiver.url)
    result = _run("deliver")
    assert result.exit_code == 0, result.output
    assert len(_mails(shop)) == 1 and len(receiver.requests) == 2
    assert State(shop).progress("delivered") == State(shop).progress("publications") > 0
    with dg.instance_for_test() as instance:
        assert automation.published_audiences.evaluate_tick(dg.build_sensor_context(instance=instance)).run_requests == []


@pytest.mark.parametrize("identifier", ["email:bo@mail.cn", "Email: BO@mail.cn ", "contact_id:k-bo"])
def test_who_refuses_while_a_delivery_waits_is_not_sent_to_and_leaves_with_the_next_refresh(
    shop: Home, receiver: Receiver, identifier: str
) -> None:
    receiver.answers = [(503, {}, b"")]
    assert not _deliver(shop)
    said = _run("consent", "record", "withdrawn", identifier, "--purpose", "Marketing", "--reason", "on the phone")
    assert said.exit_code == 0, said.output
    assert _deliver(shop)
    assert _sent(receiver)[1:] == [("add", {"anna@mail.cn", "chen@mail.cn", "dai@mail.cn"})]
    [letter] = json.loads(_run("delivery", "letters", AUDIENCE, "crm").output)
    assert letter["reason"] == "withdrawn since the last refresh"

    _refresh(shop)
    assert query(shop, "select status, source from cleaned.crm_consents where status = 'withdrawn'")[0][1].endswith(
        "on the phone"
    )
    assert _deliver(shop)
    State(shop).forget_refusals(days=-1)
    assert State(shop).refusals() == []
    assert len(_sent(receiver)) == 2, "nothing to remove where nothing was sent"
    assert [line[0].split(",")[0] for line in _mails(shop)] == ["add", "remove"]
    assert json.loads(_run("delivery", "letters", AUDIENCE, "crm").output) == []


@pytest.mark.parametrize(
    ("place", "row", "is_sent"),
    [
        ("crm/consents", {"status": "denied", "purpose": "marketing", "channel": "email"}, False),
        ("crm/consents", {"status": "denied", "purpose": "marketing", "channel": "sms"}, True),
        ("crm/consents", {"status": "denied", "purpose": "analytics"}, True),
        ("crm/consents", {"status": "granted", "purpose": "marketing"}, True),
        ("crm/consents", {"status": "suppressed", "purpose": "any"}, False),
        ("email/events", {"event_name": "unsubscribed"}, False),
        ("email/events", {"event_name": "clicked"}, True),
    ],
)
def test_a_refusal_that_was_loaded_counts_before_any_refresh(
    shop: Home, receiver: Receiver, place: str, row: dict, is_sent: bool
) -> None:
    receiver.answers = [(503, {}, b"")]
    assert not _deliver(shop)
    who = {"identifier_type": "email", "identifier_value": "bo@mail.cn"} if place == "crm/consents" else {"email": "bo@mail.cn"}
    key = {} if place == "crm/consents" else {"event_id": "e1"}
    land_rows(shop, f"{place}/late.csv", [{**who, **key, **row, "occurred_at": "2026-03-01"}])
    [load] = [
        load
        for load in ingest_channel(shop, load_channels(shop)[place.split("/")[0]], Settings.of(shop))
        if load.table == place.replace("/", "_")
    ]
    assert load.accepted == 1
    assert _deliver(shop)
    assert ("bo@mail.cn" in _sent(receiver)[1][1]) is is_sent


def test_a_merge_a_split_and_a_new_address_are_removed_added_and_updated(shop: Home, receiver: Receiver) -> None:
    def delivered() -> list[tuple[str, set[str | None]]]:
        receiver.requests.clear()
        _refresh(shop)
        assert _deliver(shop)
        return _sent(receiver)

    def decide(*what: str) -> None:
        said = _run("identity", "decide", *what, "contact_id:k-anna", "contact_id:k-bo", "--reason", "they say so")
        assert said.exit_code == 0, said.output

    assert _deliver(shop)
    decide("same")
    land_rows(shop, "crm/contacts/b.csv", [{"contact_id": "k-x", "email": "x@mail.cn", "updated_at": "2025-03-01"}])
    [removed, *others] = delivered()
    assert removed[0] == "remove" and others in ([], [("update", {"bo@mail.cn"})], [("update", {"anna@mail.cn"})])
    decide("different")
    land_rows(shop, "crm/contacts/c.csv", [{"contact_id": "k-y", "email": "y@mail.cn", "updated_at": "2025-03-02"}])
    assert delivered()[-1][0] == "add"

    moved = {"contact_id": "k-dai", "email": "dai.new@mail.cn", "city": "深圳", "updated_at": "2025-04-01"}
    land_rows(shop, "crm/contacts/d.csv", [moved])
    land_rows(shop, "crm/consents/d.csv", _consents("dai.new"))
    assert delivered() == [("update", {"dai.new@mail.cn"})]
    assert delivered() == []


def test_of_an_audience_that_is_stopped_only_those_go_who_may_not_stay(shop: Home, receiver: Receiver) -> None:
    assert _deliver(shop)
    moved = [
        {"contact_id": f"k-{name}", "email": f"{name}@mail.cn", "city": "杭州", "updated_at": "2025-05-01"} for name in CITIES
    ]
    moved[2]["email"] = "chen.new@mail.cn"
    land_rows(shop, "crm/contacts/wrong.csv", moved)
    land_rows(shop, "crm/consents/b.csv", [{**_consents("bo")[0], "status": "withdrawn", "occurred_at": "2025-06-01"}])
    land_rows(shop, "crm/consents/c.csv", _consents("chen.new"))
    [done] = Live(shop, lambda _: None).passes(until_idle=True)
    assert [problem for problem in done.problems if AUDIENCE in problem]
    receiver.requests.clear()
    assert _deliver(shop)
    assert [operation for operation, _ in _sent(receiver)] == ["remove"] and len(_mails(shop)[-1]) == 1

    right = [{**row, "city": CITIES[row["contact_id"][2:]], "updated_at": "2025-07-01"} for row in moved]
    land_rows(shop, "crm/contacts/right.csv", right)
    _refresh(shop)
    receiver.requests.clear()
    assert _deliver(shop)
    assert _sent(receiver) == [("update", {"chen.new@mail.cn"})], "what was held back is not lost"


def test_whom_nothing_identifies_at_a_destination_is_known_there(shop: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Files, "prepare", lambda _, row: None if row["mail"].startswith("bo@") else row, raising=False)
    assert _deliver(shop)
    assert _mails(shop) == [["add,anna", "add,chen", "add,dai"]]
    found = "select destination, reason from audiences.exclusions where destination is not null"
    assert query(shop, found) == [("newsletter", "no usable identifier")]


def test_what_was_planned_of_an_audience_that_is_withdrawn_is_not_sent_any_more(shop: Home, receiver: Receiver) -> None:
    receiver.answers = [(503, {}, b"")]
    assert not _deliver(shop)
    assert _run("delivery", "withdraw", AUDIENCE, "crm").exit_code == 0
    receiver.requests.clear()
    assert _deliver(shop)
    assert _sent(receiver) == []
    assert {letter["reason"] for letter in json.loads(_run("delivery", "letters", AUDIENCE, "crm").output)} <= {
        "the audience was withdrawn"
    }


def test_nobody_is_sent_by_a_definition_that_was_not_published(shop: Home) -> None:
    manifest = dbt.manifest(shop)
    [audience] = [each for each in audiences(manifest) if each.name == AUDIENCE]
    changed = replace(audience, definitions=((AUDIENCE, "another"),))
    pair, refresh = [(AUDIENCE, "newsletter")], State(shop).last_finished_refresh()
    [report] = Delivery(shop, [changed], destinations_of(shop, manifest), refresh, pair).run()
    assert report.version is None and _mails(shop) == []
    [report] = Delivery(shop, [audience], destinations_of(shop, manifest), refresh, pair).run()
    assert report.accepted == 4


def test_refusals_are_found_again_after_a_look_that_failed(shop: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    row = SentRow(0, "c1", b"", b"", "{}", json.dumps({"mail": "bo@mail.cn"}))
    with shop.connect("test") as connection:
        refusals = NewRefusals(shop, connection)
    withheld = refusals.of("marketing", {"mail": "email"}, None)
    assert withheld([row]) == {}
    state(shop, Statement("email", "bo@mail.cn", "marketing", "email", "withdrawn", datetime.now(UTC), "test"))
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(NewRefusals, "_holders", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        withheld([row])
    assert withheld([row]) == {"c1": "withdrawn since the last refresh"}


def test_a_tag_that_became_restricted_takes_its_customers_out_of_advertising(
    shop: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = dbt.manifest(shop)
    there, refresh = destinations_of(shop, manifest), State(shop).last_finished_refresh()
    pair = [(AUDIENCE, "newsletter")]
    [audience] = [each for each in audiences(manifest) if each.name == AUDIENCE]
    [report] = Delivery(shop, [audience], there, refresh, pair).run()
    assert report.accepted == 4
    monkeypatch.setattr(FilesConfigured, "is_advertising", True)
    [report] = Delivery(shop, [replace(audience, restricted=("sensitive_skin",))], there, refresh, pair).run()
    assert "restricted tags (sensitive_skin)" in report.stopped and (report.removes, report.is_finished) == (4, True)
    excluded = f"select reason, count(*) from audiences.exclusions where audience = '{AUDIENCE}' and destination = 'newsletter'"
    assert query(shop, f"{excluded} group by 1") == [("restricted tag", 4)]


def test_whom_a_destination_does_not_get_is_known_with_the_reason(shop: Home) -> None:
    land_rows(
        shop,
        "crm/contacts/b.csv",
        [
            {"contact_id": "k-without", "email": "", "city": "上海", "updated_at": "2025-05-01"},
            {"contact_id": "k-silent", "email": "silent@mail.cn", "city": "上海", "updated_at": "2025-05-01"},
            *(
                {"contact_id": f"k-{name}", "email": f"{name}@mail.cn", "city": "上海", "updated_at": "2025-05-01"}
                for name in BOTH
            ),
        ],
    )
    both = [{**said, "status": status} for said in _consents(*BOTH) for status in ("granted", "denied")]
    land_rows(shop, "crm/consents/both.csv", both)
    said = {"identifier_type": "contact_id", "purpose": "marketing", "status": "granted", "occurred_at": "2025-06-01"}
    rows = [
        {**said, "identifier_value": "k-without", "channel": "any"},
        {**said, "identifier_value": "k-silent", "channel": "sms"},
    ]
    land_rows(shop, "crm/consents/b.csv", rows)
    _refresh(shop)
    assert _deliver(shop)
    found = query(shop, f"select destination, reason from audiences.exclusions where audience = '{AUDIENCE}' order by all")
    assert found == [
        ("crm", "no consent for the channel"),
        ("crm", "no usable identifier"),
        ("newsletter", "no consent for the channel"),
        ("newsletter", "no usable identifier"),
        *[(None, "consent denied or withdrawn")] * len(BOTH),
        (None, "no consent"),
    ]


def test_nothing_is_planned_of_tables_that_no_refresh_has_checked(shop: Home) -> None:
    build(shop, "unified_customers", as_of=datetime(2026, 4, 1, tzinfo=UTC))
    result = _run("deliver")
    assert result.exit_code == 1
    assert "built by somebody by hand" in " ".join(result.output.split()) and "onefold refresh" in result.output
    assert _mails(shop) == []


def test_a_target_is_paused_resumed_and_withdrawn(shop: Home, receiver: Receiver) -> None:
    assert _deliver(shop)
    for what in ("pause", "resume"):
        assert _run("delivery", what, AUDIENCE, "newsletter").exit_code == 0
        if what == "pause":
            land_rows(shop, "crm/consents/b.csv", _consents("li"))
            _refresh(shop)
        assert _deliver(shop)
        assert len(_mails(shop)) == (1 if what == "pause" else 2)
        assert len(receiver.requests) == 2, "the other goes on"
    assert _run("delivery", "withdraw", AUDIENCE, "crm").exit_code == 0
    deliveries = {row["destination"]: row for row in json.loads(_run("deliver").output)}
    assert (deliveries["crm"]["status"], deliveries["crm"]["held"]) == ("withdrawn", 0)
    assert deliveries["newsletter"]["held"] == 5
    assert json.loads(receiver.requests[-1][1])["operation"] == "remove"
    (shop.path / "destinations" / "newsletter.yaml").unlink()
    told = CliRunner().invoke(main, ["delivery", "list"]).output
    assert "newsletter is no longer configured and still holds 5" in " ".join(told.split())


def test_commands_say_what_is_missing(shop: Home, receiver: Receiver) -> None:
    assert "nothing of nobody was delivered to crm" in _run("delivery", "log", "nobody", "crm").output
    assert "write <type>:<value>" in _run("consent", "record", "denied", "bo@mail.cn", "--purpose", "marketing").output
    assert "say what for with --purpose" in _run("consent", "record", "denied", "email:bo@mail.cn").output
    for identifier, channel, problem in (
        ("foo:bar", "any", "there is no type of identifier 'foo'"),
        ("email:not a mail", "any", "is no e-mail address"),
        ("phone:12", "any", "is no phone number"),
        ("email:bo@mail.cn", "emial", "there is no channel 'emial'"),
    ):
        said = _run("consent", "record", "denied", identifier, "--purpose", "marketing", "--channel", channel).output
        assert problem in " ".join(said.split())
    assert "name the purpose" in _run("consent", "record", "granted", "email:bo@mail.cn", "--purpose", "any").output
    assert _deliver(shop)
    [request] = json.loads(_run("delivery", "log", AUDIENCE, "crm").output)
    assert (request["outcome"], request["rows"], request["accepted"]) == ("answered", 4, 4)
    assert "no batch k waits for a decision" in _run("delivery", "settle", AUDIENCE, "crm", "k", "--sent").output
    shutil.rmtree(shop.path / "destinations")
    assert "onefold new destination" in _run("deliver").output
