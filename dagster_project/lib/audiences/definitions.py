"""Which definition the table of an audience was built from, so that it is not published as what its files say by now."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import duckdb

from dagster_project.lib.home import transaction


def fingerprint(sql: str) -> str:
    """Changes with what a model's text selects: not with comments, layout, or who of the selected is in the control group."""
    without = re.sub(r"^\s*--.*$|\s-- .*$|^\s*(substr\(md5\(.*|false) as is_control$", "", sql, flags=re.MULTILINE)
    return hashlib.sha256(" ".join(without.split()).encode()).hexdigest()[:16]


def combined(fingerprints: Iterable[tuple[str, str]]) -> str:
    """Of an audience and the audiences that it reads."""
    return hashlib.sha256(str(sorted(fingerprints)).encode()).hexdigest()[:16]


def note(connection: duckdb.DuckDBPyConnection, nodes: Iterable[Any]) -> None:
    """Remember what the audiences are that dbt is about to build."""
    found = {n.alias: fingerprint(n.raw_code) for n in nodes if n.resource_type == "model" and n.schema == "audiences"}
    connection.execute("create table if not exists staging._definitions (audience varchar, definition varchar)")
    if dict(connection.execute("from staging._definitions").fetchall()) == found:
        return
    with transaction(connection):
        connection.execute("delete from staging._definitions")
        connection.execute(
            "insert into staging._definitions select unnest(?::varchar[]), unnest(?::varchar[])",
            [list(found), list(found.values())],
        )


def changed(connection: duckdb.DuckDBPyConnection, fingerprints: Mapping[str, str]) -> list[str]:
    """Those of some audiences that have another definition now than when their tables were built."""
    connection.execute("create table if not exists staging._definitions (audience varchar, definition varchar)")
    built = dict(connection.execute("from staging._definitions").fetchall())
    return [name for name, own in sorted(fingerprints.items()) if built.get(name, own) != own]
