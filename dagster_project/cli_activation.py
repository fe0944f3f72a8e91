"""Commands of destinations, deliveries and consent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

from dagster_project.lib import answers
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.terminal import Command, Group, answer, as_json_option, run, table

_PAIR = (click.argument("audience"), click.argument("destination"))


def _of_a_pair(command):
    for argument in reversed(_PAIR):
        command = argument(command)
    return command


@click.command(cls=Command)
@as_json_option
@click.pass_obj
def deliver(home: Home, as_json: bool) -> None:
    """Send what changed in the audiences to the home's destinations, and what was left of the last time.

    Destinations are YAML files in $ONEFOLD_HOME/destinations/; `onefold new destination` writes one.
    """
    if not any((home.path / "destinations").glob("*.y*ml")):
        raise OnefoldError(
            f"{home.path / 'destinations'} has no destination; write one: onefold new destination NAME --kind files"
        )
    try:
        run(home, "deliver")
    finally:
        rows = answers.deliveries(home)
        answer(as_json, rows, table("Deliveries", rows))


@click.group(cls=Group)
def delivery() -> None:
    """What was sent where, what was not taken, and what waits for a decision."""


@delivery.command("list")
@as_json_option
@click.pass_obj
def delivery_list(home: Home, as_json: bool) -> None:
    """Every audience at every destination: its last version, what is held there, what waits."""
    rows = answers.deliveries(home)
    answer(as_json, rows, table("Deliveries", rows), *_left_behind(home, rows))


@delivery.command("log")
@_of_a_pair
@click.option("--limit", default=20, show_default=True)
@as_json_option
@click.pass_obj
def delivery_log(home: Home, audience: str, destination: str, limit: int, as_json: bool) -> None:
    """The last requests, with the destination's ids for them; no personal data.

    Example: onefold delivery log lapsed_buyers crm
    """
    with _target(home, audience, destination) as (ledger, target):
        rows = ledger.log_of(target, limit)
    shown = [{name: value for name, value in row.items() if name != "key"} for row in rows]
    answer(as_json, rows, table(f"Requests for {audience} to {destination}", shown))


@delivery.command("letters")
@_of_a_pair
@as_json_option
@click.pass_obj
def delivery_letters(home: Home, audience: str, destination: str, as_json: bool) -> None:
    """Rows that a destination did not take, with its reason."""
    with _target(home, audience, destination) as (ledger, target):
        rows = [vars(letter) for letter in ledger.letters(target)]
    shown = [{name: value for name, value in row.items() if name != "key"} for row in rows]
    answer(as_json, rows, table(f"Dead letters of {audience} to {destination}", shown))


@delivery.command("replay")
@_of_a_pair
@as_json_option
@click.pass_obj
def delivery_replay(home: Home, audience: str, destination: str, as_json: bool) -> None:
    """Have the next delivery look at every dead letter again: whoever is still to be sent is sent as they are then."""
    with _target(home, audience, destination) as (ledger, target):
        count = ledger.replay(target)
    told = f"{count} dead letters are looked at again by the next `onefold deliver`." if count else "There are no dead letters."
    answer(as_json, {"letters": count}, told)


@delivery.command("uncertain")
@_of_a_pair
@as_json_option
@click.pass_obj
def delivery_uncertain(home: Home, audience: str, destination: str, as_json: bool) -> None:
    """Batches that may have been received without an answer, where sending them again could have effect twice."""
    with _target(home, audience, destination) as (ledger, target):
        rows = [
            {
                "key": batch.key,
                "version": batch.version,
                "operation": batch.operation,
                "rows": batch.row_count,
                "status": "waits for you" if batch.status == "uncertain" else "sent again",
            }
            for batch in ledger.uncertain(target)
        ]
    answer(as_json, rows, table(f"Uncertain batches of {audience} to {destination}", rows))


@delivery.command("settle")
@_of_a_pair
@click.argument("key")
@click.option("--sent/--send-again", "was_sent", required=True, default=None, help="Whether the destination has it.")
@as_json_option
@click.pass_obj
def delivery_settle(home: Home, audience: str, destination: str, key: str, was_sent: bool, as_json: bool) -> None:
    """Say what became of an uncertain batch; look it up at the destination by its key.

    Example: onefold delivery settle lapsed_buyers newsletter lapsed_buyers-000003-2-000001-5f0c --sent
    """
    with _target(home, audience, destination) as (ledger, target):
        ledger.settle(target, key, was_sent)
    told = "counts as sent" if was_sent else "is sent again by the next `onefold deliver`"
    answer(as_json, {"key": key, "was_sent": was_sent}, f"{key} {told}.")


@delivery.command("give-up")
@_of_a_pair
@as_json_option
@click.pass_obj
def delivery_give_up(home: Home, audience: str, destination: str, as_json: bool) -> None:
    """End the open version: what is not sent of it is dropped, and the next one looks at its customers again."""
    with _target(home, audience, destination) as (ledger, target):
        is_open, dropped = ledger.open_version(target) is not None, ledger.give_up(target)
    told = f"{dropped} rows dropped; the next `onefold deliver` plans them anew." if is_open else "No version is open."
    answer(as_json, {"dropped": dropped}, told)


def _state_command(name: str, state: str, about: str, told: str) -> None:
    @delivery.command(name, help=about)
    @_of_a_pair
    @as_json_option
    @click.pass_obj
    def command(home: Home, audience: str, destination: str, as_json: bool) -> None:
        with _target(home, audience, destination) as (ledger, target):
            ledger.set_state(target, state)
        answer(
            as_json, {"audience": audience, "destination": destination, "state": state}, f"{audience} to {destination}: {told}"
        )


_state_command(
    *("pause", "paused", "Plan and send nothing for an audience at a destination until it is resumed."),
    "paused; `onefold delivery resume` goes on.",
)
_state_command(
    *("resume", "active", "Go on with what was paused or withdrawn."),
    "active; the next `onefold deliver` brings it up to date.",
)
_state_command(
    *(
        "withdraw",
        "withdrawn",
        "Remove everybody of an audience from a destination. Do it before you take either out of the file.",
    ),
    "the next `onefold deliver` removes everybody there.",
)


@click.group(cls=Group)
def new() -> None:
    """Start something new from a template with every key in it."""


@new.command("destination")
@click.argument("name")
@click.option("--kind", required=True, help="files, webhook, postgres, warehouse, google, meta, smtp, apprise or drt.")
@click.option("--audience", "audiences", multiple=True, help="An audience that goes there; may be given several times.")
@as_json_option
@click.pass_obj
def new_destination(home: Home, name: str, kind: str, audiences: tuple[str, ...], as_json: bool) -> None:
    """Write a destination's file with every key of its kind, and say what to do next.

    Nothing is sent there before the file names an audience.

    Example: onefold new destination newsletter --kind smtp --audience lapsed_buyers
    """
    from dagster_project.lib.delivery.drafting import add_draft, variables

    if audiences:
        from dagster_project.lib import dbt
        from dagster_project.lib.publish import audiences as exposed

        there = sorted(audience.name for audience in exposed(dbt.manifest(home.prepare())))
        if unknown := sorted(set(audiences) - set(there)):
            raise OnefoldError(f"there is no audience '{unknown[0]}'; there are {', '.join(there)}")
    file = add_draft(home.prepare(), name, kind, audiences)
    to_set = variables(file.read_text(encoding="utf-8"))
    steps = [f"{file}: put in what is right for you; docs/destinations.md explains every key."]
    if not audiences:
        steps.append("Name its audiences there; until then nothing is sent.")
    if to_set:
        steps.append(f"Set in the environment where Onefold runs: {', '.join(to_set)}")
    answer(as_json, {"file": str(file), "kind": kind, "environment": to_set}, *steps)


@click.group(cls=Group)
def consent() -> None:
    """What people allow, and what they refuse."""


@consent.command("record")
@click.argument("status", type=click.Choice(["granted", "denied", "withdrawn", "suppressed", "released"]))
@click.argument("identifier")
@click.option("--purpose", help="What for, such as marketing; suppressed and released: every purpose unless one is named.")
@click.option("--channel", default="any", show_default=True, help="Where, such as email or sms.")
@click.option("--reason", default="", help="How it came about; kept.")
@click.option("--by", default=lambda: os.environ.get("USER", "unknown"), show_default="$USER", help="Who records it.")
@as_json_option
@click.pass_obj
def consent_record(
    home: Home, status: str, identifier: str, purpose: str | None, channel: str, reason: str, by: str, as_json: bool
) -> None:
    """Record what somebody said about being contacted. A refusal holds from this moment on, also for what is being sent.

    IDENTIFIER is <type>:<value>: an address, for which alone the statement is, or an account or the like, for the person.

    \b
    Examples:
      onefold consent record withdrawn email:li@example.com --purpose marketing --channel email --reason "asked on the phone"
      onefold consent record suppressed phone:+8613812345678 --reason "complaint 4711"
    """
    from dagster_project.lib.statements import GRANTING, Statement, state, unknown

    kind, separator, value = identifier.partition(":")
    if not (kind and separator and value.strip()):
        raise OnefoldError(f"'{identifier}': write <type>:<value>, such as email:li@example.com")
    if purpose is None:
        if status not in ("suppressed", "released"):
            raise OnefoldError(f"{status}: say what for with --purpose, such as marketing")
        purpose = "any"
    if status == "granted" and purpose == "any":
        raise OnefoldError("consent is given for something; name the purpose")
    if problem := unknown(home, kind, value, channel):
        raise OnefoldError(problem)
    source = f"onefold: {by}{f', {reason}' if reason else ''}"
    said = Statement(kind, value.strip(), purpose, channel, status, datetime.now(UTC), source)
    file = state(home, said)
    content: dict[str, Any] = {**vars(said), "file": str(file.relative_to(home.path))}
    told = (
        "Recorded; it counts after `onefold ingest crm` and `onefold refresh`."
        if status in GRANTING
        else "Recorded, and nobody is sent to against it from now on; who is at a destination already is removed by "
        "`onefold ingest crm`, `refresh`, `publish` and `deliver`."
    )
    answer(as_json, content, f"{told} `onefold dev` does it all.")


@contextmanager
def _target(home: Home, audience: str, destination: str) -> Iterator[tuple[Any, Any]]:
    from dagster_project.lib.delivery.ledger import Ledger

    with Ledger(home) as ledger:
        found = {(target.audience, target.destination): target for target in ledger.targets()}
        if (audience, destination) not in found:
            known = ", ".join(f"{one} to {there}" for one, there in found) or "nothing yet"
            raise OnefoldError(
                f"nothing of {audience} was delivered to {destination}; there is {known}. If it is to be, run onefold deliver"
            )
        yield ledger, found[audience, destination]


def _left_behind(home: Home, rows: list[dict[str, Any]]) -> list[str]:
    """What to do about customers who are still at a destination that the home no longer has."""
    files = {file.stem for file in (home.path / "destinations").glob("*.y*ml")}
    return [
        f"{row['destination']} is no longer configured and still holds {row['held']} of {row['audience']}; put its file back, "
        f"then onefold delivery withdraw {row['audience']} {row['destination']}"
        for row in rows
        if row["held"] and row["destination"] not in files
    ]
