"""How long matching a hundred thousand profiles takes, beside plain Splink on the same comparisons to be made.

Onefold reads names, finds what to compare, learns, weighs, and tells; Splink gets the names as read and the values to block
by as finished columns, and learns and weighs with the comparisons of its own library. Each runs in a process of its own.
"""

import logging
import random
import shutil
import statistics
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from bench.measure import in_own_process, timed
from dagster_project.lib.identity.rules import Matching

METHODS = ("onefold", "splink")
_DUPLICATES = 0.1  # of people have a second profile
_SPLINK_WRITES_FROM = 25


def run(folder: Path, profiles: int, rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure both in turns; seconds are medians, the ratio is to plain Splink.

    Args:
        folder: where to work; emptied before and after.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tell(f"writing {profiles:,} profiles")
    in_own_process("bench.match:write", folder, profiles)
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    for turn in range(rounds):
        for name in METHODS:
            tell(f"{name}, round {turn + 1} of {rounds}")
            measured[name].append(in_own_process(f"bench.match:by_{name}", folder))
    shutil.rmtree(folder)
    seconds = {name: statistics.median(each["seconds"] for each in taken) for name, taken in measured.items()}
    results = [
        {
            "method": name,
            "seconds": round(seconds[name], 2),
            "to_splink": round(seconds[name] / seconds["splink"], 2),
            "comparisons": taken[0]["comparisons"],
            "pairs": taken[0]["pairs"],
            "peak_gib": max(each["peak_gib"] for each in taken),
        }
        for name, taken in measured.items()
    ]
    return {"profiles": profiles, "rounds": rounds, "results": results}


def write(folder: str, profiles: str) -> dict[str, Any]:
    """Write `profiles.parquet`, people of the sample company's kind, one in ten twice, and `keys.parquet` for plain Splink."""
    from dagster_project.lib.identity.backend import DuckDB
    from dagster_project.lib.identity.blocking import BLOCKING, find_pairs
    from dagster_project.lib.identity.comparable import prepare
    from simulator.noise import Noise, mistype
    from simulator.people import populate

    rng = random.Random(1)
    start = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1000
    rows = []
    for person in populate(int(int(profiles) / (1 + _DUPLICATES)), 180, 1, start, Noise()):
        postcode = f"{person.city.postal_prefix}{person.household % 97:02d}"
        home = [f"{1 + person.household * 7 % 300} {person.household % 997} road", postcode, person.city.name]
        born = person.birth_date.isoformat()
        names = [person.given_name, person.family_name]
        rows.append([person.person_id, *names, person.gender, born, *home, person.email, person.phone])
        if rng.random() < _DUPLICATES:
            again = [person.given_name, mistype("name", person.latin_name.split(".")[0] + "xx", rng).removesuffix("xx")]
            rows.append([f"{person.person_id}-2", *again, person.gender, born, *home, person.second_email, None])
    connection = duckdb.connect()
    names = (
        "profile_id",
        "first_name",
        "last_name",
        "gender",
        "birth_date",
        "address",
        "postal_code",
        "city",
        "email",
        "phone",
    )
    columns = ", ".join(f"unnest(${number}::varchar[]) as {name}" for number, name in enumerate(names, 1))
    connection.execute(f"create table profiles as select {columns}", [list(each) for each in zip(*rows, strict=True)])
    connection.execute(f"copy profiles to '{folder}/profiles.parquet'")
    prepare(connection, "profiles", "prepared")
    find_pairs(DuckDB(connection), "prepared", Matching().largest_block, "pairs")
    keys = ", ".join(f"any_value(key) filter (rule = {number}) as key_{number}" for number in range(len(BLOCKING)))
    connection.execute(
        f"copy (select prepared.* exclude (given_forms), keys.* exclude (profile), prepared.rowid as id from prepared "
        f"left join (select profile, {keys} from _keys group by profile) as keys on keys.profile = prepared.rowid) "
        f"to '{folder}/keys.parquet'"
    )
    return {"rows": len(rows)}


def by_onefold(folder: str) -> dict[str, Any]:
    import splink  # noqa: F401 - nobody's imports are counted

    from dagster_project.lib.identity.backend import DuckDB
    from dagster_project.lib.identity.comparable import prepare
    from dagster_project.lib.identity.match import predict, train

    connection = duckdb.connect()
    connection.execute(f"create table profiles as from '{folder}/profiles.parquet'")

    def work() -> int:
        prepare(connection, "profiles", "prepared")
        model = train(DuckDB(connection), "prepared", Matching(), datetime(2026, 6, 1, tzinfo=UTC))
        return sum(rule.comparisons for rule in predict(DuckDB(connection), "prepared", model, Matching(), "pairs"))

    seconds, comparisons = timed(work)
    (pairs,) = connection.execute("select count(*) from pairs").fetchone()
    return {"seconds": seconds, "comparisons": comparisons, "pairs": pairs}


def by_splink(folder: str) -> dict[str, Any]:
    from splink import DuckDBAPI, Linker, SettingsCreator, block_on
    from splink import comparison_library as compare

    from dagster_project.lib.identity.blocking import BLOCKING

    connection = duckdb.connect()
    connection.execute(f"create table profiles as from '{folder}/keys.parquet'")
    settings = SettingsCreator(
        unique_id_column_name="id",
        link_type="dedupe_only",
        blocking_rules_to_generate_predictions=[block_on(f"key_{number}") for number in range(len(BLOCKING))],
        comparisons=[
            compare.NameComparison("given").configure(term_frequency_adjustments=True),
            compare.NameComparison("family").configure(term_frequency_adjustments=True),
            compare.DateOfBirthComparison("birth_date", input_is_string=True, datetime_format="%Y%m%d"),
            compare.EmailComparison("email").configure(term_frequency_adjustments=True),
            compare.DamerauLevenshteinAtThresholds("phone", [1, 2]).configure(term_frequency_adjustments=True),
            compare.JaroWinklerAtThresholds("address", [0.92, 0.8]).configure(term_frequency_adjustments=True),
            compare.DamerauLevenshteinAtThresholds("postal_code", [1, 2]).configure(term_frequency_adjustments=True),
            compare.ExactMatch("city").configure(term_frequency_adjustments=True),
            compare.ExactMatch("gender"),
        ],
    )
    api = DuckDBAPI(connection=connection)

    def work() -> Any:
        linker = Linker(api.register("profiles"), settings, log_level=logging.ERROR)
        training = linker.training
        training.estimate_probability_two_random_records_match([block_on("given", "family", "birth_date")], recall=0.7)
        training.estimate_u_using_random_sampling(max_pairs=1e6, seed=1)
        for rule in (("birth_date",), ("given", "family")):  # its demonstrations have two or three passes
            with suppress(ValueError):  # where hardly a pair is true, a share runs to zero, which Splink refuses
                training.estimate_parameters_using_expectation_maximisation(
                    block_on(*rule), estimate_without_term_frequencies=True, max_pairs=1e6
                )
        # It takes many namesakes for one person; so high a threshold spares it the time of writing them.
        return linker, linker.inference.predict(threshold_match_weight=_SPLINK_WRITES_FROM)

    seconds, (linker, found) = timed(work)
    (pairs,) = connection.execute(f"select count(*) from {found.physical_name}").fetchone()
    blocked = linker.inference.compute_blocked_pairs_for_predict().physical_name
    (comparisons,) = connection.execute(f"select count(*) from {blocked}").fetchone()
    return {"seconds": seconds, "comparisons": comparisons, "pairs": pairs}
