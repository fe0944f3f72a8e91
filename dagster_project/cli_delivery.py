"""The commands of deliveries: `onefold new destination`."""

import click

from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.terminal import Group, answer, as_json_option


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
