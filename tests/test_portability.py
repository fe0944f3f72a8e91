"""The guard that keeps the dbt project portable: what only DuckDB understands is refused, with place and remedy."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dagster_project.lib import dbt, portability
from dagster_project.lib.home import PROJECT_ROOT, Home

CUSTOMERS = "from {{ ref('unified_customers') }}"
EVENTS = "from {{ ref('unified_customer_events') }}"
NEW_MACRO = "use a new macro in dbt/macros/engine/ with a duckdb__ and a spark__ form"

# Each is a model of its own; its first line is a comment, so the SQL begins in line 2.
REFUSED = {
    "lists": (
        f"select customer_id, list_sort(list(distinct channel)) as channels\n{EVENTS} group by customer_id",
        ":2: list_sort is DuckDB's; use the macro distinct_text (dbt/macros/engine/distinct_text.sql)",
    ),
    "qualify": (
        f"select customer_id {EVENTS}\nqualify row_number() over (partition by customer_id order by occurred_at, event_id) = 1",
        ":3: qualify is DuckDB's; use row_number() in a subquery, and a condition on it outside",
    ),
    "exclude": (f"select * exclude (email) {CUSTOMERS}", ":2: * exclude is DuckDB's; use the columns by name"),
    "json_arrow": (f"select properties ->> '$.colour' as colour {EVENTS}", f":2: -> is DuckDB's; {NEW_MACRO}"),
    "json_function": (
        f"select json_extract_string(properties, '$.colour') as colour\n{EVENTS}",
        f":2: json_extract_string is DuckDB's; {NEW_MACRO}",
    ),
    "unnest": (f"select unnest(string_split(channels, ',')) as channel {CUSTOMERS}", f":2: unnest is DuckDB's; {NEW_MACRO}"),
    "strptime": (
        f"select\n    strptime(url, '%Y') as year\n{EVENTS}",
        ":3: strptime is DuckDB's; use the macro parse_date (dbt/macros/engine/parse_date.sql)",
    ),
    "epoch": (
        f"select epoch_ms(occurred_at) as at {EVENTS}",
        ":2: epoch_ms is DuckDB's; use the macro epoch_micros (dbt/macros/engine/epoch_micros.sql)",
    ),
    "arg_max": (f"select arg_max(url, occurred_at) as last_url {EVENTS}", ":2: arg_max is DuckDB's; use max_by()"),
    "sha256": (f"select sha256(email) as token {CUSTOMERS}", ":2: sha256 is DuckDB's; use md5(), or"),
    "matches": (
        f"select customer_id {CUSTOMERS} where regexp_matches(email, '^a')",
        ":2: regexp_matches is DuckDB's; use the macro matches (dbt/macros/engine/matches.sql)",
    ),
    "replace": (
        f"select regexp_replace(email, 'a', 'b', 'g') as email {CUSTOMERS}",
        ":2: regexp_replace means something else in Spark (every match is replaced, where DuckDB replaces the first); "
        "use the macro replace_all (dbt/macros/engine/replace_all.sql)",
    ),
    "concat": (
        f"select concat(email, phone) as contact {CUSTOMERS}",
        ":2: concat means something else in Spark (null if any part is null, which DuckDB skips); use concat_ws()",
    ),
    "small_letters": (
        f"select lower(email) as email {CUSTOMERS}",
        ":2: lower means something else in Spark (İ as two letters, another Σ at the end of words); use the macro lower_case",
    ),
    "capitals": (
        f"select upper(email) as email {CUSTOMERS}",
        ":2: upper means something else in Spark (several letters for one, as SS for ß); use the macro upper_case",
    ),
    "written_number": (
        f"select try_cast(product_id as bigint) as number {EVENTS}",
        ":2: try_cast means something else in Spark (5.0 is no bigint, 5d is a double, 2026 is a date); use the macros",
    ),
    "digits": (
        f"select round(score, 2) as score {EVENTS}",
        ":2: round to digits rounds what is written of a double in Spark; use the macro decimal_of",
    ),
    "division": (
        f"select\n    revenue_base / order_count as mean {CUSTOMERS}",
        ":3: / may be of decimals, which Spark gives as a rounded decimal; use cast(… as double) on one side",
    ),
    "average": (
        f"select channel, avg(amount_base) as mean {EVENTS} group by channel",
        ":2: avg may be of decimals, which Spark gives as a rounded decimal; use avg(cast(… as double))",
    ),
    "searched": (
        f"select customer_id\n{CUSTOMERS} where full_name like concat_ws('', '%', city, '%')",
        ":3: like with a pattern from data takes its \\ for an escape in Spark; use instr()",
    ),
    "fraction": (
        f"select cast(cast(revenue_base as double) / 2 as bigint) as half {CUSTOMERS}",
        ":2: cast of a fraction to an integer cuts it off in Spark, where DuckDB rounds; use floor() or round() inside",
    ),
    "datediff": (
        f"select datediff('day', first_seen_at, last_seen_at) as days {CUSTOMERS}",
        ":2: datediff means something else in Spark (end before start, and no unit in quotes); use dbt.datediff",
    ),
    "dates": (
        f"select cast(last_seen_at as date) - cast(first_seen_at as date) as days\n{CUSTOMERS}",
        ":2: - between dates is DuckDB's; use dbt.datediff",
    ),
    "interval": (
        f"select first_seen_at + interval (event_count) day as at {CUSTOMERS}",
        ":2: interval is DuckDB's; use dbt.dateadd",
    ),
    "ordered": (
        f"select string_agg(channel, ',' order by channel) as channels {EVENTS}",
        ":2: order by inside string_agg is DuckDB's; use the macro distinct_text",
    ),
    "asof": (f"select a.event_id {EVENTS} as a asof join {{{{ ref('unified_consents') }}}} as b", ":2: asof is DuckDB's"),
    "from_first": (
        f"select customer_id from (\n    {CUSTOMERS} select customer_id\n)",
        ":3: from before select is DuckDB's; use select first",
    ),
    "distinct_on": (f"select distinct on (customer_id) * {EVENTS}", ":2: distinct on is DuckDB's; use row_number()"),
    "by_name": (f"select customer_id {EVENTS} union all by name select customer_id {EVENTS}", ":2: by name is DuckDB's"),
    "list_literal": (
        f"select [email, phone] as contacts {CUSTOMERS}",
        ":2: [ is DuckDB's; use a new macro in dbt/macros/engine/",
    ),
    "quotes": (f'select email as "E-mail" {CUSTOMERS}', ":2: \" is DuckDB's; use a name that needs no quotes"),
    "power": (f"select event_count ^ 2 as squared {CUSTOMERS}", ":2: ^ is DuckDB's; use pow()"),
    "day_of_week": (f"select extract(dow from occurred_at) as day {EVENTS}", f":2: dow is DuckDB's; {NEW_MACRO}"),
    "integer_division": (f"select event_count // 2 as half {CUSTOMERS}", ":2: // is DuckDB's; use floor(a / b)"),
    "type": (f"select event_count::varchar as events {CUSTOMERS}", ":2: varchar is not a type of Spark; use string"),
    "type_in_cast": (
        f"select cast(event_count as hugeint) as n {CUSTOMERS}",
        ":2: hugeint is not a type of Spark; use decimal",
    ),
    "trim": (f"select ltrim(phone, '+') as digits {CUSTOMERS}", ":2: ltrim takes its two arguments in another order in Spark"),
    "number": (f"select event_count * 1_000 as n {CUSTOMERS}", ":2: number in other than digits is DuckDB's; use plain digits"),
    "escape": (
        f"select customer_id {CUSTOMERS}\nwhere email like 'a\\_b'",
        ":3: \\ in a text is an escape for Spark only; use a class such as [.] or [0-9]",
    ),
    "comma": (
        f"select customer_id, {CUSTOMERS.replace('from', chr(10) + 'from')}",
        ":2: , at the end of a list is DuckDB's; use no comma there",
    ),
    "nobody": (f"select frobnicate(email) as x {CUSTOMERS}", f":2: frobnicate is not a function of Spark; {NEW_MACRO}"),
    # No source has the word as it stands; the compiled statement does.
    "assembled": (f"select {{{{ 'list_' ~ 'sum' }}}}(email) as x {CUSTOMERS}", ":2: list_sum is DuckDB's;"),
    "argument": (
        "select\n    {{ tag('argument', value='list_any_value(channels)') }}\n" + CUSTOMERS,
        f":3: list_any_value is DuckDB's; {NEW_MACRO}",
    ),
    "syntax": (f"select customer_id\n{CUSTOMERS} where email ~ '^a'", ":3: does not parse in Spark's dialect at the end of: "),
    "when_incremental": (
        "{{ config(materialized='incremental') }}\nselect customer_id "
        + CUSTOMERS
        + "\n{% if is_incremental() %}where {{ 'list_' ~ 'max' }}(email) = ''{% endif %}",
        ":4: list_max is DuckDB's;",
    ),
    "when_full": (
        "{{ config(materialized='incremental') }}\nselect customer_id "
        + CUSTOMERS
        + "\n{% if not is_incremental() %}where {{ 'list_' ~ 'min' }}(email) = ''{% endif %}",
        ":4: list_min is DuckDB's;",
    ),
}

ACCEPTED = f"""
-- Words in comments and texts are no SQL: qualify, list_sort(x), "quoted", [1], a // b.
with counted as (
    select
        customer_id, 'qualify [it''s] list_sort(x) "quoted" -- no comment' as remark, occurred_at::date as day,
        count(*) filter (where amount_base > 0) as paid, max_by(url, occurred_at) as last_url, md5(event_name) as mark,
        percentile_cont(0.5) within group (order by amount_base) as middle, {{{{ number_of('product_id') }}}} as number,
        {{{{ replace_all('url', '^[a-z]+//|[\\"]', '') }}}} as path,
        {{{{ dbt.datediff('occurred_at', as_of(), 'day') }}}} as days, occurred_at - interval '30' day as before,
        trim(both 'x' from url) as short, cast(amount_base as decimal(18, 4)) as amount, extract(week from occurred_at) as week
    {EVENTS}
    group by all
),

pairs (first_id, second_id) as (
    select one.customer_id, two.customer_id from counted as one inner join counted as two using (customer_id)
)

select first_id, (select max(day) from counted order by max(day)) as day from pairs
union all
select customer_id, day from counted as renamed (customer_id, remark, day)
"""

MACROS = """{# Nothing calls it. #}
{% macro lonely(column) -%}
    array_to_string({{ column }}, ',')
{%- endmacro %}

{% macro spark__elsewhere(column) -%}{{ column }}{%- endmacro %}
"""
DBTS_OWN = """{# dbt has the macro, and for DuckDB the right form. #}
{% macro spark__last_day(date, datepart) -%}last_day({{ date }}){%- endmacro %}
"""
ENGINE = """{# The length of a list. #}
{% macro list_size(value) -%}{{ return(adapter.dispatch('list_size')(value)) }}{%- endmacro %}

{% macro duckdb__list_size(value) -%}len({{ value }}){%- endmacro %}
"""
WRONG_FORM = """{# The day of the week, 1 is Monday. #}
{% macro week_day(value) -%}{{ return(adapter.dispatch('week_day')(value)) }}{%- endmacro %}

{% macro duckdb__week_day(value) -%}isodow({{ value }}){%- endmacro %}

{% macro spark__week_day(value) -%}
    isodow({{ value }})
{%- endmacro %}
"""
CONTRACT = """
models:
  - name: audiences_accepted
    columns: [{name: day, data_type: varchar}]
"""


def _refusals(project: Path, added: dict[str, str]) -> str:
    """What `onefold check` says of a copy of the project with more files in its dbt folder."""
    for part in ("dagster_project", "dbt", "expectations"):
        ignored = shutil.ignore_patterns("__pycache__", "target", "logs", "staging")
        shutil.copytree(PROJECT_ROOT / part, project / part, ignore=ignored)
    for file, content in added.items():
        (project / "dbt" / file).write_text(content, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", "from dagster_project.cli import main; main()", "check"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "ONEFOLD_HOME": str(project / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> str:
    models = {f"models/audiences/audiences_{name}.sql": f"-- Grain: one row.\n{sql}\n" for name, (sql, _) in REFUSED.items()}
    others = {
        "models/audiences/audiences_accepted.sql": ACCEPTED,
        "models/audiences/accepted.yml": CONTRACT,
        "macros/lonely.sql": MACROS,
        "macros/engine/last_day.sql": DBTS_OWN,
        "macros/engine/week_day.sql": WRONG_FORM,
        "tests/a_test.sql": f"select today() as day {CUSTOMERS} where 1 = 0\n",
    }
    return _refusals(tmp_path_factory.mktemp("portability") / "project", {**models, **others})


@pytest.mark.parametrize("name", REFUSED)
def test_what_only_one_engine_understands_is_refused_with_its_place_and_the_remedy(refused: str, name: str) -> None:
    expected = f"dbt/models/audiences/audiences_{name}.sql{REFUSED[name][1]}"
    assert any(line.startswith(expected) for line in refused.splitlines()), f"not said: {expected}\n{refused}"


def test_nothing_else_is_refused(refused: str) -> None:
    wrong = {f"audiences_{name}.sql" for name in REFUSED} | {"lonely.sql", "week_day.sql", "a_test.sql"}
    said = [line for line in refused.splitlines() if line.startswith("dbt/")]
    assert [line for line in said if Path(line.split(":")[0]).name not in wrong | {"accepted.yml"}] == []
    assert [line for line in said if line.startswith("dbt/models/audiences/accepted.yml")] == [
        "dbt/models/audiences/accepted.yml: audiences_accepted.day: varchar is not a type of Spark; use string"
    ]


def test_macros_and_tests_are_read_too(refused: str) -> None:
    assert "dbt/macros/lonely.sql:3: array_to_string is DuckDB's; use the macro distinct_text" in refused
    assert "dbt/tests/a_test.sql:1: today is DuckDB's; " + NEW_MACRO in refused


def test_the_form_for_spark_is_read_too(refused: str) -> None:
    assert "dbt/macros/engine/week_day.sql:7: isodow is DuckDB's, in the form for Spark" in refused
    assert "dbt/macros/lonely.sql: spark__elsewhere belongs in a file of dbt/macros/engine/" in refused


def test_an_engine_macro_has_both_forms_in_one_file(tmp_path: Path) -> None:
    refused = _refusals(tmp_path / "project", {"macros/engine/list_size.sql": ENGINE})
    assert "dbt/macros/engine/list_size.sql: lacks the macro spark__list_size; each file here has one" in refused


def test_the_project_is_portable_in_full_and_in_incremental_form(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = dbt.compile_for_spark(home)
    forms = [s.sql for s in statements if s.files[0] == "dbt/models/identity/identity_records.sql"]
    assert ["from identity.records" in sql for sql in forms] == [False, True]
    assert len([s for s in statements if s.files[0] == "dbt/models/audiences/audiences_category_fans.sql"]) == 1  # a table
    monkeypatch.setattr(dbt, "compile_for_spark", lambda home: statements)
    assert portability.require_portable(home) == len(statements) > 200
    # The same process goes on with DuckDB.
    assert dbt.run(home, ["seed"]).success


def test_without_the_spark_adapter_the_sources_are_still_read(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbt.importlib.util, "find_spec", lambda name: None)
    assert portability.require_portable(home) == 0


def test_every_remedy_exists() -> None:
    remedies = [*portability.INSTEAD.values(), *(instead for _, instead in portability.ANOTHER_MEANING.values())]
    shared = portability.spark_functions() & portability.duckdb_functions()
    for remedy in remedies:
        for function in re.findall(r"(\w+)\(\)", remedy):
            assert function in shared and function not in portability.ANOTHER_MEANING, remedy
        for file in re.findall(r"(?:dbt|dagster_project)/[\w/]+[.]\w+", remedy):
            assert (PROJECT_ROOT / file).exists(), remedy
    # What both engines have is not in the table of what only DuckDB has.
    assert not {word for word in portability.INSTEAD if word in portability.spark_functions()}
    assert set(portability.ANOTHER_MEANING) - {"try_cast"} <= shared  # which is syntax
