"""The commands about identity: `onefold explain`, `onefold identity …`."""

import getpass
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import yaml

from dagster_project.lib import progress
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.terminal import Command, Group, answer, as_json_option, bar, table


@click.command(cls=Command)
@click.argument("one")
@click.argument("other")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Draw the path to this file.")
@as_json_option
@click.pass_obj
def explain(home: Home, one: str, other: str, svg: Path | None, as_json: bool) -> None:
    """Why two identifiers or records are one customer, or why not: the shortest path of evidence.

    Examples: onefold explain email:li@example.com anonymous_id:a1b2   onefold explain crm_contacts:42 phone:+8613812345678
    """
    from dagster_project.lib.identity import explain as explaining

    found = explaining.explain(home, one, other)
    if svg:
        svg.write_text(explaining.picture(found), encoding="utf-8")
    hops = [
        {
            "from": hop.left,
            "to": hop.right,
            "record": hop.alike or (f"{hop.source_table}:{hop.record_id}" if hop.source_table else None),
            "rule": hop.rule,
            "time": hop.seen_at,
            "records": hop.records,
            "weight": hop.confidence,
            "remark": hop.refused or ("weakest link" if hop.is_weakest else None),
        }
        for hop in found.hops
    ]
    answer(
        as_json,
        found.as_dict(),
        f"{found.one} and {found.other}: {found.verdict}",
        *([table("Evidence", hops)] if hops else []),
    )


@click.group(cls=Group)
def identity() -> None:
    """Who is who: rules, refusals to look at, decisions."""


@identity.command("rules")
@click.option("--propose", is_flag=True, help="Find values far too common to name anybody, and say how to block them.")
@as_json_option
@click.pass_obj
def rules(home: Home, propose: bool, as_json: bool) -> None:
    """The rules in force: those that are shipped, with what the home's identity.yaml says otherwise.

    Examples: onefold identity rules   onefold identity rules --propose
    """
    from dagster_project.lib.identity.rules import Rules

    found = Rules.of(home)
    if propose:
        _propose(home, found, as_json)
        return
    rows = [
        {
            "type": name,
            "kind": identifier.kind,
            "priority": identifier.priority,
            "limits": ", ".join(f"{x.most} in {x.days} days" if x.days else str(x.most) for x in identifier.limits) or None,
            "recycled after days": identifier.recycled_after_days,
            "blocked": " ".join(identifier.blocked) or None,
        }
        for name, identifier in [*found.types.items(), ("any other", found.undeclared)]
    ]
    content = {"version": found.version, **found.model_dump(mode="json")}
    answer(as_json, content, table(f"Rules, version {found.version}", rows), f"Blocked: {' '.join(found.blocked)}")


def _propose(home: Home, rules: Any, as_json: bool) -> None:
    from dagster_project.lib import answers

    persons = {name: identifier for name, identifier in rules.types.items() if identifier.is_person and identifier.limits}
    limits = {name: max(x.most for x in identifier.limits) for name, identifier in persons.items()}
    rows = answers.common_values(home, limits)
    types: dict[str, Any] = {}
    for row in rows:
        blocked = types.setdefault(row["identifier_type"], list(rules.of_type(row["identifier_type"]).blocked))
        if (pattern := re.escape(row["identifier_value"].lower())) not in blocked:
            blocked.append(pattern)
    change = {"types": {name: {"blocked": patterns} for name, patterns in types.items()}}
    shown = [table("Values that name too many", rows)]
    if rows:
        shown += ["To block them, put this into identity.yaml and run `onefold refresh --full`; take out what you trust:"]
        shown += [yaml.safe_dump(change, allow_unicode=True, sort_keys=False)]
    else:
        shown = ["No value stands with ten times as many of another type as one customer may have."]
    answer(as_json, {"values": rows, "change": change if rows else {}}, *shown)


@identity.command("train")
@as_json_option
@click.pass_obj
def train(home: Home, as_json: bool) -> None:
    """Learn the matching of records anew from the profiles that are there; the next refresh weighs all pairs by it.

    The first refresh with a hundred profiles trains a model by itself; train again when your data have changed in kind. It
    takes a minute for a hundred thousand profiles.
    """
    from dagster_project.lib.identity.backend import DuckDB
    from dagster_project.lib.identity.steps import learn, model_file

    with home.connect("identity train", patience=30) as connection:
        # A view where the engine is Spark, over the same profiles.
        if not connection.execute("select 1 from information_schema.tables where table_name = '_profiles'").fetchone():
            raise OnefoldError(f"{home.path} has no profiles yet; run `onefold refresh`")
        model = learn(DuckDB(connection), home, datetime.now(UTC))
    content = {"version": model.version, "profiles": model.profiles, "notes": list(model.notes), "file": str(model_file(home))}
    said = f"Trained on {model.profiles:,} profiles, version {model.version}; `onefold refresh` weighs all pairs by it."
    answer(as_json, content, said, *model.notes)


@identity.command("review")
@click.option("--limit", default=50, show_default=True, help="How many.")
@as_json_option
@click.pass_obj
def review(home: Home, limit: int, as_json: bool) -> None:
    """What somebody should look at and nobody has decided: unions that a rule refused, records that are likely one person."""
    from dagster_project.lib import answers

    rows = answers.reviews(home, limit)
    answer(as_json, rows, table("To review; decide with `onefold identity decide`", rows))


@identity.command("decide")
@click.argument("kind", type=click.Choice(["same", "different", "handed-over", "undecided"]))
@click.argument("one")
@click.argument("other", required=False)
@click.option("--since", type=click.DateTime(), help="handed-over: since when the value is somebody else's, UTC.")
@click.option("--reason", required=True, help="Why; kept with the decision.")
@click.option("--by", default=getpass.getuser, show_default="you", help="Who decides.")
@as_json_option
@click.pass_obj
def decide(
    home: Home, kind: str, one: str, other: str | None, since: datetime | None, reason: str, by: str, as_json: bool
) -> None:
    """Say that two identifiers are the same or different people, or that one was handed to somebody else.

    A decision goes before every rule, survives rebuilds, and is taken back by `undecided`. The next refresh acts on it.

    \b
    Examples:
      onefold identity decide different user_id:u1 contact_id:k7 --reason "father and son"
      onefold identity decide handed-over phone:+8613812345678 --since 2026-03-01 --reason "new owner called"
    """
    from dagster_project.lib.identity.explain import known
    from dagster_project.lib.state import Decision, State

    is_about_one = kind == "handed-over" or (kind == "undecided" and other is None)
    if is_about_one != (other is None):
        raise OnefoldError(f"{kind}: give {'one identifier' if is_about_one else 'two identifiers'}, as <type>:<value>")
    if (kind == "handed-over") != (since is not None):
        raise OnefoldError("--since belongs to handed-over: the moment from which on the value is somebody else's")
    if one == other:
        raise OnefoldError(f"{one} is given twice; give two identifiers, such as those of its two holders")
    known(home, *(identifier for identifier in (one, other) if identifier), must_be_person=kind == "handed-over")
    decision = Decision(kind.replace("-", "_"), one, other, since, by, reason, datetime.now(UTC))
    State(home).decide(decision)
    content: dict[str, Any] = {"decision": kind, "one": one, "other": other, "since": since, "by": by, "reason": reason}
    answer(as_json, content, "Decided; `onefold refresh` acts on it.")


@identity.command("evaluate")
@click.argument("truth", type=click.Path(path_type=Path, exists=True))
@click.option("--examples", default=5, show_default=True, help="How many wrong customers and people to name.")
@as_json_option
@click.pass_obj
def evaluate(home: Home, truth: Path, examples: int, as_json: bool) -> None:
    """How right identity is, against a file that says who is who, or against another run.

    TRUTH has the columns channel, entity, record_id and person_id, or identifier_type, identifier_value and person_id; or it is
    the folder of a served version, whose customers are then taken for the truth.

    \b
    Examples:
      onefold identity evaluate warehouse/simulation/records.csv
      onefold identity evaluate warehouse/serving/<version>
    """
    from dagster_project.lib.identity.evaluate import evaluate as evaluated

    found = evaluated(home, truth, examples)
    rows = [{"measure": name.replace("_", " "), "value": value} for name, value in found.measures.items() if value is not None]
    answer(
        as_json,
        {**found.measures, "wrongly_joined": found.wrongly_joined, "wrongly_parted": found.wrongly_parted},
        table(f"Identity against {truth.name}", rows),
        *([table("Customers that hold several people", found.wrongly_joined)] if found.wrongly_joined else []),
        *([table("People who are several customers", found.wrongly_parted)] if found.wrongly_parted else []),
    )


@identity.command("what-if")
@click.argument("rules_file", metavar="RULES", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--examples", default=5, show_default=True, help="How many merged and split customers to name.")
@as_json_option
@click.pass_obj
def what_if(home: Home, rules_file: Path, examples: int, as_json: bool) -> None:
    """What other rules would change, worked out on a copy; nothing is touched.

    RULES is a file like the home's identity.yaml. To adopt it, put it there and run `onefold refresh --full`.

    Example: onefold identity what-if stricter.yaml
    """
    from dagster_project.lib.identity.what_if import what_if as tried

    with bar() as shown:
        task = shown.add_task("solving a copy")
        with progress.listening(lambda what, done, total: shown.update(task, completed=done, total=total)):
            found = tried(home, rules_file, examples)
    rows = [{"what": name.replace("_", " "), "now": now, "then": then} for name, (now, then) in found.figures.items()]
    moves = [{"what": name.replace("_", " "), "count": count} for name, count in found.moves.items()]
    answer(
        as_json,
        found.as_dict(),
        table(f"Rules {found.version_now} and {found.version_then}", rows),
        table("What moves", moves),
        *([table("Audiences", found.audiences)] if found.audiences else []),
        *([table("Customers that would be one", found.merged)] if found.merged else []),
        *([table("Customers that would be split", found.split)] if found.split else []),
    )
