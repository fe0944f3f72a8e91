"""The promises of the sample company: the landing contract, repeatability, a truth about all that can be accepted."""

import csv
import filecmp
import gzip
import io
import json
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from simulator import Noise, Simulation, simulate
from simulator.vocabulary import BOT_AGENTS, OFFICE_NETWORK

UNTIL = date(2026, 7, 1)
DAYS = 180
PEOPLE = 300
# The contract as docs/ states it, required columns only; the key columns name a record in truth/records.csv.
REQUIRED = """
web/events: event_id event_name occurred_at
app/events: event_id event_name occurred_at
mini_program/events: event_id event_name occurred_at
email/events: event_id event_name occurred_at email
sms/events: event_id event_name occurred_at phone
social/interactions: interaction_id platform kind occurred_at
chat/messages: message_id conversation_id occurred_at direction
call/calls: call_id started_at direction phone
wecom/contacts: external_user_id
wecom/messages: message_id external_user_id occurred_at direction
crm/contacts: contact_id updated_at
crm/consents: identifier_type identifier_value purpose status occurred_at
orders/orders: order_id ordered_at status amount currency
orders/order_items: order_id line_number product_id quantity unit_price
orders/refunds: refund_id refunded_at amount currency
pos/receipts: receipt_id store_id sold_at amount currency
pos/receipt_items: receipt_id line_number product_id quantity unit_price
survey/responses: response_id survey_id answered_at question
ads/spend: date platform campaign_id cost currency
loyalty/members: member_id
catalog/products: product_id name
external/fx_rates: date currency rate_to_base
external/attributes: identifier_type identifier_value attribute value as_of
"""
CONTRACT = {name: columns.split() for name, columns in (line.split(": ") for line in REQUIRED.strip().splitlines())}
KEYS = {name: columns[:1] for name, columns in CONTRACT.items()} | {
    "orders/order_items": ["order_id", "line_number"],
    "pos/receipt_items": ["receipt_id", "line_number"],
    "crm/consents": ["identifier_type", "identifier_value", "purpose", "channel", "occurred_at"],
    "external/attributes": ["identifier_type", "identifier_value", "attribute", "as_of"],
    "ads/spend": ["date", "platform", "campaign_id"],
    "external/fx_rates": ["date", "currency"],
}
ABOUT_NOBODY = {"ads/spend", "catalog/products", "external/fx_rates"}
VERSIONED = {"crm/contacts", "wecom/contacts", "loyalty/members", "external/attributes"}


def read_text(path: Path) -> str:
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes()).decode()
    if path.suffix == ".zst":
        return "".join(
            line + "\n"
            for (line,) in duckdb.sql(
                f"select line from read_csv('{path}', columns = {{'line': 'varchar'}}, delim = '\x1f', quote = '', "
                "escape = '', header = false, auto_detect = false)"
            ).fetchall()
        )
    return path.read_text()


def read_rows(path: Path) -> tuple[list[dict[str, object]], int]:
    """The well-formed rows of a landing file, and how many lines were not well-formed."""
    if ".parquet" in path.name:
        table = duckdb.sql(f"from read_parquet('{path}')")
        return [dict(zip(table.columns, row, strict=True)) for row in table.fetchall()], 0
    text = read_text(path)
    rows, damaged = [], 0
    if ".jsonl" in path.name:
        for line in text.splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                damaged += 1
        return rows, damaged
    lines = csv.reader(io.StringIO(text), delimiter="\t" if ".tsv" in path.name else ",")
    header = next(lines)
    for line in lines:
        if len(line) == len(header):
            rows.append(dict(zip(header, line, strict=True)))
        else:
            damaged += 1
    return rows, damaged


def landing_files(home: Path, name: str) -> list[Path]:
    return sorted(path for path in (home / "landing" / name).rglob("*") if path.is_file())


def all_rows(home: Path, name: str) -> list[dict[str, object]]:
    return [row for path in landing_files(home, name) for row in read_rows(path)[0]]


def truth_of(home: Path) -> dict[str, dict[str, str]]:
    """export name -> record id -> person."""
    records: dict[str, dict[str, str]] = defaultdict(dict)
    with (home / "truth" / "records.csv").open() as file:
        for row in csv.DictReader(file):
            records[f"{row['channel']}/{row['entity']}"][row["record_id"]] = row["person_id"]
    return records


def traffic_of(home: Path) -> dict[str, dict[str, str]]:
    """export name -> record id -> bot, staff or test."""
    records: dict[str, dict[str, str]] = defaultdict(dict)
    with (home / "truth" / "traffic.csv").open() as file:
        for row in csv.DictReader(file):
            records[f"{row['channel']}/{row['entity']}"][row["record_id"]] = row["traffic"]
    return records


def record_id(name: str, row: dict[str, object]) -> str:
    return "|".join(str(row.get(column)) for column in KEYS[name])


def run(home: Path, **settings: object) -> Simulation:
    defaults = {"people": PEOPLE, "days": DAYS, "until": UNTIL}
    return simulate(home / "landing", home / "truth", **(defaults | settings))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("clean")
    run(home, noise=Noise.none())
    return home


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("noisy")
    run(home)
    return home


def test_the_same_arguments_give_the_same_bytes(noisy: Path, tmp_path: Path) -> None:
    run(tmp_path)
    paths = [path.relative_to(noisy) for path in sorted(noisy.rglob("*")) if path.is_file()]
    assert paths == [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    _, different, unreadable = filecmp.cmpfiles(noisy, tmp_path, paths, shallow=False)
    assert different == unreadable == []


def test_another_seed_gives_other_records(tmp_path: Path) -> None:
    small = {"people": 20, "days": 30}
    run(tmp_path / "a", **small, seed=1)
    run(tmp_path / "b", **small, seed=2)
    first, second = (set(truth_of(tmp_path / name)["web/events"]) for name in "ab")
    assert first and second and not first & second


@pytest.mark.parametrize("name", CONTRACT)
def test_every_file_has_all_required_columns(noisy: Path, name: str) -> None:
    files = landing_files(noisy, name)
    assert files
    for path in files:
        columns = {column for row in read_rows(path)[0] for column in row}
        assert set(CONTRACT[name]) <= columns, path


@pytest.mark.parametrize("name", CONTRACT)
def test_without_noise_every_row_is_whole_and_comes_once(clean: Path, name: str) -> None:
    keys = Counter()
    for path in landing_files(clean, name):
        rows, damaged = read_rows(path)
        assert damaged == 0
        contents = Counter(json.dumps(row, sort_keys=True, default=str) for row in rows)
        assert max(contents.values()) == 1
        for row in rows:
            assert all(row[column] not in (None, "") for column in CONTRACT[name]), (path, row)
            keys[record_id(name, row)] += 1
    assert name in VERSIONED or max(keys.values()) == 1


@pytest.mark.parametrize("name", [name for name in CONTRACT if name not in ABOUT_NOBODY])
def test_truth_names_the_person_of_every_record_of_a_person(clean: Path, name: str) -> None:
    people = truth_of(clean)[name]
    others = traffic_of(clean)[name].keys()
    assert [row for row in all_rows(clean, name) if record_id(name, row) not in people.keys() | others] == []
    assert not people.keys() & others
    assert set(people) <= {record_id(name, row) for row in all_rows(clean, name)}


def test_bots_staff_and_tests_visit_the_web_shop_too_and_show_it(clean: Path) -> None:
    traffic = traffic_of(clean)
    assert traffic.keys() == {"web/events"}
    shown = defaultdict(set)
    for row in all_rows(clean, "web/events"):
        shown[traffic["web/events"].get(row["event_id"], "customer")].add((row["user_agent"], row["ip"]))
    assert {ip for _, ip in shown["test"]} == {"10.0.0.8"}
    assert {ip.rsplit(".", 1)[0] + ".0/24" for _, ip in shown["staff"]} == {OFFICE_NETWORK}
    assert {agent for agent, _ in shown["bot"]} == set(BOT_AGENTS)
    assert not any(ip.startswith(("10.", OFFICE_NETWORK[:9])) or agent in BOT_AGENTS for agent, ip in shown["customer"])


def test_truth_has_every_well_formed_record_and_no_broken_one(noisy: Path) -> None:
    truth = truth_of(noisy)
    for name in CONTRACT.keys() - ABOUT_NOBODY:
        landed = defaultdict(list)
        for row in all_rows(noisy, name):
            landed[record_id(name, row)].append(row)
        assert truth[name].keys() <= landed.keys(), name
        for key in truth[name]:
            whole = [row for row in landed[key] if all(row.get(column) not in (None, "") for column in CONTRACT[name])]
            assert whole, (name, key)
    assert not any("None" in key or key == "abc" for records in truth.values() for key in records)


def test_default_noise_damages_lines_and_repeats_rows(noisy: Path, clean: Path) -> None:
    damaged = sum(read_rows(path)[1] for name in CONTRACT for path in landing_files(noisy, name))
    assert damaged > 5
    ids = Counter(row["event_id"] for row in all_rows(noisy, "web/events") if row.get("event_id"))
    assert 0.001 < sum(count - 1 for count in ids.values()) / len(ids) < 0.1


def test_order_amount_is_the_lines_less_the_discount(clean: Path) -> None:
    lines = defaultdict(Decimal)
    for line in all_rows(clean, "orders/order_items"):
        lines[line["order_id"]] += line["quantity"] * line["unit_price"]
    orders = {order["order_id"]: order for order in all_rows(clean, "orders/orders")}
    assert len(orders) > 100
    for number, order in orders.items():
        assert Decimal(order["amount"]) == lines[number] - Decimal(order["discount"]), order
    for refund in all_rows(clean, "orders/refunds"):
        order = orders[refund["order_id"]]
        assert refund["currency"] == order["currency"]
        assert 0 < Decimal(refund["amount"]) <= Decimal(order["amount"])


def test_receipt_amount_is_the_sum_of_its_lines(clean: Path) -> None:
    lines = defaultdict(Decimal)
    for line in all_rows(clean, "pos/receipt_items"):
        lines[line["receipt_id"]] += line["quantity"] * line["unit_price"]
    receipts = all_rows(clean, "pos/receipts")
    assert len(receipts) > 50
    assert all(Decimal(receipt["amount"]) == lines[receipt["receipt_id"]] for receipt in receipts)


def test_nothing_happens_outside_the_simulated_days(clean: Path) -> None:
    end = datetime(UNTIL.year, UNTIL.month, UNTIL.day, tzinfo=UTC)
    start = end - timedelta(days=DAYS)
    for row in all_rows(clean, "web/events") + all_rows(clean, "orders/orders"):
        value = row.get("occurred_at") or row["ordered_at"]
        at = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value / 1000, UTC)
        assert start <= at < end


def test_every_order_can_be_converted_to_the_base_currency(clean: Path) -> None:
    rates = {(row["date"].isoformat(), row["currency"]) for row in all_rows(clean, "external/fx_rates")}
    wanted = {(order["ordered_at"][:10], order["currency"]) for order in all_rows(clean, "orders/orders")}
    assert wanted <= rates
    assert {currency for _, currency in wanted} >= {"CNY", "USD", "EUR", "HKD"}


def test_people_share_devices_phones_and_mailboxes(noisy: Path) -> None:
    truth = truth_of(noisy)
    owners = defaultdict(set)
    for name in ("web/events", "app/events", "orders/orders", "crm/contacts", "loyalty/members"):
        for row in all_rows(noisy, name):
            for column in ("anonymous_id", "phone", "email"):
                value = str(row.get(column) or "").replace(" ", "").replace("-", "")[-24:]
                person = truth[name].get(record_id(name, row))
                if person and len(value) > 9:
                    owners[column, value].add(person)
    shared = Counter(column for (column, _), people in owners.items() if len(people) > 1)
    assert min(shared["anonymous_id"], shared["email"], shared["phone"]) >= 1


def test_three_hundred_people_fill_the_usual_audiences(clean: Path) -> None:
    truth = truth_of(clean)
    recent, searched, bought = set(), set(), set()
    spent = Counter()
    for row in all_rows(clean, "web/events") + all_rows(clean, "app/events") + all_rows(clean, "mini_program/events"):
        value = row["occurred_at"]
        at = datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value / 1000, UTC)
        age = datetime(UNTIL.year, UNTIL.month, UNTIL.day, tzinfo=UTC) - at
        people = [truth[name].get(row["event_id"]) for name in ("web/events", "app/events", "mini_program/events")]
        person = next((person for person in people if person), None)
        if age < timedelta(days=90):
            recent.add(person)
        if age < timedelta(days=30) and row["event_name"] == "searched":
            searched.add(person)
    for order in all_rows(clean, "orders/orders"):
        person = truth["orders/orders"][order["order_id"]]
        spent[person] += 1
        if date.fromisoformat(order["ordered_at"][:10]) > UNTIL - timedelta(days=30):
            bought.add(person)
    everybody = {person for records in truth.values() for person in records.values()}
    assert len(everybody - recent) >= 20
    assert len(searched - bought) >= 15
    assert sum(count >= 4 for count in spent.values()) >= 10


def test_counts_agree_with_the_files(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    result = run(tmp_path, people=40, days=60, report=lambda *step: steps.append(step))
    files = [path for path in (tmp_path / "landing").rglob("*") if path.is_file()]
    with (tmp_path / "truth" / "people.csv").open() as file:
        people = list(csv.DictReader(file))
    assert result.files == len(files)
    assert (result.people, len(people)) == (40, 40)
    assert result.identifiable_people == sum(person["is_identifiable"] == "true" for person in people)
    assert [step for step in steps if step[0] == "people"][-1] == ("people", 40, 40)
    assert steps[-1][0] == "files" and steps[-1][1] == steps[-1][2]


def test_every_file_can_be_sent_twice(tmp_path: Path) -> None:
    run(tmp_path, people=60, days=40, noise=Noise(resent_file_rate=1.0, drifted_file_rate=1.0, broken_row_rate=0.1))
    resent = [path for path in (tmp_path / "landing").rglob("*_resent.*")]
    assert {path.relative_to(tmp_path / "landing").parts[0] for path in resent} >= {"web", "orders", "crm", "email"}
    for path in resent:
        assert path.read_bytes() == path.with_name(path.name.replace("_resent", "")).read_bytes()


def test_landed_files_are_not_overwritten_by_another_simulation(tmp_path: Path) -> None:
    run(tmp_path, people=10, days=10)
    with pytest.raises(FileExistsError, match="simulate into an empty folder"):
        run(tmp_path, people=10, days=10, seed=8)


def test_a_rate_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Noise\.typo_rate is 1\.5"):
        Noise(typo_rate=1.5)


def test_truth_inside_landing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside the landing folder"):
        simulate(tmp_path, tmp_path / "truth", people=1, days=1, until=UNTIL)
