"""How well records are matched: Onefold as shipped beside plain Splink and exact rules, on data with known truth.

The figures are over pairs of records: precision, recall and F1 of the pairs that a method takes for one person among all
true pairs, whether it compared them or not. That is how Splink's published ones are counted; they are the best on its
curve, chosen with the truth at hand, where Onefold has its shipped thresholds.
"""

import logging
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from dagster_project.lib.home import Home
from dagster_project.lib.identity.backend import DuckDB
from dagster_project.lib.identity.comparable import prepare
from dagster_project.lib.identity.components import connected_components
from dagster_project.lib.identity.groups import group
from dagster_project.lib.identity.match import predict, train
from dagster_project.lib.identity.rules import Matching

SETS = ("fake_1000", "febrl3", "febrl4")
NOISE = (0.5, 1.0, 3.0)  # times the rates of the simulator's default

_FAKE = """
    select
        unique_id as profile_id, first_name, surname as last_name, try_cast(dob as date) as birth_date, city, email,
        cluster as person,
    from read_csv('{file}', all_varchar = true)
"""
_FEBRL = """
    select
        rec_id as profile_id,
        given_name as first_name,
        surname as last_name,
        try_strptime(date_of_birth, '%Y%m%d')::date as birth_date,
        concat_ws(' ', street_number, address_1) as address,
        postcode as postal_code,
        suburb as city,
        state as region,
        soc_sec_id as document,
        regexp_extract(rec_id, '^rec-\\d+') as person,
    from (select nullif(trim(columns(*)), '') from read_csv('{file}', all_varchar = true, normalize_names = true))
"""


def load(connection: duckdb.DuckDBPyConnection, name: str, folder: Path) -> None:
    """Write `records`, profiles with `person`, from one of SETS; febrl4 is the union of its two files."""
    query, files = {
        "fake_1000": (_FAKE, ["fake_1000"]),
        "febrl3": (_FEBRL, ["febrl3"]),
        "febrl4": (_FEBRL, ["febrl4a", "febrl4b"]),
    }[name]
    parts = [query.format(file=folder / "entity_resolution" / f"{file}.csv") for file in files]
    connection.execute(f"create or replace table records as {' union all '.join(parts)}")


def load_company(connection: duckdb.DuckDBPyConnection, home: Home, people: int, noise: float) -> None:
    """Write `records` from the CRM contacts of a sample company, simulated, ingested and cleaned in `home`."""
    from dagster_project.lib import dbt
    from dagster_project.lib.contracts import load_channels
    from dagster_project.lib.ingest import ingest_channel
    from dagster_project.lib.settings import Settings
    from simulator import SETTINGS, simulate
    from simulator.noise import Noise

    home.prepare()
    (home.path / "onefold.yaml").write_text(SETTINGS)
    rates = Noise(**{each.name: min(1.0, getattr(Noise(), each.name) * noise) for each in fields(Noise)})
    truth = home.path / "truth"
    simulate(home.landing, truth, people=people, days=180, seed=11, until=date(2026, 6, 1), noise=rates)
    ingest_channel(home, load_channels(home)["crm"], Settings.of(home))
    dbt.run(home, ["build", "--select", "+cleaned_crm_contacts", "--exclude-resource-type", "unit_test", "test"])
    with home.connect("accuracy") as warehouse:
        warehouse.execute(f"copy cleaned.crm_contacts to '{home.temporary / 'contacts.parquet'}'")
    connection.execute(
        f"""
        create or replace table records as
        select
            contact_id as profile_id, first_name, last_name, full_name, gender, birth_date, address, postal_code, city, region,
            country,
            case when is_email_valid then email end as email,
            case when is_phone_valid then phone end as phone,
            person_id as person,
        from read_parquet('{home.temporary / "contacts.parquet"}')
        join (
            select distinct record_id as contact_id, person_id from read_csv('{truth / "records.csv"}', all_varchar = true)
            where channel = 'crm' and entity = 'contacts'
        ) using (contact_id)
        """
    )


def match(connection: duckdb.DuckDBPyConnection, matching: Matching | None = None) -> None:
    """Match `records` as shipped, without a look at `person`: writes `pairs`."""
    matching = matching or Matching()
    prepare(connection, "select * exclude (person) from records", "prepared")
    model = train(DuckDB(connection), "prepared", matching, datetime(2026, 6, 1, tzinfo=UTC))
    predict(DuckDB(connection), "prepared", model, matching, "pairs")


def score(connection: duckdb.DuckDBPyConnection, pairs: str) -> tuple[float, float, float]:
    """Precision, recall and F1 of the pairs (left_id, right_id) that a query gives, against `records`."""
    taken, right = connection.execute(
        f"""
        select count(*), count(*) filter (one.person = other.person)
        from ({pairs}) as pairs
        join records as one on one.profile_id = left_id
        join records as other on other.profile_id = right_id
        """
    ).fetchone()
    (true,) = connection.execute(
        "select sum(n * (n - 1) / 2) from (select count(*) as n from records group by person)"
    ).fetchone()
    return right / max(taken, 1), right / true, 2 * right / (taken + true)


_GROUPED = """
    select one.profile_id as left_id, other.profile_id as right_id
    from {groups} as one join {groups} as other on one.group_id = other.group_id and one.profile_id < other.profile_id
"""


def run(folder: Path, real_data: Path | None, people: int, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every set by every method; sets of `real_data` only where it is given.

    Args:
        folder: where the sample companies are made; must be new.
        people: of each sample company.
    """
    results = []
    for name in [*(SETS if real_data else ()), *NOISE]:
        tell(f"matching {name}")
        connection = duckdb.connect()
        if isinstance(name, str):
            load(connection, name, real_data)
        else:
            load_company(connection, Home(folder / f"noise_{name}"), people, name)
        match(connection)
        shown = name if isinstance(name, str) else f"sample company, {name} x noise"
        results += [{"set": shown, "method": method, **figures} for method, figures in _methods(connection).items()]
        if isinstance(name, str):
            results.append({"set": shown, "method": "Splink, best on its curve", **by_splink(name, real_data)})
    return results


def _methods(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, float]]:
    matching = Matching()
    found, grades = {}, []
    for grade in matching.thresholds:
        grades.append(f"'{grade}'")
        found[f"{grade} pairs"] = f"select left_id, right_id from pairs where grade in ({', '.join(grades)})"
        group(connection, "pairs", matching, grade, f"groups_{grade}")
        found[f"{grade} groups"] = _GROUPED.format(groups=f"groups_{grade}")
    _exact_components(connection)
    found["exact rules, connected components"] = _GROUPED.format(groups="exact_groups")
    return {method: _figures(*score(connection, pairs)) for method, pairs in found.items()}


def _figures(precision: float, recall: float, f1: float) -> dict[str, float]:
    return {"precision": round(precision, 4), "recall": round(recall, 4), "f1": round(f1, 4)}


def _exact_components(connection: duckdb.DuckDBPyConnection) -> None:
    """Write `exact_groups`: whoever shares an e-mail, a phone, a document, or both names and the birth date."""
    rules = ("email", "phone", "document", "given || ' ' || family || ' ' || birth_date")
    links = " union all ".join(
        f"select rowid as l, min(rowid) over (partition by {key}) as r from prepared where {key} is not null" for key in rules
    )
    ends = connection.execute(f"select * from ({links})").fetchnumpy()
    (count,) = connection.execute("select count(*) from prepared").fetchone()
    labels = connected_components(count, ends["l"].astype(np.int64), ends["r"].astype(np.int64))
    connection.execute(
        "create or replace table exact_groups as select profile_id, label as group_id "
        "from prepared "
        "join (select unnest(range(len($1::bigint[]))) as n, unnest($1::bigint[]) as label) on n = prepared.rowid",
        [labels.tolist()],
    )


def by_splink(name: str, folder: Path) -> dict[str, float]:
    """The best point on the curve of Splink's own demonstration of the set, with its settings."""
    from splink import DuckDBAPI, Linker, SettingsCreator, block_on
    from splink import comparison_library as compare

    common = {"retain_intermediate_calculation_columns": True}
    if name == "fake_1000":
        files, key = ["fake_1000"], "unique_id"
        settings = SettingsCreator(
            link_type="dedupe_only",
            blocking_rules_to_generate_predictions=[block_on(column) for column in ("first_name", "surname", "dob", "email")],
            comparisons=[
                compare.ForenameSurnameComparison("first_name", "surname"),
                compare.DateOfBirthComparison("dob", input_is_string=False),
                compare.ExactMatch("city").configure(term_frequency_adjustments=True),
                compare.EmailComparison("email"),
            ],
            **common,
        )
        rules = [
            "l.first_name = r.first_name and levenshtein(r.dob::varchar, l.dob::varchar) <= 1",
            "l.surname = r.surname and levenshtein(r.dob::varchar, l.dob::varchar) <= 1",
            "l.first_name = r.first_name and levenshtein(r.surname, l.surname) <= 2",
            "l.email = r.email",
        ]
        recall, seed, passes, without = 0.7, 5, [("dob",), ("email",), ("first_name", "surname")], True
    elif name == "febrl3":
        files, key = ["febrl3"], "rec_id"
        columns = ("soc_sec_id", "given_name", "surname", "date_of_birth", "postcode")
        settings = SettingsCreator(
            unique_id_column_name=key,
            link_type="dedupe_only",
            blocking_rules_to_generate_predictions=[block_on(column) for column in columns],
            comparisons=[
                compare.NameComparison("given_name"),
                compare.NameComparison("surname"),
                compare.DateOfBirthComparison("date_of_birth", input_is_string=True, datetime_format="%Y%m%d"),
                compare.DamerauLevenshteinAtThresholds("soc_sec_id", [2]),
                compare.ExactMatch("street_number").configure(term_frequency_adjustments=True),
                compare.ExactMatch("postcode").configure(term_frequency_adjustments=True),
            ],
            **common,
        )
        rules = [
            block_on("soc_sec_id"),
            block_on("given_name", "surname", "date_of_birth"),
            "l.given_name = r.surname and l.surname = r.given_name and l.date_of_birth = r.date_of_birth",
        ]
        recall, seed, passes, without = 0.9, 2, [("date_of_birth",), ("postcode",)], False
    else:
        files, key = ["febrl4a", "febrl4b"], "rec_id"
        settings = SettingsCreator(
            unique_id_column_name=key,
            link_type="link_only",
            blocking_rules_to_generate_predictions=[
                block_on("given_name", "surname"),
                "l.given_name = r.surname and l.surname = r.given_name",
                block_on("date_of_birth"),
                block_on("soc_sec_id"),
                block_on("state", "address_1"),
                block_on("street_number", "address_1"),
                block_on("postcode"),
            ],
            comparisons=[
                compare.NameComparison("given_name").configure(term_frequency_adjustments=True),
                compare.NameComparison("surname").configure(term_frequency_adjustments=True),
                compare.DateOfBirthComparison("date_of_birth", input_is_string=True, datetime_format="%Y%m%d"),
                compare.DamerauLevenshteinAtThresholds("soc_sec_id", [1, 2]),
                compare.ExactMatch("street_number").configure(term_frequency_adjustments=True),
                compare.DamerauLevenshteinAtThresholds("postcode", [1, 2]).configure(term_frequency_adjustments=True),
            ],
            **common,
        )
        rules = [block_on("soc_sec_id"), block_on("given_name", "surname", "date_of_birth")]
        recall, seed, passes, without = 0.8, 1, [("date_of_birth",), ("postcode",)], True
    connection = duckdb.connect()
    api = DuckDBAPI(connection=connection)
    inputs = [
        api.register(connection.sql(_as_splink_reads(folder / "entity_resolution" / f"{file}.csv", key))) for file in files
    ]
    linker = Linker(inputs if len(inputs) > 1 else inputs[0], settings, log_level=logging.ERROR)
    linker.training.estimate_probability_two_random_records_match(rules, recall=recall)
    linker.training.estimate_u_using_random_sampling(max_pairs=1e6, seed=seed)
    for columns in passes:
        linker.training.estimate_parameters_using_expectation_maximisation(
            block_on(*columns), estimate_without_term_frequencies=without
        )
    curve = linker.evaluation.accuracy_analysis_from_labels_column("cluster", output_type="table").as_record_list()
    best = max(curve, key=lambda point: point["f1"])
    return _figures(float(best["precision"]), float(best["recall"]), float(best["f1"]))


def _as_splink_reads(file: Path, key: str) -> str:
    if key == "unique_id":
        return f"select * from read_csv('{file}')"
    return f"""
        select *, regexp_extract(rec_id, '^([^-]+-[^-]+)', 1) as cluster
        from (select nullif(trim(columns(*)), '') from read_csv('{file}', all_varchar = true, normalize_names = true))
    """
