"""Who may be contacted where: against a judge in plain Python in any batches, and each rule in what is published and sent."""

import json
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from rows import Row, build, land_lines, land_rows, query

from dagster_project.cli import main
from dagster_project.lib import dbt
from dagster_project.lib.consent import address_permissions, customer_permissions
from dagster_project.lib.delivery.deliver import deliver
from dagster_project.lib.delivery.members import WarehouseMembers
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.lib.live import Live
from dagster_project.lib.publish import Audience, audiences, publish
from dagster_project.lib.settings import Settings

START = datetime(2025, 3, 1)
PEOPLE = 24
SERVED = {
    "email": ("email", "ads"), "phone": ("sms", "call", "ads"), "external_user_id": ("wecom",), "device_id": ("push",),
    "open_id": ("mini_program",), "union_id": ("mini_program",),
}  # fmt: skip
USUAL = {kind: channels[0] for kind, channels in SERVED.items()}
CARRIERS = {"device_id", "anonymous_id"}
NO = {"denied", "withdrawn"}


# What plain Python makes of the statements


Statement = dict[str, Any]  # identifier_type, identifier_value, purpose, channel, status, occurred_at
Identifier = tuple[str, str, str, datetime | None, datetime | None]  # customer_id, type, value, valid_from, valid_to


class Judge:
    """The rules of docs/privacy.md, asked one place after the other."""

    def __init__(self, identifiers: Iterable[Identifier], statements: Iterable[Statement], as_of: datetime) -> None:
        self.identifiers = list(identifiers)
        self.customers = {identifier[0] for identifier in self.identifiers}
        self.stated: dict[str, list[tuple[Statement, Identifier]]] = {customer: [] for customer in self.customers}
        for statement in statements:
            if statement["occurred_at"] > as_of or (statement["purpose"], statement["status"]) == ("any", "granted"):
                continue  # consent is for something
            for identifier in self.identifiers:
                customer, kind, value, since, until = identifier
                if (kind, value) == (statement["identifier_type"], statement["identifier_value"]) and (
                    (since is None or since <= statement["occurred_at"]) and (until is None or until > statement["occurred_at"])
                ):
                    self.stated[customer].append((statement, identifier))

    def of_person(self, customer: str) -> list[Statement]:
        found = []
        for statement, (_, kind, *_) in self.stated[customer]:
            speaks_for_itself = kind in SERVED and statement["channel"] in ("any", *SERVED[kind])
            if not speaks_for_itself and (kind not in CARRIERS or statement["status"] in NO | {"suppressed"}):
                found.append(statement)
        return found

    def of_address(self, address: Identifier) -> list[Statement]:
        served = ("any", *SERVED[address[1]])
        return [s for s, i in self.stated[address[0]] if i == address and s["channel"] in served]

    def addresses(self, customer: str) -> list[Identifier]:
        return [i for i in self.identifiers if i[0] == customer and i[1] in SERVED and i[4] is None]

    def at_address(self, address: Identifier, channel: str, purpose: str) -> tuple[bool, str, datetime] | None:
        sides = [("", self.of_address(address)), ("person ", self.of_person(address[0]))]
        return _verdict([(side, _about(said, channel, purpose)) for side, said in sides], purpose)

    def at_person(self, customer: str, channel: str, purpose: str) -> tuple[bool, str, datetime] | None:
        return _verdict([("", _about(self.of_person(customer), channel, purpose))], purpose)

    def rows(self) -> set[tuple]:
        """What unified.contact_permissions should hold."""
        found = set()
        purposes = {statement["purpose"] for said in self.stated.values() for statement, _ in said}
        for customer in self.customers:
            for channel in {statement["channel"] for statement in self.of_person(customer)}:
                for purpose in purposes:
                    if verdict := self.at_person(customer, channel, purpose):
                        found.add((customer, None, None, purpose, channel, *verdict))
            for address in self.addresses(customer):
                for channel in SERVED[address[1]]:
                    for purpose in purposes:
                        if verdict := self.at_address(address, channel, purpose):
                            found.add((customer, address[1], address[2], purpose, channel, *verdict))
        return found

    def may_write(self, address: Identifier, channel: str, purpose: str, legitimate: bool) -> bool:
        for asked in (purpose, "any"):
            if verdict := self.at_address(address, channel, asked):
                return verdict[0]
        return legitimate

    def may_address_person(self, customer: str, channel: str, purpose: str, legitimate: bool) -> bool:
        said = self.of_person(customer)
        spoken = [c for c in (channel, "any") if any(s["channel"] == c for s in said)]
        for asked in (purpose, "any"):
            for heard in spoken:
                if verdict := self.at_person(customer, heard, asked):
                    return verdict[0]
        return legitimate

    def may_contact(self, customer: str, channel: str | None, purpose: str, legitimate: bool) -> bool:
        addresses = self.addresses(customer)
        if channel:
            serving = [a for a in addresses if channel in SERVED[a[1]]]
            if serving:
                return any(self.may_write(a, channel, purpose, legitimate) for a in serving)
            return self.may_address_person(customer, channel, purpose, legitimate)
        granted = any(row[:1] == (customer,) and row[3] == purpose and row[5] for row in self.rows_of(customer))
        return granted or (legitimate and self.may_address_person(customer, "any", purpose, legitimate))

    def rows_of(self, customer: str) -> list[tuple]:
        if not hasattr(self, "_rows"):
            self._rows = self.rows()
        return [row for row in self._rows if row[0] == customer]

    def reason(self, customer: str, purpose: str, legitimate: bool) -> str | None:
        if self.may_contact(customer, None, purpose, legitimate):
            return None
        reasons = {row[6] for row in self.rows_of(customer) if row[3] in (purpose, "any") and not row[5]}
        if any("suppressed" in reason for reason in reasons):
            return "suppressed"
        return "consent denied or withdrawn" if reasons else "no consent"


def _about(said: list[Statement], channel: str, purpose: str) -> list[Statement]:
    return [s for s in said if s["channel"] in ("any", channel) and s["purpose"] in ("any", purpose)]


def _verdict(sides: list[tuple[str, list[Statement]]], purpose: str) -> tuple[bool, str, datetime] | None:
    if not any(s["purpose"] == purpose for _, said in sides for s in said):
        return None
    for side, said in sides:
        at = _latest(said, {"suppressed"})
        if at and at >= (_latest(said, {"released"}) or at):
            return False, f"{side}suppressed", at
    for side, said in sides:
        at = _latest(said, NO)
        if at and at >= (_latest(said, {"granted"}) or at):
            return False, f"{side}denied", at
    for side, said in sides:
        if at := _latest(said, {"granted"}):
            return True, f"{side}granted", at
    return None


def _latest(said: list[Statement], statuses: set[str]) -> datetime | None:
    return max((s["occurred_at"] for s in said if s["status"] in statuses), default=None)


# A company whose people state all sorts of things, share addresses and hand them on


def _at(day: float) -> datetime:
    return START + timedelta(days=day)


def _company(chance: random.Random) -> list[Row]:
    """Phones go to the next person after two months of silence; some e-mails are those of two accounts."""
    rows: list[Row] = []
    for n in range(PEOPLE):
        contact = {"contact_id": f"k{n}", "user_id": f"u{n}", "email": f"p{n - n % 7 // 6}@mail.cn"}
        rows.append(("crm/contacts", contact | {"updated_at": _at(0).isoformat()}))
        for number, (phone, day) in enumerate(((n, chance.uniform(0, 5)), (n - 1, 80 + chance.uniform(0, 5)))):
            if phone >= 0 and (number == 0 or phone % 2):
                order = {"order_id": f"o{n}-{number}", "user_id": f"u{n}", "phone": _phone(phone), "status": "paid"}
                order |= {"amount": 10, "currency": "CNY", "ordered_at": _at(day).isoformat()}
                rows.append(("orders/orders", order))
        if n % 3 == 0:
            added = {"external_user_id": f"w{n}", "phone": _phone(n), "added_at": _at(1).isoformat()}
            rows.append(("wecom/contacts", added))
        for thing in ("anonymous_id", "device_id") if n % 2 else ():
            event = {"event_id": f"{thing}{n}", "event_name": "login", "occurred_at": _at(2).isoformat()}
            event |= {"user_id": f"u{n}", thing: f"{thing}{n}"}
            rows.append((f"{'app' if thing == 'device_id' else 'web'}/events", event))
    return rows


def _phone(number: int) -> str:
    return f"+861390000{number:04}"


def _said(chance: random.Random, number: int) -> Row:
    n = chance.randrange(PEOPLE)
    kind, value = chance.choice(
        [
            ("email", f"p{n}@mail.cn"),
            ("email", f"p{n}@mail.cn"),
            ("phone", _phone(n)),
            ("phone", _phone(n)),
            ("user_id", f"u{n}"),
            ("contact_id", f"k{n}"),
            ("external_user_id", f"w{n // 3 * 3}"),
            ("device_id", f"device_id{n | 1}"),
            ("anonymous_id", f"anonymous_id{n | 1}"),
            ("user_id", "nobody"),
        ]
    )
    at = _at(chance.randrange(130)).isoformat()
    if chance.random() < 0.25 and kind in ("email", "phone", "contact_id"):
        channel = {"email": "email", "phone": "sms"}.get(kind) or chance.choice(["email", "sms"])
        event = {"event_id": f"m{number}", "event_name": chance.choice(["unsubscribed", "complained", "bounced", "opened"])}
        return f"{channel}/events", event | {"occurred_at": at, kind: value}
    statement = {"identifier_type": kind, "identifier_value": value, "occurred_at": at}
    statement["purpose"] = chance.choice(["marketing", "marketing", "marketing", "service", "any"])
    statement["channel"] = chance.choice(["any", "any", "", "email", "sms", "wecom", "push", "post", "ads"])
    statement["status"] = chance.choices(["granted", "denied", "withdrawn", "suppressed", "released"], [6, 2, 2, 1, 1])[0]
    return "crm/consents", statement


def _statements(rows: Iterable[Row]) -> list[Statement]:
    """What the rows state: of those of one key the survivor, which random rows make sure there is only one of."""
    found = []
    for place, row in rows:
        at = datetime.fromisoformat(row["occurred_at"])
        if place == "crm/consents":
            found.append(row | {"occurred_at": at, "channel": row["channel"] or "any"})
        elif row["event_name"] in ("unsubscribed", "complained"):
            kind = next(kind for kind in ("email", "phone", "contact_id") if kind in row)
            about = ("marketing", "withdrawn") if row["event_name"] == "unsubscribed" else ("any", "suppressed")
            found.append(
                {"identifier_type": kind, "identifier_value": row[kind], "purpose": about[0], "status": about[1]}
                | {"channel": place.partition("/")[0], "occurred_at": at}
            )
    return found


_PERMISSIONS = (
    "select customer_id, identifier_type, identifier_value, purpose, channel, is_allowed, reason, as_of "
    "from unified.contact_permissions order by all"
)


def _judge(home: Home, stated: Iterable[Row], as_of: datetime) -> Judge:
    identifiers = (
        "select customer_id, identifier_type, identifier_value, valid_from, valid_to from unified.customer_identifiers"
    )
    return Judge(query(home, identifiers), _statements(stated), as_of)


@pytest.mark.parametrize("seed", [int(os.environ.get("CONSENT_SEED", 1))])
def test_permissions_are_what_plain_python_makes_of_the_statements_in_any_batches(home: Home, seed: int) -> None:
    chance = random.Random(seed)
    company = _company(chance)
    said: dict[tuple, Row] = {}
    for number in range(260):
        place, row = _said(chance, number)
        said[
            place,
            *(row.get(c) for c in ("event_id", "identifier_type", "identifier_value", "purpose", "channel", "occurred_at")),
        ] = (
            place,
            row,
        )
    batches: list[list[Row]] = [[], []]
    for row in [*company, *said.values()]:
        batches[chance.randrange(2)].append(row)
    # An event that was told wrongly: the earlier of two versions counts, which comes last.
    mistaken = [
        row for place, row in batches[0] if place == "email/events" and row["event_name"] in ("unsubscribed", "complained")
    ]
    corrected = mistaken[0] | {
        "event_name": "opened",
        "occurred_at": (datetime.fromisoformat(mistaken[0]["occurred_at"]) - timedelta(hours=1)).isoformat(),
    }
    batches[1].append(("email/events", corrected))
    loaded: list[Row] = []
    found: set[tuple] = set()
    for number, (batch, day) in enumerate([(batches[0], 60), (batches[1], 100), ([], 120)]):
        before = {row[0]: row[1] for row in query(home, "from unified.touched_customers")} if number else {}
        land_lines(home, f"{number}", batch)
        build(home, "+unified_contact_permissions", "+unified_consents", as_of=_at(day))
        loaded += batch
        stated = [row for row in loaded if row[1] != mistaken[0] or number < 1]
        stated = [(place, row) for place, row in stated if place in ("crm/consents", "email/events", "sms/events")]
        judge = _judge(home, stated, _at(day))
        previous, found = found, set(query(home, _PERMISSIONS))
        assert found == judge.rows()
        # Deliveries find who changed among the touched.
        touched = {c for c, seq in query(home, "from unified.touched_customers") if seq > max(before.values(), default=0)}
        assert {row[0] for row in previous ^ found} <= touched
    assert {row[6] for row in found} == {
        f"{side}{verb}" for side in ("", "person ") for verb in ("granted", "denied", "suppressed")
    }
    assert previous != found  # by time alone
    _check_questions(home, judge)
    tables = ("contact_permissions", "consents", "consent_statements where status is not null")
    present = {table: query(home, f"select * replace (0 as _seq) from unified.{table} order by all") for table in tables}
    models = ("consent_statements", "touched_customers", "contact_permissions", "consents")
    command = ["build", "--full-refresh", "--exclude-resource-type", "unit_test", "test", "--select"]
    anew = dbt.run(home, [*command, *(f"unified_{model}" for model in models)], as_of=_at(120), without_tests=True)
    assert anew.success, dbt.failures(anew)
    for table, rows in present.items():
        assert query(home, f"select * replace (0 as _seq) from unified.{table} order by all") == rows, table


def _check_questions(home: Home, judge: Judge) -> None:
    with home.connect("test") as connection:
        connection.execute("create temp table known as select distinct customer_id from unified.customer_identifiers")
        for purpose in ("marketing", "service", "never heard of"):
            for legitimate in (False, True):
                declared = [purpose] if legitimate else ["other"]
                for channel in (None, "email", "sms", "wecom", "push", "ads"):
                    asked = customer_permissions(purpose, channel, "known", declared)
                    verdicts = connection.execute(f"select customer_id, is_allowed, reason from ({asked})").fetchall()
                    allowed = {c for c in judge.customers if judge.may_contact(c, channel, purpose, legitimate)}
                    assert {c for c, is_allowed, _ in verdicts if is_allowed} == allowed, (purpose, channel, legitimate)
                    assert len(verdicts) == len(judge.customers)
                    if channel is None:
                        assert {c: reason for c, _, reason in verdicts} == {
                            c: judge.reason(c, purpose, legitimate) for c in judge.customers
                        }
                    asked = address_permissions(purpose, channel, "unified.customer_identifiers", declared)
                    verdicts = connection.execute(
                        f"select customer_id, identifier_type, identifier_value, is_allowed from ({asked})"
                    ).fetchall()
                    expected = [
                        (*address[:3], judge.may_write(address, channel or USUAL[address[1]], purpose, legitimate))
                        for customer in judge.customers
                        for address in judge.addresses(customer)
                        if (channel or USUAL[address[1]]) in SERVED[address[1]]
                    ]
                    assert sorted(verdicts) == sorted(expected), (purpose, channel, legitimate)


# Each rule, from landed files through the checks to what is published and what a destination of e-mails gets


AUDIENCE = "first_tier_city_customers"  # published for marketing
DESTINATION = f"kind: files\nformat: jsonl\naudiences: {AUDIENCE}\ncolumns: [customer_id, email]\n"


@dataclass
class Outcome:
    """By the account of each customer."""

    members: set[str]
    exclusions: dict[str, str]
    mailed: dict[str, str]  # to which address
    unmailed: dict[str, str]  # members whom the destination does not get, and why


def _person(name: str, *others: str) -> list[dict[str, str]]:
    contact = {"contact_id": f"k-{name}", "user_id": name, "email": f"{name}@mail.cn", "city": "上海"}
    more = [contact | {"contact_id": f"k-{other}", "email": f"{other}@mail.cn"} for other in others]
    return [row | {"updated_at": f"2025-01-0{day}"} for day, row in enumerate([contact, *more], 1)]


def _account(name: str, status: str, at: str, **others: str) -> dict[str, str]:
    row = {"identifier_type": "user_id", "identifier_value": name, "purpose": "marketing", "channel": "any"}
    return row | {"status": status, "occurred_at": at} | others


def _mail(name: str, status: str, at: str, **others: str) -> dict[str, str]:
    return _account(f"{name}@mail.cn", status, at, identifier_type="email") | others


def _event(name: str, event_name: str, at: str) -> dict[str, str]:
    return {"event_id": f"{event_name} {name}", "event_name": event_name, "occurred_at": at, "email": f"{name}@mail.cn"}


FIRST = {
    "crm/contacts": [
        *_person("granted"), *_person("silent"), *_person("objected"), *_person("unsubscribed"), *_person("complained"),
        *_person("asked-not-to"), *_person("only-texts"), *_person("two", "two-later"), *_person("wants-nothing"),
        *_person("bounced"),
    ],
    "crm/consents": [
        _mail("granted", "granted", "2025-02-01", channel="email"),
        _account("objected", "granted", "2025-02-01"),
        _mail("objected", "granted", "2025-02-01"),
        _account("objected", "withdrawn", "2025-03-01"),
        _account("unsubscribed", "granted", "2025-02-01"),
        _mail("complained", "granted", "2025-02-01", channel="email"),
        _mail("complained", "granted", "2025-09-01", channel="email"),
        _account("asked-not-to", "granted", "2025-02-01"),
        _account("asked-not-to", "suppressed", "2025-01-01", purpose="any"),
        _account("only-texts", "granted", "2025-02-01", channel="sms"),
        _account("two", "granted", "2025-03-01"),
        _mail("two-later", "denied", "2025-02-01"),
        _account("wants-nothing", "granted", "2025-02-01"),
        _account("wants-nothing", "denied", "2025-02-01", purpose="any"),
        _mail("bounced", "granted", "2025-02-01"),
    ],
    "email/events": [
        _event("unsubscribed", "unsubscribed", "2025-02-02"),
        _event("complained", "complained", "2025-03-01"),
        _event("bounced", "bounced", "2025-03-01"),
    ],
}  # fmt: skip
SECOND = {
    "crm/consents": [
        _mail("granted", "withdrawn", "2025-04-01"),
        _mail("unsubscribed", "granted", "2025-04-01", channel="email"),
        _mail("complained", "released", "2025-10-01", purpose="any", channel="email"),
        _account("asked-not-to", "released", "2025-04-01", purpose="any"),
    ]
}


@pytest.fixture(scope="module")
def outcomes(new_home: Callable[[], Home]) -> Iterator[list[Outcome]]:
    """After each of two lots of files, and after the company has declared marketing as its legitimate interest."""
    home = new_home()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEFOLD_HOME", str(home.path))
        settings = home.path / "onefold.yaml"
        settings.write_text("landing_settle_seconds: 0\n")
        (home.path / "destinations").mkdir()
        (home.path / "destinations" / "mailer.yaml").write_text(DESTINATION)
        found = []
        for number, files in enumerate((FIRST, SECOND)):
            for place, rows in files.items():
                land_rows(home, f"{place}/{number}.csv", rows)
            passed = Live(home, report=lambda done: None).once()
            assert passed is not None and passed.problems == []
            found.append(_outcome(home))
        settings.write_text("landing_settle_seconds: 0\nlegitimate_interest: [marketing]\n")
        publish(home, _audience(home), passed.refresh)
        found.append(_outcome(home))
        yield found


def _outcome(home: Home) -> Outcome:
    (report,) = deliver(home, [_audience(home)])
    assert report.stopped is None
    named = "select customer_id, identifier_value from identity.assignments where identifier_type = 'user_id'"
    accounts = dict(query(home, named))
    mailed: dict[str, str] = {}
    for file in sorted((home.deliveries / "_destinations" / "mailer" / AUDIENCE).iterdir()):
        for row in map(json.loads, file.read_text().splitlines()):
            if row["operation"] == "remove":
                del mailed[accounts[row["customer_id"]]]
            else:
                mailed[accounts[row["customer_id"]]] = row["email"]
    with home.connect("test") as connection:
        legitimate = Settings.of(home).legitimate_interest
        columns = {"customer_id": "customer_id", "email": "email"}
        list(WarehouseMembers(connection, AUDIENCE, "marketing", columns, legitimate_interest=legitimate).everyone())
        unmailed = connection.execute("from unsent").fetchall()
    members = f"select customer_id from audiences.memberships where audience = '{AUDIENCE}' and left_at is null"
    exclusions = f"select customer_id, reason from audiences.exclusions where audience = '{AUDIENCE}'"
    return Outcome(
        members={accounts[customer] for (customer,) in query(home, members)},
        exclusions={accounts[customer]: why for customer, why in query(home, exclusions)},
        mailed=mailed,
        unmailed={accounts[customer]: why for customer, why in unmailed},
    )


def _audience(home: Home) -> Audience:
    return next(audience for audience in audiences(dbt.manifest(home)) if audience.name == AUDIENCE)


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ("silent", "no consent"),
        ("objected", "consent denied or withdrawn"),  # by the account, and so for the address that was granted, too
        ("complained", "suppressed"),  # whatever was granted later
        ("asked-not-to", "suppressed"),
        ("wants-nothing", "consent denied or withdrawn"),  # of equal times the denial, and one of any purpose is one of each
    ],
)
def test_who_may_not_be_contacted_is_not_published_and_the_reason_is_kept(outcomes: list[Outcome], who: str, reason: str):
    assert outcomes[0].exclusions[who] == reason
    assert who not in outcomes[0].members and who not in outcomes[0].mailed


@pytest.mark.parametrize(
    ("who", "address"),
    [
        ("granted", "granted@mail.cn"),
        ("two", "two@mail.cn"),  # by the account; the address that was seen later said no
        ("bounced", "bounced@mail.cn"),  # nobody says whether it bounced for good
    ],
)
def test_an_address_that_may_be_contacted_is_sent(outcomes: list[Outcome], who: str, address: str) -> None:
    assert outcomes[0].mailed[who] == address


def test_a_member_who_may_be_contacted_elsewhere_only_is_not_sent_here(outcomes: list[Outcome]) -> None:
    assert outcomes[0].members == {"granted", "two", "bounced", "unsubscribed", "only-texts"}
    assert outcomes[0].unmailed == {"unsubscribed": "no consent for the channel", "only-texts": "no consent for the channel"}
    assert set(outcomes[0].mailed) == {"granted", "two", "bounced"}


def test_what_is_stated_later_takes_people_out_and_lets_them_in(outcomes: list[Outcome]) -> None:
    assert outcomes[1].exclusions["granted"] == "consent denied or withdrawn"
    assert outcomes[1].members == {"two", "bounced", "unsubscribed", "only-texts", "complained", "asked-not-to"}
    assert set(outcomes[1].mailed) == {"two", "bounced", "unsubscribed", "complained", "asked-not-to"}


def test_by_legitimate_interest_everybody_is_contacted_who_did_not_object(outcomes: list[Outcome]) -> None:
    objected = {"objected", "wants-nothing"}
    everybody = {row["user_id"] for row in FIRST["crm/contacts"]}
    assert outcomes[2].members == everybody - objected
    assert set(outcomes[2].exclusions.items()) == {(who, "consent denied or withdrawn") for who in objected}
    assert outcomes[2].unmailed == {"granted": "no consent for the channel"}
    assert set(outcomes[2].mailed) == everybody - objected - {"granted"}


@pytest.mark.parametrize("given", ["[any]", "[Service]", "['service, care']"])
def test_legitimate_interest_is_declared_purpose_by_purpose(home: Home, given: str) -> None:
    (home.path / "onefold.yaml").write_text(f"legitimate_interest: {given}\n")
    with pytest.raises(OnefoldError, match="is not a purpose such as service"):
        Settings.of(home)


def test_legitimate_interest_is_said_in_the_status(home: Home) -> None:
    (home.path / "onefold.yaml").write_text("legitimate_interest: [service, care]\n")
    done = CliRunner().invoke(main, ["--home", str(home.path), "status"])
    assert "who said nothing may be contacted for service, care" in " ".join(done.output.split())
