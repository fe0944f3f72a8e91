"""Destinations: files, webhooks, PostgreSQL, tables; their configuration; and where the members' rows come from."""

import base64
import csv
import json
import shutil
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import fsspec
import pytest
from conformance import Conforms, Place
from judging import judge_permissions

from dagster_project.lib.delivery.configuration import load_destinations, works
from dagster_project.lib.delivery.deliver import Delivery
from dagster_project.lib.delivery.destination import Refused, Unavailable
from dagster_project.lib.delivery.files import Files
from dagster_project.lib.delivery.ledger import Ledger
from dagster_project.lib.delivery.members import WarehouseMembers
from dagster_project.lib.delivery.planning import plan, plan_leavers, recheck
from dagster_project.lib.delivery.postgres import PostgresTable
from dagster_project.lib.delivery.sending import send_all
from dagster_project.lib.delivery.warehouse_table import WarehouseTable
from dagster_project.lib.delivery.webhook import Webhook, signature
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.publish import Audience
from dagster_project.lib.state import Refresh

COLUMNS = ("customer_id", "email", "tier")
KEY = ("customer_id",)
ROWS = [
    {"customer_id": "a", "email": "a@x.cn", "tier": "gold, “first”"},
    {"customer_id": "b", "email": None, "tier": "王小明"},
]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def statuses(outcome) -> list[str]:
    return [result.status for result in outcome.results]


# ------------------------------------------------------------------ files


@pytest.mark.parametrize("place", ["folder", "memory://bucket/regulars"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_file_of_each_format_holds_the_batch_and_stays_one_when_sent_again(tmp_path, place, form):
    url = str(tmp_path / "out") if place == "folder" else f"{place}/{form}"
    destination = Files(url, form, COLUMNS, KEY, 100)
    for _ in range(2):
        assert statuses(destination.send("add", ROWS, "regulars-000001-2-000001-abc")) == ["accepted"] * 2
    store, folder = fsspec.core.url_to_fs(url)
    (name,) = store.ls(folder, detail=False)
    assert name.endswith(f"/regulars-000001-2-000001-abc.{form}")
    copy = tmp_path / f"copy.{form}"
    copy.write_bytes(store.cat_file(name))
    if form == "csv":
        with copy.open(newline="", encoding="utf-8") as handle:
            found = [{key: value or None for key, value in row.items()} for row in csv.DictReader(handle)]
    elif form == "jsonl":
        found = [json.loads(line) for line in copy.read_text(encoding="utf-8").splitlines()]
    else:
        relation = duckdb.sql(f"select * from '{copy}'")
        found = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
    assert found == [{"operation": "add", **row} for row in ROWS]


def test_a_removal_has_the_key_alone(tmp_path):
    Files(str(tmp_path), "jsonl", COLUMNS, KEY, 100).send("remove", [{"customer_id": "a"}], "k")
    line = {"operation": "remove", "customer_id": "a", "email": None, "tier": None}
    assert json.loads((tmp_path / "k.jsonl").read_text()) == line


def test_files_are_for_their_owner_and_no_draft_is_left(tmp_path):
    Files(str(tmp_path), "csv", COLUMNS, KEY, 100).send("add", ROWS, "k")
    assert [(file.name, oct(file.stat().st_mode)[-3:]) for file in tmp_path.iterdir()] == [("k.csv", "600")]


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Unavailable):
        Files(str(tmp_path / "out"), "csv", COLUMNS, KEY, 100).send("add", ROWS, "k")


# ------------------------------------------------------------------ webhook


def webhook(url: str, **options) -> Webhook:
    return Webhook(url, SECRET, "regulars", COLUMNS, KEY, "deduplicates", 100, **options)


def test_the_signature_is_that_of_the_standard_s_own_test_vector():
    # github.com/standard-webhooks/standard-webhooks, the libraries' tests
    signed = signature(base64.b64decode(SECRET[6:]), "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed to verify with")
def test_a_request_is_signed_so_that_openssl_agrees(receiver):
    webhook(receiver.url, headers={"Authorization": "Bearer x"}).send("add", ROWS, "regulars-1")
    ((headers, body),) = receiver.requests
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = subprocess.run(["openssl", "base64", "-d", "-A"], input=SECRET[6:].encode(), capture_output=True, check=True).stdout
    digest = subprocess.run(
        ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key.hex()}", "-binary"],
        input=signed,
        capture_output=True,
        check=True,
    ).stdout
    encoded = subprocess.run(["openssl", "base64", "-A"], input=digest, capture_output=True, check=True).stdout.decode()
    assert headers["webhook-signature"] == f"v1,{encoded}"
    assert headers["Idempotency-Key"] == headers["webhook-id"] == "regulars-1"
    assert headers["Authorization"] == "Bearer x"
    assert json.loads(body) == {"operation": "add", "audience": "regulars", "key": "regulars-1", "rows": ROWS}


def test_a_receiver_may_answer_row_by_row(receiver):
    answer = {"results": [{"index": 1, "status": "rejected", "reason": "no address"}]}
    receiver.answers = [
        (200, {"X-Request-Id": "r-17"}, json.dumps(answer).encode()),
        (202, {}, json.dumps({"results": [{"index": 0, "status": "try again", "after": 5}]}).encode()),
        (200, {}, b"thanks"),
        (200, {}, json.dumps({"results": [{"index": 2, "status": "rejected"}]}).encode()),
    ]
    hook = webhook(receiver.url)
    outcome = hook.send("add", ROWS, "k")
    assert (outcome.request_id, statuses(outcome)) == ("r-17", ["accepted", "rejected"])
    outcome = hook.send("add", ROWS, "k")
    assert (statuses(outcome), outcome.results[0].after) == (["try again", "accepted"], 5)
    assert statuses(hook.send("add", ROWS, "k")) == ["accepted", "accepted"]
    with pytest.raises(Unavailable, match="a row that was not sent"):
        hook.send("add", ROWS, "k")


@pytest.mark.parametrize(
    ("status", "headers", "after", "is_certain"),
    [
        (429, {"Retry-After": "17"}, 17, True),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0, True),
        (429, {}, None, True),
        (500, {}, None, False),
        (502, {}, None, False),
        (408, {}, None, False),
        (0, {}, None, False),
    ],
)
def test_what_passes_is_tried_again_and_is_certain_only_where_nothing_was_worked_on(
    receiver, status, headers, after, is_certain
):
    receiver.answers = [(status, headers, b"")]
    with pytest.raises(Unavailable) as raised:
        webhook(receiver.url).send("add", ROWS, "k")
    assert (raised.value.after, raised.value.is_certain) == (after, is_certain)


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 410, 413])
def test_what_somebody_has_to_put_right_is_refused_and_not_followed(receiver, status):
    receiver.answers = [(status, {"Location": receiver.url}, b"")]
    with pytest.raises(Refused, match=str(status)):
        webhook(receiver.url).send("add", ROWS, "k")
    assert len(receiver.requests) == 1


def test_a_batch_that_the_receiver_calls_wrong_is_rejected(receiver):
    receiver.answers = [(422, {}, b"a@x.cn is wrong")]
    outcome = webhook(receiver.url).send("add", ROWS, "k")
    assert [(result.status, result.reason) for result in outcome.results] == [("rejected", "HTTP 422 for the whole batch")] * 2


def test_no_connection_is_certain_to_have_sent_nothing():
    with socket.socket() as nobody:  # bound, and nobody listens
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="no connection") as raised:
            webhook(f"http://127.0.0.1:{nobody.getsockname()[1]}/").send("add", ROWS, "k")
    assert raised.value.is_certain


# ------------------------------------------------------------------ PostgreSQL


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A real server on a socket of its own; its connection string."""
    binaries = [Path(found) for name in ("initdb", "pg_ctl") if (found := shutil.which(name))]
    if len(binaries) < 2:
        pytest.skip("PostgreSQL is not installed: initdb and pg_ctl are not on the path")
    import getpass
    import os

    folder = tmp_path_factory.mktemp("pg")
    as_other = []
    if os.getuid() == 0:  # PostgreSQL does not run as root
        if not shutil.which("setpriv"):
            pytest.skip("PostgreSQL does not run as root, and there is no setpriv to become somebody else")
        folder = Path("/tmp") / f"onefold-pg-{os.getpid()}"
        folder.mkdir(mode=0o700)
        shutil.chown(folder, "nobody")
        as_other = ["setpriv", "--reuid=nobody", "--clear-groups"]
    run = [*as_other, "env", "-C", str(folder)] if as_other else ["env", "-C", str(folder)]
    initdb, pg_ctl = map(str, binaries)
    made = subprocess.run(
        [*run, initdb, "-D", f"{folder}/data", "-U", "onefold", "-A", "trust", "-N", "-E", "UTF8"], capture_output=True
    )
    assert made.returncode == 0, made.stderr.decode()
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
    started = subprocess.run([*run, pg_ctl, "-D", f"{folder}/data", "-o", options, "-l", f"{folder}/log", "-w", "start"])
    assert started.returncode == 0, getpass.getuser()
    yield f"host={folder} user=onefold dbname=postgres"
    subprocess.run([*run, pg_ctl, "-D", f"{folder}/data", "-m", "immediate", "-w", "stop"], capture_output=True)
    shutil.rmtree(folder)


@pytest.fixture
def database(postgres):
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
        yield connection


def test_a_table_is_made_filled_updated_and_emptied_again(postgres, database):
    table = PostgresTable(postgres, "public.regulars", COLUMNS, KEY, 100)
    for _ in range(2):  # sent twice, there once
        outcome = table.send("add", ROWS, "k1")
        assert statuses(outcome) == ["accepted"] * 2
        assert int(outcome.request_id) > 0
    table.send("update", [{**ROWS[0], "email": "new@x.cn"}], "k2")
    rows = "select customer_id, email, tier from regulars order by 1"
    assert database.execute(rows).fetchall() == [("a", "new@x.cn", "gold, “first”"), ("b", None, "王小明")]
    table.send("remove", [{"customer_id": "a"}, {"customer_id": "unknown"}], "k3")
    assert database.execute(rows).fetchall() == [("b", None, "王小明")]


def test_a_row_that_the_table_does_not_take_is_rejected_alone_without_its_values(postgres, database):
    database.execute("create table scores (customer_id text primary key, email text not null, tier integer check (tier < 5))")
    rows = [
        {"customer_id": "a", "email": "a@x.cn", "tier": 1},
        {"customer_id": "b", "email": None, "tier": 2},
        {"customer_id": "c", "email": "c@x.cn", "tier": 9},
        {"customer_id": "d", "email": "d@x.cn", "tier": 3},
    ]
    outcome = PostgresTable(postgres, "scores", COLUMNS, KEY, 100).send("add", rows, "k")
    assert statuses(outcome) == ["accepted", "rejected", "rejected", "accepted"]
    assert [result.reason for result in outcome.results[1:3]] == [
        "NotNullViolation (23502, email)",
        "CheckViolation (23514, scores_tier_check)",
    ]
    assert database.execute("select customer_id from scores order by 1").fetchall() == [("a",), ("d",)]


def test_a_table_without_a_unique_key_is_refused_with_what_to_check(postgres, database):
    database.execute("create table regulars (customer_id text, email text, tier text)")
    with pytest.raises(Refused, match="unique key"):
        PostgresTable(postgres, "regulars", COLUMNS, KEY, 100).send("add", ROWS, "k")


def test_a_batch_of_before_the_columns_changed_is_written_with_those_it_has(postgres, database):
    table = PostgresTable(postgres, "regulars", COLUMNS, KEY, 100)
    assert statuses(table.send("add", [{"customer_id": "a", "tier": "gold"}], "k")) == ["accepted"]
    assert database.execute("select * from regulars").fetchall() == [("a", None, "gold")]


def test_names_are_names_and_never_statements(postgres, database):
    columns = ("customer_id", 'x"; drop table kept; --')
    database.execute("create table kept (x int)")
    PostgresTable(postgres, 'odd"name', columns, KEY, 100).send("add", [dict(zip(columns, "ab", strict=True))], "k")
    assert database.execute('select * from "odd""name"').fetchall() == [("a", "b")]
    assert database.execute("select count(*) from kept").fetchone() == (0,)


def test_a_server_that_is_down_is_certain_to_have_got_nothing():
    with pytest.raises(Unavailable) as raised:
        PostgresTable("host=/nowhere user=x dbname=x", "t", COLUMNS, KEY, 100).send("add", ROWS, "k")
    assert raised.value.is_certain


def test_a_connection_that_was_cut_is_made_anew(postgres, database):
    table = PostgresTable(postgres, "regulars", COLUMNS, KEY, 100)
    table.send("add", ROWS[:1], "k1")
    database.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
    with pytest.raises(Unavailable):
        table.send("add", ROWS, "k2")
    assert statuses(table.send("add", ROWS, "k2")) == ["accepted"] * 2


# ------------------------------------------------------------------ warehouse


def test_a_table_of_the_warehouse_holds_what_was_sent(home):
    table = WarehouseTable(home, "regulars", COLUMNS, KEY, 100)
    for _ in range(2):
        table.send("add", ROWS, "k1")
    table.send("update", [{**ROWS[0], "email": "new@x.cn"}], "k2")
    table.send("remove", [{"customer_id": "b"}], "k3")
    wider = WarehouseTable(home, "regulars", (*COLUMNS, "city"), KEY, 100)
    wider.send("add", [{"customer_id": "c", "email": None, "tier": "1", "city": "上海"}], "k4")
    with home.connect("test") as connection:
        rows = connection.execute("select * from delivered.regulars order by 1").fetchall()
    assert rows == [("a", "new@x.cn", "gold, “first”", None), ("c", None, "1", "上海")]


# ------------------------------------------------------------------ like every destination


class Kept(Place):
    """A place of one of the kinds above; what it holds is read by a function."""

    def __init__(self, opened, content, refuse=None, leave=None) -> None:
        self.rows = [{"customer_id": name, "email": f"{name}@example.com", "tier": "金卡"} for name in "abc"]
        self.open, self.content, self.refuse, self.leave = opened, content, refuse, leave


class TestFiles(Conforms):
    @pytest.fixture
    def place(self, tmp_path) -> Kept:
        def content() -> list[str]:
            there: list[str] = []
            for file in sorted((tmp_path / "out").iterdir()):
                for row in map(json.loads, file.read_text().splitlines()):
                    changes = {"add": there.append, "remove": there.remove, "update": there.index}
                    changes[row["operation"]](row["customer_id"])
            return there

        return Kept(lambda: Files(str(tmp_path / "out"), "jsonl", COLUMNS, KEY, 2), content)


class TestWarehouseTable(Conforms):
    @pytest.fixture
    def place(self, home) -> Kept:
        def content() -> list[str]:
            with home.connect("test") as connection:
                return [name for (name,) in connection.execute("select customer_id from delivered.regulars").fetchall()]

        return Kept(lambda: WarehouseTable(home, "regulars", COLUMNS, KEY, 2), content)


class TestPostgresTable(Conforms):
    @pytest.fixture
    def place(self, postgres, database) -> Kept:
        database.execute("create table regulars (customer_id text primary key, email text, tier text)")
        dsn = [postgres]
        return Kept(
            lambda: PostgresTable(dsn[0], "regulars", COLUMNS, KEY, 2),
            lambda: [name for (name,) in database.execute("select customer_id from regulars").fetchall()],
            lambda name: database.execute(f"alter table regulars add check (customer_id <> '{name}')"),
            lambda: dsn.__setitem__(0, "host=/nowhere user=x dbname=x"),
        )


class TestWebhook(Conforms):
    @pytest.fixture
    def place(self, receiver) -> Kept:
        refused: list[str] = []

        def answer(body: bytes) -> tuple[int, dict, bytes]:
            rows = json.loads(body)["rows"]
            bad = [{"index": i, "status": "rejected"} for i, row in enumerate(rows) if row["customer_id"] in refused]
            return 200, {}, json.dumps({"results": bad}).encode()

        def content() -> list[str]:
            there: list[str] = []
            for key, body in {headers["Idempotency-Key"]: json.loads(body) for headers, body in receiver.requests}.items():
                assert key == body["key"]
                for row in body["rows"]:
                    if row["customer_id"] not in refused:
                        changes = {"add": there.append, "remove": there.remove, "update": there.index}
                        changes[body["operation"]](row["customer_id"])
            return there

        def leave() -> None:
            receiver.server.shutdown()
            receiver.server.server_close()

        receiver.usual = answer
        return Kept(
            lambda: Webhook(receiver.url, SECRET, "regulars", COLUMNS, KEY, "deduplicates", 2), content, refused.append, leave
        )


# ------------------------------------------------------------------ configuration

GOOD = {
    "files": "kind: files\naudiences: regulars\ncolumns: [customer_id, email]\n",
    "crm": """
kind: webhook
url: https://crm.example.com/audiences
secret: {env: CRM_SECRET}
headers: {Authorization: {env: CRM_TOKEN}}
semantics: deduplicates
audiences: [regulars, lapsed]
columns: {id: customer_id, mail: email}
key: id
rate: 5
retries: {attempts: 7}
on_uncertain: resend
""",
    "shop": """
kind: postgres
dsn: {env: SHOP_DSN}
table: marketing.members
audiences: [regulars, lapsed]
columns: [audience, customer_id, email]
key: [audience, customer_id]
""",
    "house": "kind: warehouse\naudiences: [regulars]\ncolumns: [customer_id, city]\n",
}


def configure(home, **files: str):
    folder = home.path / "destinations"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return load_destinations(home, {"regulars", "lapsed"}, {"customer_id", "email", "city", "_seq"})


def test_destinations_are_read_and_opened_with_secrets_from_the_environment(home, monkeypatch):
    monkeypatch.setenv("CRM_SECRET", SECRET)
    monkeypatch.setenv("CRM_TOKEN", "Bearer t")
    monkeypatch.setenv("SHOP_DSN", "host=/nowhere")
    found = configure(home, **GOOD)
    assert sorted(found) == sorted(GOOD)
    crm = found["crm"].open(home, "crm", "lapsed")
    assert (crm.columns, crm.keyed_by, crm.semantics, crm.audience) == (("id", "mail"), ("id",), "deduplicates", "lapsed")
    assert crm.headers == {"Authorization": "Bearer t"}
    todo = [
        (work.audience, work.destination, work.rate, work.retries.attempts, work.on_uncertain) for work in works(home, found)
    ]
    assert ("lapsed", "crm", 5, 7, "resend") in todo
    assert len(todo) == 6
    assert {work.open().columns for work in works(home, found) if work.destination == "house"} == {("customer_id", "city")}


def test_no_destinations_are_none(home):
    assert load_destinations(home, set(), set()) == {}


def test_a_secret_that_is_not_set_is_named(home, monkeypatch):
    monkeypatch.delenv("CRM_SECRET", raising=False)
    monkeypatch.setenv("CRM_TOKEN", "t")
    with pytest.raises(OnefoldError, match="destination crm: the environment variable CRM_SECRET is not set"):
        configure(home, crm=GOOD["crm"])["crm"].open(home, "crm", "lapsed")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("files", "kind: ftp", r"kind|tag"),
        ("files", "just text", "destinations.md"),
        ("files", "kind: [", "not valid YAML"),
        ("Files", GOOD["files"], "lower case"),
        ("files", GOOD["files"].replace("email]", "mail]"), r"columns\.mail: unified\.customers has no column 'mail'"),
        ("files", GOOD["files"].replace("email]", "_seq]"), "has no column '_seq'"),
        ("files", GOOD["files"].replace("regulars", "others"), "there is no audience 'others'; there are lapsed, regulars"),
        ("files", GOOD["files"].replace("customer_id, ", ""), "key: 'customer_id' is none of the columns; there are email"),
        ("files", GOOD["files"] + "url: sftp://me:secret@host/x", "url: has a password"),
        ("files", GOOD["files"] + "speed: 3", "speed: Extra inputs"),
        ("files", GOOD["files"] + "rate: 0", "rate: Input should be greater than 0"),
        ("files", GOOD["files"] + "retries: {attempts: 0}", r"retries\.attempts: Input should be greater"),
        ("crm", GOOD["crm"].replace("https", "http"), "url: is not an https:// address"),
        ("crm", GOOD["crm"].replace("https://", "https://me:pw@"), "url: has credentials"),
        ("crm", GOOD["crm"].replace("{env: CRM_SECRET}", "abc"), "secret: "),
        ("crm", GOOD["crm"].replace("{env: CRM_TOKEN}", "Bearer abc"), "headers: 'Authorization' looks like a secret"),
        ("shop", GOOD["shop"].replace("key: [audience, customer_id]", ""), "several audiences share this table"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(home, name, text, message):
    with pytest.raises(OnefoldError, match=message) as raised:
        configure(home, **{name: text})
    assert f"{name}.yaml" in str(raised.value)


# ------------------------------------------------------------------ members

WAREHOUSE = """
create schema audiences; create schema unified; create schema staging;
create table staging._sequence as select 10 as value;
create table audiences.publications (audience varchar, version bigint);
create table audiences.memberships (audience varchar, customer_id varchar, left_at timestamp);
create table audiences.changes (audience varchar, version bigint, customer_id varchar);
create table unified.customers (customer_id varchar, city varchar, email varchar, phone varchar);
create table unified.touched_customers (customer_id varchar, _seq bigint)
"""


@pytest.fixture
def warehouse():
    with duckdb.connect() as connection:
        connection.execute(WAREHOUSE)
        judge_permissions(connection, as_of="2026-03-15")
        connection.execute("insert into audiences.publications values ('regulars', 1)")
        yield connection


def person(warehouse, customer_id: str, **identifiers: str) -> None:
    warehouse.execute("insert into audiences.memberships values ('regulars', ?, null)", [customer_id])
    warehouse.execute("insert into unified.customers (customer_id, city) values (?, '上海')", [customer_id])
    for day, (name, value) in enumerate(identifiers.items(), 1):
        warehouse.execute(
            f"insert into unified.customer_identifiers values (?, ?, ?, null, null, '2026-01-{day:02}', true, null)",
            [customer_id, name.rstrip("0123456789"), value],
        )


def stated(warehouse, kind: str, value: str, status: str, channel: str = "any", day: int = 1) -> None:
    warehouse.execute(
        f"insert into unified.consent_statements values (?, ?, 'marketing', ?, ?, '2026-02-{day:02}')",
        [kind, value, channel, status],
    )


def unsent(warehouse, **options) -> dict[str, str]:
    """Who is not sent, and why."""
    list(members(warehouse, **options).everyone())
    return dict(warehouse.execute("from unsent").fetchall())


def sendable(warehouse, *columns, **options) -> list[tuple[str, dict]]:
    """Members of the audience who are sent, with their rows."""
    asked = members(warehouse, *columns, **options)
    return [(customer_id, row) for customer_id, row in asked.everyone() if row is not None]


def members(warehouse, columns=("customer_id", "email"), **options) -> WarehouseMembers:
    return WarehouseMembers(warehouse, "regulars", "marketing", {name: name for name in columns}, **options)


@pytest.mark.parametrize(
    ("statements", "sent"),
    [
        ([], None),
        ([("email", "old@x.cn", "granted")], "old@x.cn"),  # the later address was never consented to
        ([("email", "old@x.cn", "granted"), ("email", "new@x.cn", "granted")], "new@x.cn"),
        ([("contact_id", "7", "granted")], "new@x.cn"),  # a grant of the person is one for their addresses
        ([("contact_id", "7", "granted"), ("email", "new@x.cn", "denied")], "old@x.cn"),
        ([("contact_id", "7", "granted"), ("email", "new@x.cn", "withdrawn", "email")], "old@x.cn"),
        ([("contact_id", "7", "granted"), ("email", "new@x.cn", "denied", "sms")], "new@x.cn"),  # another channel
        ([("email", "new@x.cn", "granted"), ("contact_id", "7", "denied")], None),  # a person's denial is for all of theirs
        ([("email", "new@x.cn", "granted", "email", 2), ("email", "new@x.cn", "denied", "any", 1)], "new@x.cn"),
        ([("email", "new@x.cn", "granted", "email", 2), ("email", "new@x.cn", "denied", "any", 2)], None),  # of the same time
        ([("email", "new@x.cn", "granted", "any", 2), ("email", "new@x.cn", "denied", "any", 1)], "new@x.cn"),
        ([("email", "new@x.cn", "granted", "any", 2), ("email", "new@x.cn", "denied", "any", 2)], None),
        ([("email", "else@x.cn", "granted")], None),
    ],
)
def test_only_an_address_that_was_consented_to_is_sent(warehouse, statements, sent):
    person(warehouse, "a", contact_id="7", email1="old@x.cn", email2="new@x.cn")
    for statement in statements:
        stated(warehouse, *statement)
    rows = sendable(warehouse)
    assert rows == ([] if sent is None else [("a", {"customer_id": "a", "email": sent})])


def test_a_channel_that_is_named_is_the_one_that_is_asked(warehouse):
    person(warehouse, "a", email="a@x.cn")
    stated(warehouse, "email", "a@x.cn", "granted", "email")
    assert len(sendable(warehouse)) == 1
    assert sendable(warehouse, channel="ads") == []
    with pytest.raises(OnefoldError, match="the channel sms reaches nobody by email"):
        list(members(warehouse, channel="sms").everyone())


def test_phones_are_asked_for_text_messages_and_one_address_of_two_is_enough(warehouse):
    person(warehouse, "a", email="a@x.cn", phone="+8613900000000")
    stated(warehouse, "phone", "+8613900000000", "granted", "sms")
    assert sendable(warehouse, ("email", "phone")) == [("a", {"email": None, "phone": "+8613900000000"})]


def test_the_customer_is_judged_where_no_address_is_asked_for(warehouse):
    columns = ("customer_id", "city", "audience")
    person(warehouse, "a", contact_id="7")
    person(warehouse, "b", contact_id="8")
    person(warehouse, "c", contact_id="9")
    stated(warehouse, "contact_id", "7", "granted")
    stated(warehouse, "contact_id", "8", "denied")
    row = {"customer_id": "a", "city": "上海", "audience": "regulars"}
    assert sendable(warehouse, columns) == [("a", row)]
    assert unsent(warehouse, columns=columns) == {"b": "consent denied or withdrawn", "c": "no consent"}
    assert sendable(warehouse, columns, channel="call") == [("a", row)]
    legitimate = members(warehouse, columns, legitimate_interest=["marketing"])
    assert [customer for customer, row in legitimate.everyone() if row] == ["a", "c"]
    assert legitimate.shape != members(warehouse, columns).shape


def test_of_each_member_who_is_not_sent_the_reason_is_known(warehouse):
    for name in "abcd":
        person(warehouse, name, email=f"{name}@x.cn")
    person(warehouse, "e", phone="+8613900000000")
    stated(warehouse, "email", "a@x.cn", "granted")
    stated(warehouse, "email", "b@x.cn", "granted", "ads")
    for status in ("suppressed", "granted"):
        stated(warehouse, "email", "c@x.cn", status, day=1 if status == "suppressed" else 2)
    warehouse.execute("insert into audiences.memberships values ('regulars', 'merged away', null), ('others', 'f', null)")
    assert unsent(warehouse) == {
        "b": "no consent for the channel",
        "c": "suppressed",
        "d": "no consent for the channel",
        "e": "no usable identifier",
    }
    assert unsent(warehouse, columns=("phone", "email"), legitimate_interest=["marketing"]) == {"c": "suppressed"}
    assert dict(members(warehouse).these(["a", "b"])) == {"a": {"customer_id": "a", "email": "a@x.cn"}, "b": None}
    assert warehouse.execute("from unsent").fetchall() == [("b", "no consent for the channel")]


def test_an_address_that_is_somebody_else_s_now_is_not_sent(warehouse):
    person(warehouse, "a", email="a@x.cn")
    stated(warehouse, "email", "a@x.cn", "granted")
    warehouse.execute("update unified.customer_identifiers set valid_to = '2026-03-01'")
    assert sendable(warehouse) == []


def test_what_the_one_before_stated_about_an_address_and_what_is_dated_ahead_does_not_count(warehouse):
    person(warehouse, "a", email="a@x.cn")
    stated(warehouse, "email", "a@x.cn", "granted")
    warehouse.execute("update unified.customer_identifiers set valid_from = '2026-03-01'")
    assert sendable(warehouse) == []
    warehouse.execute("update unified.consent_statements set occurred_at = '2026-03-15 00:00:01'")
    assert sendable(warehouse) == []
    warehouse.execute("update unified.consent_statements set occurred_at = '2026-03-01'")
    assert len(sendable(warehouse)) == 1


def test_changed_are_those_who_entered_left_or_were_touched_as_by_a_statement(warehouse):
    for name in "abcdefg":
        person(warehouse, name, email=f"{name}@x.cn")
        stated(warehouse, "email", f"{name}@x.cn", "granted")
    since = members(warehouse).position
    warehouse.execute("update staging._sequence set value = 20")
    warehouse.execute("insert into audiences.publications values ('regulars', 2)")
    warehouse.execute("update audiences.memberships set left_at = now() where customer_id = 'b'")
    warehouse.execute("insert into audiences.changes values ('regulars', 1, 'a'), ('regulars', 2, 'b'), ('others', 2, 'c')")
    warehouse.execute("insert into unified.touched_customers values ('d', 10), ('e', 11), ('nobody', 12), ('f', 15)")
    stated(warehouse, "email", "f@x.cn", "withdrawn", day=9)
    assert dict(members(warehouse).changed(since, iter(["g", "e"]))) == {
        "b": None,
        "e": {"customer_id": "e", "email": "e@x.cn"},
        "f": None,
        "g": {"customer_id": "g", "email": "g@x.cn"},
    }


def test_a_warehouse_from_a_backup_is_compared_whole(warehouse):
    since = members(warehouse).position
    warehouse.execute("update staging._sequence set value = 5")
    assert members(warehouse).changed(since, []) is None


def test_no_customers_and_no_publication_are_an_empty_source(warehouse):
    assert members(warehouse).is_empty()
    person(warehouse, "a")
    assert not members(warehouse).is_empty()
    warehouse.execute("delete from audiences.publications")
    assert members(warehouse).is_empty()


def test_from_the_warehouse_through_the_ledger_into_files(home, warehouse):
    for name in "ab":
        person(warehouse, name, email=f"{name}@x.cn")
        stated(warehouse, "email", f"{name}@x.cn", "granted")
    todo = works(home, configure(home, files=GOOD["files"]))
    for change in (None, "delete from unified.customer_identifiers where customer_id = 'a'"):
        if change:
            warehouse.execute(change)
            warehouse.execute("insert into unified.touched_customers values ('a', 11)")
            warehouse.execute("update staging._sequence set value = 11")
        with Ledger(home) as ledger:
            assert plan(ledger, ledger.target("regulars", "files"), todo[0].open(), members(warehouse))
        (report,) = send_all(home, todo)
        assert report.is_finished
    files = sorted((home.deliveries / "_destinations" / "files" / "regulars").iterdir())
    assert [file.read_text().splitlines() for file in files] == [
        ["operation,customer_id,email", "add,a,a@x.cn", "add,b,b@x.cn"],
        ["operation,customer_id,email", "remove,a,"],
    ]


def test_who_withdrew_since_the_plan_is_taken_out_of_what_is_left_to_send(home, warehouse):
    for name in "abc":
        person(warehouse, name, email=f"{name}@x.cn")
        stated(warehouse, "email", f"{name}@x.cn", "granted")
    todo = works(home, configure(home, files=GOOD["files"]))
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "files")
        plan(ledger, target, todo[0].open(), members(warehouse))
        stated(warehouse, "email", "b@x.cn", "withdrawn", day=2)
        assert recheck(ledger, target, todo[0].open(), members(warehouse)) == 1
        assert recheck(ledger, target, todo[0].open(), members(warehouse)) == 0
    send_all(home, todo)
    (file,) = (home.deliveries / "_destinations" / "files" / "regulars").iterdir()
    assert file.read_text().splitlines()[1:] == ["add,a,a@x.cn", "add,c,c@x.cn"]


def test_an_address_that_was_withdrawn_since_the_plan_is_not_sent_where_another_may_be(home, warehouse):
    person(warehouse, "a", email1="old@x.cn", email2="new@x.cn")
    for address in ("old@x.cn", "new@x.cn"):
        stated(warehouse, "email", address, "granted")
    todo = works(home, configure(home, files=GOOD["files"]))
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "files")
        plan(ledger, target, todo[0].open(), members(warehouse))
        stated(warehouse, "email", "new@x.cn", "withdrawn", day=2)
        assert recheck(ledger, target, todo[0].open(), members(warehouse)) == 1
        send_all(home, todo)
        plan(ledger, target, todo[0].open(), members(warehouse))
    send_all(home, todo)
    files = (home.deliveries / "_destinations" / "files" / "regulars").iterdir()
    assert [file.read_text().splitlines()[1:] for file in files] == [["add,a,old@x.cn"]]


def test_where_nobody_may_be_sent_to_any_more_everybody_is_removed(home, warehouse):
    for name in "ab":
        person(warehouse, name, email=f"{name}@x.cn")
        stated(warehouse, "email", f"{name}@x.cn", "granted", "email")
    todo = works(home, configure(home, files=GOOD["files"]))
    with Ledger(home) as ledger:
        target = ledger.target("regulars", "files")
        plan(ledger, target, todo[0].open(), members(warehouse))
        send_all(home, todo)
        made = plan(ledger, target, todo[0].open(), members(warehouse, channel="ads"))
    assert (made.removes, made.adds) == (2, 0)


def test_of_a_stopped_audience_who_refuses_at_an_address_leaves_and_what_else_changed_waits(home, warehouse):
    for name in "abcd":
        person(warehouse, name, email1=f"{name}@x.cn", email2=f"{name}.new@x.cn")
        stated(warehouse, "email", f"{name}@x.cn", "granted")
        stated(warehouse, "email", f"{name}.new@x.cn", "granted")
    todo = works(home, configure(home, files=GOOD["files"]))

    def planned(by) -> tuple[int, int, int] | None:
        with Ledger(home) as ledger:
            made = by(ledger, ledger.target("regulars", "files"), todo[0].open(), members(warehouse))
        send_all(home, todo)
        return made and (made.removes, made.updates, made.adds)

    assert planned(plan) == (0, 0, 4)
    warehouse.execute("update staging._sequence set value = 20")
    warehouse.execute("insert into unified.touched_customers select unnest(['a', 'b', 'c']), 15")
    warehouse.execute("update unified.customer_identifiers set valid_to = '2026-03-01' where identifier_value = 'a.new@x.cn'")
    stated(warehouse, "email", "b.new@x.cn", "withdrawn", day=3)
    warehouse.execute("delete from unified.customers where customer_id = 'c'")  # merged into whom it is not sure that they are
    assert planned(plan_leavers) == (1, 0, 0), "b, whose address may be the one that is there"
    assert planned(plan_leavers) is None
    assert planned(plan) == (1, 1, 1), "c leaves, a has another address, b comes with the one that may be used"


def test_a_delivery_sends_what_is_left_then_what_changed_to_each_destination(home, receiver, monkeypatch):
    monkeypatch.setenv("CRM_SECRET", SECRET)
    hook = f"kind: webhook\nurl: {receiver.url}\nsecret: {{env: CRM_SECRET}}\n{GOOD['files'].partition(chr(10))[2]}"
    destinations = configure(home, files=GOOD["files"], hook=hook, unset=hook.replace("CRM_SECRET", "NOT_SET"))
    audience = Audience("regulars", "Regulars", "", "a@x.cn", "marketing", frozenset())
    with home.connect("test") as connection:
        connection.execute(WAREHOUSE)
        judge_permissions(connection, as_of="2026-03-15")
        connection.execute("insert into audiences.publications values ('regulars', 1)")
        for name in "abc":
            person(connection, name, email=f"{name}@x.cn")
            stated(connection, "email", f"{name}@x.cn", "granted")
    receiver.answers = [(401, {}, b"")]

    monkeypatch.setattr("dagster_project.lib.delivery.deliver.require_proof", lambda *_: None)
    refresh = Refresh(1, datetime.now(UTC), 1)

    def reports():
        return {report.destination: report for report in Delivery(home, [audience], destinations, refresh).run()}

    first = reports()
    assert (first["files"].accepted, first["files"].is_finished) == (3, True)
    assert first["hook"].stopped.startswith("the webhook answers 401")
    assert "NOT_SET is not set" in first["unset"].stopped
    with home.connect("test") as connection:
        stated(connection, "email", "b@x.cn", "withdrawn", day=2)
        connection.execute(
            "insert into unified.touched_customers select customer_id, 11 from unified.customers where customer_id = 'b'"
        )
        connection.execute("update staging._sequence set value = 11")
    second = reports()
    assert (second["files"].version, second["files"].accepted) == (2, 1)
    assert second["hook"].is_finished
    sent = [json.loads(body)["rows"] for _, body in receiver.requests[1:]]
    assert [[row["customer_id"] for row in rows] for rows in sent] == [["a", "c"]]
    assert reports()["files"].version is None


def test_a_home_without_destinations_delivers_nothing(home):
    assert Delivery(home, [], {}, Refresh(1, datetime.now(UTC), 1)).run() == []
