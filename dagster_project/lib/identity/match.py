"""Which profiles probably describe one person: the model of Fellegi and Sunter over names, birth date, address and contacts.

Splink estimates and applies the model; here are what it compares, what may be compared at all, and what is done so that its
weights can be trusted with customers: parameters from one profile of each person that the plain rules see, drawn towards
expectations where the data say little, frequencies that stay as they were when the model was trained, and no acceptance of
two given names or birth dates that contradict each other, however much else a household shares.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.identity.backend import Backend
from dagster_project.lib.identity.blocking import BLOCKING, Blocked, find_pairs, keep_blocking
from dagster_project.lib.identity.likeness import COMPARISONS, Comparison
from dagster_project.lib.identity.rules import Matching

# Profiles that agree in every column of one of these are taken for one person while parameters are learnt.
_PLAIN_RULES = (("document",), ("given", "family", "birth_date"), ("given", "family", "email"), ("given", "family", "phone"))
# Parameters are learnt from pairs that agree in every column of one of these, for the comparisons that use none of them.
_PASSES = (("birth_date",), ("given", "family"), ("email",), ("phone",), ("document",), ("place",), ("address",))

FEWEST_PROFILES = 100
_FEWEST_FILLED = 0.02  # share of profiles that must have a value for it to be compared
_FEWEST_PAIRS = 20  # that a pass learns from
_EXPECTATION = 100  # true pairs that the expected shares count for, beside those found in the data
_CHANCE_PAIRS = 1e6  # random pairs from which agreement by chance is learnt
_PASS_PAIRS = 1e6  # pairs that one pass learns from at most


@dataclass(frozen=True)
class Model:
    """What was learnt: Splink's settings with their parameters, and how common values were.

    Attributes:
        settings: as Splink saves them.
        frequencies: by column, the values that several people have and the share of people who have each.
        rarest: by column, the share that every other value is taken to have.
        profiles: rows that it was trained on.
        trained_at: as the caller said.
        notes: what is not compared or was not learnt, in words.
    """

    settings: dict[str, Any]
    frequencies: dict[str, dict[str, float]]
    rarest: dict[str, float]
    profiles: int
    trained_at: datetime
    notes: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Changes with every parameter and frequency, not with the time of training."""
        return _digest([self.settings, self.frequencies, self.rarest])

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        names = {comparison["output_column_name"] for comparison in self.settings["comparisons"]}
        return tuple(comparison for comparison in COMPARISONS if comparison.name in names)

    def save(self, path: Path) -> None:
        """Write it as JSON. The file holds values that several people share, so that it is as private as the warehouse."""
        content = {"version": self.version, **asdict(self), "trained_at": self.trained_at.isoformat()}
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1))

    @classmethod
    def load(cls, path: Path) -> "Model":
        """A model that `save` wrote.

        Raises:
            OnefoldError: the file is missing, cut, or was changed by hand.
        """
        remedy = "delete it and refresh again, which trains a new one"
        try:
            content = json.loads(path.read_text())
            version = content.pop("version")
            content |= {"trained_at": datetime.fromisoformat(content["trained_at"]), "notes": tuple(content["notes"])}
            model = cls(**content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OnefoldError(f"{path}: not a matching model ({error}); {remedy}") from error
        if model.version != version:
            raise OnefoldError(f"{path}: its content is not that of version {version}; {remedy}")
        return model


def train(backend: Backend, prepared: str, matching: Matching, trained_at: datetime) -> Model:
    """Learn a model from profiles that `comparable.prepare` wrote, without any truth; the same profiles give the same model.

    How often two people agree by chance, and how common each value is, is learnt from one profile of each person whom the
    plain rules see: the five records of one person would else make her name common. Expectation maximisation then learns, in
    a pass for each kind of agreement, how often true pairs agree in the rest; its shares are mixed with the expected ones as
    if these had been seen in _EXPECTATION more pairs, so that they decide where data are few. The share of true pairs among
    all follows from the passes: the true pairs of one, divided by how often true pairs agree in what it required.
    Source of the method: Fellegi and Sunter, "A Theory for Record Linkage" (1969), as Splink's documentation tells it.

    Raises:
        OnefoldError: fewer than FEWEST_PROFILES profiles, or next to none has a name.
    """
    (count,) = backend.row(f"select count(*) from {prepared}")
    if count < FEWEST_PROFILES:
        raise OnefoldError(
            f"matching: {count} profiles are too few to learn from, it takes {FEWEST_PROFILES}; switch matching off in "
            "identity.yaml, or bring in more records that describe people"
        )
    used, notes = _filled(backend, prepared)
    if not {"given", "family"} & {comparison.name for comparison in used}:
        raise OnefoldError(
            "matching: next to no profile has a name, without which nothing tells the members of a household apart; map the "
            "name columns of your sources, or switch matching off in identity.yaml"
        )
    # Splink samples by a hash of the id, which therefore must not depend on the order of the rows.
    backend.number("_all", prepared, by="profile_id")
    plain_pairs = _find_people(backend)
    settings = _learn_chance(backend, used, matching.seed, plain_pairs / _pairs_of(count))
    shares, pairs = _learn_agreement(backend, used, settings, plain_pairs, notes)
    settings["probability_two_random_records_match"] = _rounded(min(pairs / _pairs_of(count), 0.5))
    for comparison, learnt in zip(used, settings["comparisons"], strict=True):
        for level, parameters in zip(comparison.levels, learnt["comparison_levels"][1:], strict=True):
            mixed = (pairs * shares[comparison.name, level.label] + _EXPECTATION * level.likely) / (pairs + _EXPECTATION)
            parameters["m_probability"] = parameters["u_probability"] if level.says_nothing else _rounded(mixed)
            if level.by_frequency:
                parameters |= {"tf_adjustment_column": level.by_frequency, "disable_tf_exact_match_detection": True}
    frequencies, rarest = _frequencies(backend, used)
    backend.drop("_all", "_people")
    backend.tidy()
    return Model(settings, frequencies, rarest, count, trained_at, tuple(notes))


def predict(
    backend: Backend, prepared: str, model: Model, matching: Matching, pairs: str, changed: str | None = None
) -> list[Blocked]:
    """Write the pairs of profiles that may be one person, from the review floor upwards; how each rule of BLOCKING did.

    Args:
        prepared: a table that `comparable.prepare` wrote.
        pairs: the table to keep, one row a pair: `left_id` < `right_id`, `match_weight` (log2 of the odds),
            `match_probability`, `grade` (transactional, lifecycle, advertising or near_miss), `contradiction` (the level that
            forbids more than advertising, else null), `evidence` (weight, comparison and level, the heaviest first),
            `found_by` (rule of BLOCKING), `matched_by` (version of model and settings). Beside it `<pairs>_blocking` keeps
            what this returns, and all values that are too common.
        changed: table or subquery whose `profile_id` names profiles that are new, other than before or gone: only pairs with
            one of them are compared again, and those of values that have become, or are no longer, too common. The result
            is the same as of comparing all. Pairs made by another model or other settings are all made anew.

    An agreement weighs what it did when the model was trained, however common a value has become since.
    """
    matched_by = _signature(model, matching)
    if changed and not are_pairs_of(backend, pairs, model, matching):
        changed = None
    find_pairs(backend, prepared, matching.largest_block, pairs, changed)
    found = _score(backend, prepared, model, matching)
    rows = _as_told(backend, prepared, found, model, matching, matched_by)
    if changed:
        touched = [f"exists (select 1 from _touched where profile_id = {pairs}.{end})" for end in ("left_id", "right_id")]
        backend.exchange(pairs, rows, gone=" or ".join(touched))
    else:
        backend.replace(pairs, rows)
    blocked = keep_blocking(backend, pairs, matched_by)
    backend.drop("_pairs", "_compared", "_touched")
    backend.tidy()
    return blocked


def are_pairs_of(backend: Backend, pairs: str, model: Model, matching: Matching) -> bool:
    """Whether a table of pairs is there, and was made by this model and these settings."""
    if not backend.is_there(f"{pairs}_blocking"):
        return False
    return backend.rows(f"select distinct matched_by from {pairs}_blocking") == [(_signature(model, matching),)]


def _signature(model: Model, matching: Matching) -> str:
    return f"{model.version}-{_digest([matching.model_dump(), BLOCKING])}"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _rounded(value: float) -> float:
    """To six digits: the order in which threads add up must not make another model."""
    return float(f"{value:.6g}")


def _pairs_of(count: int) -> float:
    return count * (count - 1) / 2


def _filled(backend: Backend, prepared: str) -> tuple[list[Comparison], list[str]]:
    """The comparisons whose columns have values, and words on the others."""
    columns = []
    for comparison in COMPARISONS:
        known = " or ".join(f"{column} is not null" for column in comparison.columns)
        varied = " or ".join(f"count(distinct {column}) > 1" for column in comparison.columns)
        columns += [f"avg(case when {known} then 1.0::double else 0.0::double end)", varied]
    found = backend.row(f"select {', '.join(columns)} from {prepared}")
    used, notes = [], []
    for comparison, share, is_varied in zip(COMPARISONS, found[::2], found[1::2], strict=True):
        if share >= _FEWEST_FILLED and is_varied:
            used.append(comparison)
        else:
            notes.append(f"{comparison.name} is not compared: {share:.1%} of profiles have it")
    return used, notes


def _find_people(backend: Backend) -> int:
    """Write `_people`, one row of `_all` for each person whom the plain rules see; the number of pairs they see."""
    links = " union all ".join(
        f"select id as one, min(id) over (partition by {', '.join(rule)}) as other from _all where {_all_known(rule)}"
        for rule in _PLAIN_RULES
    )
    backend.connect("_labels", "_all", f"select one, other from ({links}) as links where one <> other")
    backend.make("_people", "select * from _all where id in (select label from _labels)")
    (pairs,) = backend.row(
        "select coalesce(sum(n * (n - 1) / 2), 0) from (select count(*) as n from _labels group by label) as people"
    )
    backend.drop("_labels")
    return int(pairs)


def _all_known(columns: tuple[str, ...]) -> str:
    return " and ".join(f"{column} is not null" for column in columns)


def _learn_chance(backend: Backend, used: list[Comparison], seed: int, share: float) -> dict[str, Any]:
    """Splink's settings, with how often two people agree at each level; the rest as expected."""
    linker = backend.linker("_people", _settings(used, min(max(share, 1e-9), 0.5)))
    linker.training.estimate_u_using_random_sampling(_CHANCE_PAIRS, seed=seed, min_count_per_level=None, num_chunks=1)
    settings = linker.misc.save_model_to_json()
    settings.pop("linker_uid", None)  # drawn anew each time
    settings |= {"sql_dialect": "duckdb", "retain_matching_columns": True}  # whichever engine has learnt
    (people,) = backend.row("select count(*) from _people")
    least = 1 / min(_CHANCE_PAIRS, _pairs_of(people))  # what was never seen is not impossible
    for comparison, learnt in zip(used, settings["comparisons"], strict=True):
        for level, parameters in zip(comparison.levels, learnt["comparison_levels"][1:], strict=True):
            parameters["u_probability"] = _rounded(max(parameters.get("u_probability") or 0, least))
            parameters["m_probability"] = parameters["u_probability"] if level.says_nothing else level.likely
            parameters["fix_m_probability"] = level.says_nothing
    return settings


def _learn_agreement(
    backend: Backend, used: list[Comparison], settings: dict[str, Any], plain_pairs: int, notes: list[str]
) -> tuple[dict[tuple[str, str], float], float]:
    """The share of true pairs at each level (comparison, label), and how many true pairs there are."""
    true_pairs: dict[tuple[str, ...], float] = {}
    learnt: dict[tuple[str, str], list[float]] = {}
    counts = " union all ".join(
        f"select {number} as pass, coalesce(sum(n * (n - 1) / 2), 0) as pairs "
        f"from (select count(*) as n from _all where {_all_known(columns)} group by {', '.join(columns)}) as agreeing"
        for number, columns in enumerate(_PASSES)
    )
    for number, found in sorted(backend.rows(counts)):
        columns = _PASSES[number]
        if found < _FEWEST_PAIRS:
            continue
        shares, true_share = _learn_from(backend, used, settings, columns, found)
        if not shares:
            notes.append(f"nothing could be learnt from profiles that agree in {' and '.join(columns)}")
            continue
        true_pairs[columns] = found * true_share
        for level, share in shares.items():
            learnt.setdefault(level, []).append(share)
    shares = {level: float(np.median(each)) for level, each in learnt.items()}
    for comparison in used:
        if (comparison.name, comparison.levels[0].label) not in shares:
            notes.append(f"{comparison.name} weighs as expected, since nothing could be learnt about it")
            shares |= {(comparison.name, level.label): level.likely for level in comparison.levels}
    # By column, how often true pairs agree in it, and how many profiles have it.
    agreement = {
        comparison.levels[0].by_frequency: shares[comparison.name, comparison.levels[0].label]
        for comparison in used
        if comparison.levels[0].by_frequency
    }
    shown = ", ".join(f"count({column}) / count(*)" for column in agreement)
    filled = dict(zip(agreement, backend.row(f"select {shown} from _all"), strict=True))
    estimates = [
        pairs / np.prod([agreement[column] * filled[column] ** 2 for column in columns])
        for columns, pairs in true_pairs.items()
        if all(agreement.get(column) for column in columns)
    ]
    # A pass that takes namesakes or households for true pairs makes too many, so the least is the best estimate.
    return shares, max(1.0, plain_pairs, min(estimates, default=0.0))


def _learn_from(
    backend: Backend,
    used: list[Comparison],
    settings: dict[str, Any],
    columns: tuple[str, ...],
    found: int,
) -> tuple[dict[tuple[str, str], float], float]:
    """Shares of the levels among pairs that agree in `columns`, and the share of true ones; nothing if hardly one is true."""
    from splink import block_on

    columns = ("postal_code", "city") if columns == ("place",) else columns
    linker = backend.linker("_all", settings)
    try:
        session = linker.training.estimate_parameters_using_expectation_maximisation(
            block_on(*columns),
            estimate_without_term_frequencies=True,
            **({"max_pairs": _PASS_PAIRS} if found > _PASS_PAIRS else {}),
        )
    except ValueError:  # Splink's, when a share runs against zero
        return {}, 0.0
    learnt = {
        each["output_column_name"]: each["comparison_levels"][1:] for each in linker.misc.save_model_to_json()["comparisons"]
    }
    shares = {
        (comparison.name, level.label): parameters.get("m_probability") or 0.0
        for comparison in used
        if not any(f"{column}_l" in comparison.conditions for column in columns)
        for level, parameters in zip(comparison.levels, learnt[comparison.name], strict=True)
    }
    return shares, session.core_model_settings.probability_two_random_records_match


def _settings(used: list[Comparison], share: float) -> dict[str, Any]:
    return {
        "link_type": "dedupe_only",
        "unique_id_column_name": "id",
        "probability_two_random_records_match": share,
        "retain_intermediate_calculation_columns": True,
        "retain_matching_columns": True,
        "blocking_rules_to_generate_predictions": [],
        "comparisons": [
            {
                "output_column_name": comparison.name,
                "comparison_levels": [
                    {"sql_condition": comparison.unknown, "label_for_charts": "unknown", "is_null_level": True},
                    *({"sql_condition": level.condition, "label_for_charts": level.label} for level in comparison.levels),
                ],
            }
            for comparison in used
        ],
    }


def _frequencies(backend: Backend, used: list[Comparison]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """The share of people who have a value, for each that several have; and for the others."""
    columns = sorted({level.by_frequency for comparison in used for level in comparison.levels if level.by_frequency})
    filled = backend.row(f"select {', '.join(f'count({column})' for column in columns)} from _people")
    frequencies, rarest = {}, {}
    for column, people in zip(columns, filled, strict=True):
        common = backend.rows(
            f"select {column}, count(*) from _people where {column} is not null group by 1 having count(*) > 1"
        )
        frequencies[column] = {value: _rounded(times / people) for value, times in sorted(common)}
        rarest[column] = _rounded(1 / max(people, 1))
    return frequencies, rarest


def _score(backend: Backend, prepared: str, model: Model, matching: Matching) -> str:
    """Weigh `_pairs`; the table that Splink wrote."""
    joins, shares = "", ""
    for column, common in model.frequencies.items():
        backend.values(
            f"_share_{column}", {column: ("string", list(common)), f"tf_{column}": ("double", list(common.values()))}
        )
        joins += f" left join _share_{column} on _share_{column}.{column} = profiles.{column}"
        known = f"coalesce(_share_{column}.tf_{column}, {model.rarest[column]}::double)"
        shares += f", case when profiles.{column} is not null then {known} end as tf_{column}"
    backend.make(
        "_compared",
        f"""
        with ends as (select join_key_l as id from _pairs union select join_key_r from _pairs)
        select profiles.*{shares}
        from (select {backend.profile} as id, * from {prepared} where {backend.profile} in (select id from ends)) as profiles
        {joins}
        """,
    )
    linker = backend.linker("_compared", model.settings)
    tables = linker.table_management
    for column in model.frequencies:  # unused, as the shares are in the table; else Splink would count the values anew
        tables.register_term_frequency_lookup(linker._db_api.register(f"_share_{column}"), column)
    tables.register_blocked_pairs_for_predict(linker._db_api.register("_pairs"))
    found = linker.inference.predict(threshold_match_probability=matching.review, warning_mode="never")
    backend.drop(*(f"_share_{column}" for column in model.frequencies))
    return found.physical_name


def _as_told(backend: Backend, prepared: str, found: str, model: Model, matching: Matching, matched_by: str) -> str:
    """The query of the table of pairs."""
    evidence, contradictions = [], []
    for comparison in model.comparisons:
        numbers = range(len(comparison.levels) - 1, -1, -1)  # Splink counts levels from the last
        labels = " ".join(
            f"when {number} then '{level.label}'" for number, level in zip(numbers, comparison.levels, strict=True)
        )
        weight = f"mw_{comparison.name}" + (
            f" + mw_tf_adj_{comparison.name}" if any(level.by_frequency for level in comparison.levels) else ""
        )
        evidence.append((f"round({weight}, 2)", f"'{comparison.name}'", f"case gamma_{comparison.name} {labels} end"))
        for number, level in zip(numbers, comparison.levels, strict=True):
            if level.identifies:
                contradictions.insert(0, f"when gamma_{comparison.name} = {number} then null")
            if level.contradicts:
                contradictions.append(f"when gamma_{comparison.name} = {number} then '{level.label}'")
    grades = " ".join(
        f"when match_probability >= {probability} and ({grade == 'advertising'} or contradiction is null) then '{grade}'"
        for grade, probability in matching.thresholds.items()
    )
    rules = " ".join(f"when {number} then '{rule}'" for number, rule in enumerate(BLOCKING))
    return f"""
        select
            least(one.profile_id, other.profile_id) as left_id,
            greatest(one.profile_id, other.profile_id) as right_id,
            match_weight,
            match_probability,
            case {" ".join(contradictions)} end as contradiction,
            case {grades} else 'near_miss' end as grade,
            {backend.heaviest(evidence)} as evidence,
            case match_key::int {rules} end as found_by,
            '{matched_by}' as matched_by
        from {found} as found
        join {prepared} as one on one.{backend.profile} = found.id_l
        join {prepared} as other on other.{backend.profile} = found.id_r
    """
