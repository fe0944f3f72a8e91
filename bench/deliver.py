"""What ledger and webhook cost beside a bare client that sends the same bodies, and what a few changes cost among many."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from bench.measure import forget_peak_memory, in_own_process, peak_memory, timed
from dagster_project.lib.delivery.ledger import Ledger
from dagster_project.lib.delivery.members import WarehouseMembers
from dagster_project.lib.delivery.planning import plan
from dagster_project.lib.delivery.sending import Sender
from dagster_project.lib.delivery.webhook import Webhook
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, Home
from dagster_project.lib.publish import prepare_audiences

CHANGED = 100
_BATCH = 1_000
_COLUMNS = {name: name for name in ("customer_id", "email", "phone", "first_name", "city")}


def run(folder: Path, members: int, few: int, many: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Deliver to a server on this machine; times are seconds.

    Args:
        folder: where to work; emptied before and after.
        members: of the audience that is sent whole, beside a bare client.
        few, many: members of the audiences in which a hundred change.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with _server() as url:
        tell(f"{members:,} members: planning and sending")
        whole = in_own_process("bench.deliver:whole", folder / "whole", members, url)
        tell(f"{members:,} members: the same bodies by a bare client")
        bare = in_own_process("bench.deliver:bare", folder / "whole", url)
        changes = []
        for size in (few, many):
            tell(f"{CHANGED} changes among {size:,} members")
            changes.append(in_own_process("bench.deliver:changes", folder / f"among{size}", size, url))
            shutil.rmtree(folder / f"among{size}")
    shutil.rmtree(folder)
    return {
        "members": members,
        "plan": whole["plan"],
        "send": whole["send"],
        "bare": bare["send"],
        "members_per_second": round(members / (whole["plan"] + whole["send"])),
        "send_to_bare": round(whole["send"] / bare["send"], 2),
        "grown_mib": whole["grown_mib"],
        "changes": changes,
        "many_to_few": round(changes[1]["seconds"] / changes[0]["seconds"], 2),
    }


class _server:  # noqa: N801
    """A server that takes everything, in a process of its own."""

    def __enter__(self) -> str:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from bench.deliver import serve; serve()"],
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        return f"http://127.0.0.1:{self._process.stdout.readline().strip()}/"

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def serve() -> None:
    """Answer every POST with 200; says its port first."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


def whole(folder: str, members: str, url: str) -> dict[str, Any]:
    """Plan and send everybody."""
    home = Home(Path(folder)).prepare()
    _fill(home, int(members))
    forget_peak_memory()
    before = peak_memory()
    planned, sent = _deliver(home, url)
    return {"plan": planned, "send": sent, "grown_mib": round((peak_memory() - before) / 2**20)}


def bare(folder: str, url: str) -> dict[str, Any]:
    """The same rows, as bodies that were made before, one after the other over one connection."""
    with Home(Path(folder)).connect("bench") as connection:
        rows = [row for _, row in WarehouseMembers(connection, "everybody", "marketing", _COLUMNS).everyone()]
    bodies = [
        json.dumps(
            {"operation": "add", "audience": "everybody", "rows": rows[start : start + _BATCH]}, ensure_ascii=False
        ).encode()
        for start in range(0, len(rows), _BATCH)
    ]

    def send() -> None:
        with httpx.Client() as client:
            for body in bodies:
                client.post(url, content=body, headers={"Content-Type": "application/json"}).raise_for_status()

    return {"send": round(timed(send)[0], 3)}


def changes(folder: str, members: str, url: str) -> dict[str, Any]:
    """The median of five times a hundred changes, after everybody was sent."""
    home, size = Home(Path(folder)).prepare(), int(members)
    _fill(home, size)
    _deliver(home, url)
    taken = []
    for write in range(2, 7):
        with home.connect("bench") as connection:
            connection.execute(
                "update unified.customers set city = ? where customer_id in (select customer_id from unified.customers "
                f"using sample reservoir({CHANGED} rows) repeatable ({write}))",
                [f"city {write}"],
            )
            connection.execute(
                "insert into unified.touched_customers select customer_id, ? from unified.customers where city = ?",
                [write, f"city {write}"],
            )
            connection.execute("update staging._sequence set value = ?", [write])
        taken.append(sum(_deliver(home, url)))
    return {"members": size, "seconds": round(sorted(taken)[2], 3)}


def _deliver(home: Home, url: str) -> tuple[float, float]:
    """Seconds of planning and of sending."""
    webhook = Webhook(url, "secret", "everybody", tuple(_COLUMNS), ("customer_id",), "deduplicates", _BATCH, {})
    with Ledger(home) as ledger:
        target = ledger.target("everybody", "webhook")
        with home.connect("bench") as connection:
            members = WarehouseMembers(connection, "everybody", "marketing", _COLUMNS)
            planned, _ = timed(lambda: plan(ledger, target, webhook, members))
        sent, report = timed(lambda: Sender(ledger, webhook).send(target))
    if not report.is_finished:
        raise OnefoldError(f"not everything was sent: {report.stopped}")
    return round(planned, 3), round(sent, 3)


def _fill(home: Home, members: int) -> None:
    """The tables that a delivery reads, with an audience of everybody."""
    channels = PROJECT_ROOT / "dbt" / "seeds" / "contact_channels.csv"
    with home.connect("bench") as connection:
        connection.execute("create schema staging; create schema unified; create schema reference")
        prepare_audiences(connection)
        for statement in _TABLES.split(";\n"):
            connection.execute(statement, {"members": members} if "$members" in statement else None)
        connection.execute(f"create table reference.contact_channels as from read_csv('{channels}')")
        connection.execute(
            "insert into audiences.memberships by name "
            "select 'everybody' as audience, customer_id, now()::timestamp as entered_at, 1 as version from unified.customers"
        )
        connection.execute(
            "insert into audiences.publications by name select 'everybody' as audience, 1 as version, 1 as refresh, "
            "$members as members, $members as added, 0 as removed, 0 as excluded, now()::timestamp as published_at",
            {"members": members},
        )


# Half of the members have a phone, too; everybody consented by e-mail and, if they have one, by phone.
_TABLES = """
create table staging._sequence as select 1::bigint as value;
create table unified.touched_customers (customer_id varchar, _seq bigint);
create table unified.customers as
select md5(n::varchar) as customer_id, 'Vorname ' || n % 1000 as first_name, 'city ' || n % 300 as city
from range($members) as people(n) order by customer_id;
create table unified.customer_identifiers as
select customer_id, type as identifier_type, type || ':' || customer_id || '@example.com' as identifier_value,
    md5(type || customer_id) as identifier_token, null::timestamp as valid_from, null::timestamp as valid_to,
    now()::timestamp as last_seen_at, true as is_person
from unified.customers, (values ('email'), ('phone')) as types(type) where type = 'email' or customer_id < '8';
create table unified.contact_permissions as
select customer_id, identifier_type, identifier_value, identifier_token, 'marketing' as purpose,
    case identifier_type when 'email' then 'email' else 'sms' end as channel, true as is_allowed, 'granted' as reason,
    now()::timestamp as as_of, 1::bigint as _seq
from unified.customer_identifiers
"""
