"""The command `onefold`."""

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
from rich.logging import RichHandler
from rich.markup import escape

from dagster_project import terminal
from dagster_project.cli_activation import consent, deliver, delivery, new
from dagster_project.cli_bench import bench
from dagster_project.cli_identity import explain, identity
from dagster_project.lib import answers
from dagster_project.lib.contracts import Mapping, load_channels
from dagster_project.lib.engine import ENGINES
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import PROJECT_ROOT, Home
from dagster_project.lib.settings import Settings
from dagster_project.terminal import Group, answer, as_json_option, bar, run, run_quietly, table


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that holds all data (default: $ONEFOLD_HOME, else warehouse/).",
)
@click.option("--verbose", is_flag=True, help="A line for each thing done.")
@click.pass_context
def main(context: click.Context, home: Path | None, verbose: bool) -> None:
    """Onefold: a customer data platform that lives in a data warehouse.

    \b
    Start with:
      onefold demo      a sample company, from raw exports to published audiences
      onefold dev       the Dagster UI, with sensors that watch landing
    """
    if home:
        os.environ["ONEFOLD_HOME"] = str(home.resolve())
    context.obj = Home.from_environment()
    logger = logging.getLogger("onefold")
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.handlers = [RichHandler(console=terminal.problems, show_path=False)]
    logger.propagate = False


main.add_command(bench)
main.add_command(consent)
main.add_command(deliver)
main.add_command(delivery)
main.add_command(explain)
main.add_command(identity)
main.add_command(new)


@main.command()
@click.option("--people", default=1000, show_default=True, help="Size of the sample company.")
@click.option("--days", default=180, show_default=True, help="Days of history.")
@click.option("--seed", default=7, show_default=True, help="Another seed gives other people.")
@as_json_option
@click.pass_obj
def demo(home: Home, people: int, days: int, seed: int, as_json: bool) -> None:
    """Simulate a sample company and run the whole chain on it.

    Example: onefold --home /tmp/company demo --people 300
    """
    if answers.simulated(home):
        terminal.problems.print(f"Using the sample company that {home.path} holds already.")
    elif any(home.landing.glob("*/*/*")):
        raise OnefoldError(f"{home.path} holds data of its own; give the demo another home: onefold --home FOLDER demo")
    else:
        _simulate(home, people, days, seed, datetime.now(UTC).date())
    ingested = _ingest(home, None)
    run(home, "refresh")
    run(home, "publish")
    if any((home.path / "destinations").glob("*.y*ml")):
        run(home, "deliver")
    summary = answers.summary(home)
    answer(as_json, summary, *_summary(summary))
    if not ingested:
        sys.exit(1)


@main.command()
@click.option("--people", default=1000, show_default=True)
@click.option("--days", default=180, show_default=True, help="Days of history before --until.")
@click.option("--seed", default=7, show_default=True)
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="First day that is not simulated (default: today).")
@as_json_option
@click.pass_obj
def simulate(home: Home, people: int, days: int, seed: int, until: datetime | None, as_json: bool) -> None:
    """Write a sample company's raw exports into landing, and the truth beside it.

    Example: onefold --home /tmp/company simulate --people 5000 --seed 3
    """
    counts = _simulate(home, people, days, seed, until.date() if until else datetime.now(UTC).date())
    told = f"{counts['rows']:,} rows of {counts['people']:,} people in {counts['files']} files below {home.landing}"
    answer(as_json, counts, told)


@main.command()
@click.argument("channels", nargs=-1, metavar="[CHANNEL[/ENTITY] …]")
@click.option("--again", is_flag=True, help="Withdraw what the files brought and read them again, after a mapping mistake.")
@click.option("--file", "files", multiple=True, help="With --again: only this file, as the ledger names it or by its path.")
@click.option("--withdraw-gone", is_flag=True, help="With --again: give up rows whose files are no longer in landing.")
@as_json_option
@click.pass_obj
def ingest(
    home: Home, channels: tuple[str, ...], again: bool, files: tuple[str, ...], withdraw_gone: bool, as_json: bool
) -> None:
    """Load new files of all channels, or of those named.

    Examples: onefold ingest crm orders   onefold ingest --again orders/refunds
    """
    if not again:
        if files or withdraw_gone or any("/" in name for name in channels):
            raise OnefoldError("--file, --withdraw-gone and CHANNEL/ENTITY go with --again; new files are loaded by channel")
        complete = _ingest(home, channels or None)
    else:
        if not channels:
            raise OnefoldError("say what to read again: onefold ingest --again CHANNEL or CHANNEL/ENTITY")
        named: dict[str, list[str]] = {}
        for name in channels:
            channel, _, entity = name.partition("/")
            named.setdefault(channel, []).extend([entity] if entity else [])
        whole = set(channels)  # a channel that is named as such is read whole
        wanted = {
            channel: {"entities": [] if channel in whole else entities, "files": files, "withdraw_gone": withdraw_gone}
            for channel, entities in named.items()
        }
        complete = _ingest(home, tuple(named), again=wanted)
        terminal.problems.print(
            "The next refresh builds every model anew, as far as rows were withdrawn; customer ids are kept."
        )
    content = answers.ledger(home)
    answer(as_json, content, table("Loaded so far", content))
    if not complete:
        sys.exit(1)


@main.command()
@click.argument("other", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--table", "tables", multiple=True, help="Only this table (schema.table); may be given several times.")
@click.option("--ignore", "ignored", multiple=True, help="A column that may differ; may be given several times.")
@as_json_option
@click.pass_obj
def compare(home: Home, other: Path, tables: tuple[str, ...], ignored: tuple[str, ...], as_json: bool) -> None:
    """Compare every row and value of this home's tables with those of another home, whatever engine built them.

    Left out are staging, numbers of writes and moments of loading, and tables whose names begin with _ unless they are named.
    Floating numbers may differ by a billionth, as sums depend on their order. The exit code is 1 where anything differs.

    Example: onefold --home /data/onefold compare /data/onefold-on-spark
    """
    from dagster_project.lib import compare as comparing

    found = comparing.compare(home, Home(other.resolve()), tables, ignored)
    answer(as_json, asdict(found), *map(escape, comparing.told(found)))
    if found.differing:
        raise SystemExit(1)


@main.command()
@click.option("--as-of", type=click.DateTime(), help="The moment that stands for now, UTC (default: now).")
@click.option("--full", is_flag=True, help="Build every model anew; customer ids are kept.")
@click.option(
    "--target",
    type=click.Choice(ENGINES),
    help="The engine to build on; another than before takes the home's state along and builds every model anew.",
)
@as_json_option
@click.pass_obj
def refresh(home: Home, as_of: datetime | None, full: bool, target: str | None, as_json: bool) -> None:
    """Build everything from what was loaded, check it, and serve it.

    Example: onefold refresh --as-of 2026-01-31
    """
    tags = {}
    if as_of:
        tags["onefold/as_of"] = as_of.replace(tzinfo=UTC).isoformat()
    if full:
        tags["onefold/full_refresh"] = "true"
    if target:
        tags["onefold/target"] = target
    run(home, "refresh", tags=tags)
    served = str(home.serving / "current" / "onefold.duckdb")
    answer(as_json, {"served": served}, f"served: {served}")


@main.command()
@as_json_option
@click.pass_obj
def publish(home: Home, as_json: bool) -> None:
    """Publish what changed in the audiences since they were last published."""
    run(home, "publish")
    content = answers.audiences(home)
    answer(as_json, content, table("Audiences", content))


@main.command()
@click.option("--port", default=3000, show_default=True)
@click.pass_obj
def dev(home: Home, port: int) -> None:
    """Start the Dagster UI with its schedules and sensors on; Ctrl-C stops it."""
    home.prepare()
    load_channels(home)
    environment = {**os.environ, "ONEFOLD_HOME": str(home.path), "DAGSTER_HOME": str(home.dagster)}
    terminal.problems.print(f"Dagster: http://127.0.0.1:{port}   landing: {home.landing}   (Ctrl-C stops)")
    command = [
        str(Path(sys.executable).with_name("dagster")),
        "dev",
        "-w",
        str(PROJECT_ROOT / "workspace.yaml"),
        "-p",
        str(port),
    ]
    # A shell that starts this in the background hands down an ignored SIGINT; Dagster could then not be stopped.
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, env=environment, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    for wish in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wish, lambda *_: process.send_signal(signal.SIGINT))
    code = process.wait()
    sys.exit(0 if code in (0, -signal.SIGINT) else code)


@main.command()
@click.option("--interval", default=0.5, show_default=True, help="Seconds between two looks at landing.")
@click.option("--serve-every", default=60.0, show_default=True, help="Under load, seconds between two serving versions.")
@click.option("--until-idle", is_flag=True, help="End when nothing new is left.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each pass.")
@click.pass_obj
def live(home: Home, interval: float, serve_every: float, until_idle: bool, as_json: bool) -> None:
    """Carry new files to the audiences continuously, in one warm process; Ctrl-C stops it.

    Sensors of `onefold dev` leave files to it as long as it runs, and the Dagster UI shows what it did.

    Example: onefold live --interval 0.2
    """
    import dagster as dg

    from dagster_project.jobs import report_pass
    from dagster_project.lib.live import Live

    os.environ["DAGSTER_HOME"] = str(home.prepare().dagster)
    with dg.DagsterInstance.get() as instance:
        process = Live(home, lambda done: report_pass(instance, done), serve_every)
        process.warm_up()
        terminal.problems.print(f"watching {home.landing} (Ctrl-C stops)")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for done in process.passes(interval, until_idle):
                moved = sum(p.added + p.removed for p in done.publications)
                content = {
                    "refresh": done.refresh.number,
                    "rows": done.rows,
                    "audience_changes": moved,
                    "ledger_at": done.ledger_at,
                    "seconds": {part: round(taken, 3) for part, taken in done.seconds.items()},
                    "problems": done.problems,
                }
                if as_json:
                    click.echo(json.dumps(content))
                    continue
                took = sum(done.seconds.values())
                told = f"{done.rows:,} rows, {moved:,} audience changes in {took:.1f} s (refresh {done.refresh.number})"
                terminal.answers.print(told, *(f"[red]{escape(problem)}[/red]" for problem in done.problems), sep="\n")
        except KeyboardInterrupt:
            process.serve()


@main.command()
@as_json_option
@click.pass_obj
def status(home: Home, as_json: bool) -> None:
    """What was loaded, how good it is, what was served and published."""
    content = answers.status(home)
    answer(as_json, content, *_summary(content))


@main.command("quality")
@click.option("--open", "opened", is_flag=True, help="Open the pages in a browser.")
@as_json_option
@click.pass_obj
def quality_command(home: Home, opened: bool, as_json: bool) -> None:
    """What the suites said last and which metrics are unusual; writes the pages that show history and trends.

    Example: onefold quality --open
    """
    content = answers.verdicts(home)
    if opened:
        click.launch(content["pages"])
    shown = [table(title, content[part]) for part, title in (("suites", "Suites"), ("unusual", "Unusual now")) if content[part]]
    answer(as_json, content, *shown, f"Pages: {content['pages']}")


@main.command()
@click.argument("suite")
@click.option("--reason", required=True, help="Why the change is right; kept with your name.")
@click.option("--by", default=lambda: os.environ.get("USER", "unknown"), show_default="$USER", help="Who approves.")
@as_json_option
@click.pass_obj
def approve(home: Home, suite: str, reason: str, by: str, as_json: bool) -> None:
    """Take a failed suite's present numbers for the new usual; the next refresh is judged by them.

    Example: onefold approve identity --reason "the new app brings visitors that nobody knows yet"
    """
    from dagster_project.lib.quality import suites
    from dagster_project.lib.state import State

    approvable = [known.name for known in suites() if known.can_be_approved]
    if suite not in approvable:
        raise OnefoldError(
            f"'{suite}' is not judged by what is usual, so that nothing can be approved; {', '.join(approvable)} are"
        )
    number = State(home).approve(suite, by, reason)
    told = f"{suite}: the usual begins anew with refresh {number}; run `onefold refresh`"
    answer(as_json, {"suite": suite, "since_refresh": number}, told)


@main.command()
@click.argument("who")
@as_json_option
@click.pass_obj
def customer(home: Home, who: str, as_json: bool) -> None:
    """Everything about one customer, by customer id or by any identifier.

    Examples: onefold customer c_0a1b…   onefold customer email:li@example.com
    """
    content = answers.customer(home, who)
    profile = [{"field": field, "value": value} for field, value in content["profile"].items() if value is not None]
    parts = [
        table(part.title(), content[part]) for part in ("identifiers", "tags", "consents", "permissions", "sessions", "events")
    ]
    answer(as_json, content, table("Customer", profile), *parts)


@main.group(cls=Group)
def rejected() -> None:
    """The quarantine: rows that were not accepted."""


@rejected.command("list")
@click.option("--channel", help="Only this channel.")
@click.option("--limit", default=20, show_default=True)
@as_json_option
@click.pass_obj
def rejected_list(home: Home, channel: str | None, limit: int, as_json: bool) -> None:
    """Quarantined rows with reason, file, row and payload, newest first."""
    from dagster_project.lib.rejected import list_rejected

    rows = list_rejected(home, channel, limit)
    shown = [
        {"file": r["source_uri"], "row": r["source_row"], "reason": r["reason"], "payload": (r["payload"] or "")[:120]}
        for r in rows
    ]
    answer(as_json, rows, table("Quarantine", shown))


@rejected.command("replay")
@as_json_option
@click.pass_obj
def rejected_replay(home: Home, as_json: bool) -> None:
    """Try every quarantined row again under the present contracts and mappings."""
    from dagster_project.lib.rejected import replay

    results = [
        {"table": r.table, "tried": r.tried, "accepted": r.accepted, "problem": r.problem}
        for r in replay(home, load_channels(home), Settings.of(home))
    ]
    answer(as_json, results, table("Replayed", results))
    if any(result["problem"] for result in results):
        sys.exit(1)


@main.group(cls=Group)
def source() -> None:
    """Where data comes from: templates of well-known services, and the mappings of this home."""


@source.command("list")
@as_json_option
@click.pass_obj
def source_list(home: Home, as_json: bool) -> None:
    """The shipped templates, and the sources that this home has."""
    from dagster_project.lib.contracts import parse_sources, source_files
    from dagster_project.lib.templates import templates

    shipped = [
        {"template": template.name, "channel": mapping.channel, "what": mapping.description}
        for template in templates()
        for mapping in template.mappings
    ]
    present = [row | {"file": file.name} for file in source_files(home) for row in _located(parse_sources(file))]
    content = {"templates": shipped, "sources": present}
    answer(as_json, content, table("Templates", shipped), table("Sources of this home", present))


@source.command("add")
@click.argument("template")
@click.option("--location", help="Folder below landing/, path or URL with the files (default: the template's name).")
@as_json_option
@click.pass_obj
def source_add(home: Home, template: str, location: str | None, as_json: bool) -> None:
    """Take a template into this home, and say which files it expects where.

    Example: onefold source add hubspot --location s3://exports/hubspot
    """
    from dagster_project.lib.contracts import parse_sources
    from dagster_project.lib.templates import add_template

    file = add_template(home, template, location)
    expected = _located(parse_sources(file))
    told = f"{file}: change it as you like. Land the files below {home.landing}, then run `onefold ingest`."
    answer(as_json, {"file": str(file), "expected": expected}, table("Expected files", expected), told)


def _located(mappings: list[Mapping]) -> list[dict[str, str]]:
    return [
        {"location": source.location or "", "becomes": f"{mapping.channel}/{entity}", "source": source.name}
        for mapping in mappings
        for entity, sources in mapping.entities.items()
        for source in sources
    ]


@main.group(cls=Group)
def metric() -> None:
    """Figures by their one definition, which BI, suites and reports share."""


@metric.command("list")
@as_json_option
@click.pass_obj
def metric_list(home: Home, as_json: bool) -> None:
    """What each metric means, and by what it can be split."""
    from dataclasses import asdict

    from dagster_project.lib import metrics

    found = metrics.catalogue(home.prepare())
    customers = [d for d in next(m for m in found if m.name == "customers").dimensions if not d.endswith("_at")]
    shown = []
    for m in found:
        own = [d.split("__")[-1] for d in m.dimensions if not d.startswith("customer__") and not d.endswith(("_at", "_date"))]
        its = ["customer's"] if set(customers) <= set(m.dimensions) else []
        shown.append({"metric": m.name, "label": m.label, "definition": m.description, "by": ", ".join(own + its)})
    told = f"customer's: {', '.join(d.split('__')[-1] for d in customers)}; and all of them by --grain"
    answer(as_json, [asdict(m) for m in found], table("Metrics", shown), told)


@metric.command("query")
@click.argument("names", metavar="NAME[,NAME …]")
@click.option("--by", help="Dimensions to split by, with commas between; onefold metric list shows them.")
@click.option("--where", help="Condition over dimensions, as in SQL.")
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), help="First day, UTC.")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="Last day, UTC.")
@click.option("--grain", type=click.Choice(["day", "week", "month", "quarter", "year"]), help="A row for each period.")
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL instead, for a BI tool on serving/current.")
@as_json_option
@click.pass_obj
def metric_query(
    home: Home,
    names: str,
    by: str | None,
    where: str | None,
    since: datetime | None,
    until: datetime | None,
    grain: str | None,
    as_sql: bool,
    as_json: bool,
) -> None:
    """The figures of one or several metrics, of what is served.

    Example: onefold metric query revenue,average_order_value --by channel --grain month --where "country = 'CN'"
    """
    from dagster_project.lib import metrics

    def parts(text: str | None) -> tuple[str, ...]:
        return tuple(part.strip() for part in (text or "").split(",") if part.strip())

    days = (moment.date() if moment else None for moment in (since, until))
    question = metrics.Question(parts(names), parts(by), where, *days, grain)
    if as_sql:
        statement = metrics.sql(home.prepare(), question)
        click.echo(json.dumps({"sql": statement}) if as_json else statement)  # unwrapped, to be pasted
    else:
        rows = [
            {name: float(value) if isinstance(value, Decimal) else value for name, value in row.items()}
            for row in metrics.ask(home.prepare(), question)
        ]
        answer(as_json, rows, table(", ".join(question.metrics), [_with_short_names(row) for row in rows]))


def _with_short_names(row: dict[str, Any]) -> dict[str, Any]:
    """Dimensions by their last part, unless two share it."""
    last = [name.rsplit("__", 1)[-1] for name in row]
    return {short if last.count(short) == 1 else name: value for short, (name, value) in zip(last, row.items(), strict=True)}


@main.group(cls=Group)
def tag() -> None:
    """Tags of customers."""


@tag.command("list")
@as_json_option
@click.pass_obj
def tag_list(home: Home, as_json: bool) -> None:
    """The catalogue: what each tag means, who owns it, how many customers have it."""
    rows = answers.tags(home)
    answer(as_json, rows, table("Tags", rows))


@tag.command("preview")
@click.argument("name")
@click.option("--examples", default=5, show_default=True, help="How many customers to show.")
@as_json_option
@click.pass_obj
def tag_preview(home: Home, name: str, examples: int, as_json: bool) -> None:
    """What a tag's model would give, before a refresh adopts it; nothing is written.

    Example: onefold tag preview weekend_shopper
    """
    found = answers.tag_preview(home, name.removeprefix("tags_"), examples)
    tables = [
        table("Known customers", [found["summary"]]),
        table("Values", found["values"]),
        table("Examples", found["examples"]),
    ]
    answer(as_json, found, *tables)


@main.group(cls=Group)
def audience() -> None:
    """Audiences and their publication."""


@audience.command("list")
@as_json_option
@click.pass_obj
def audience_list(home: Home, as_json: bool) -> None:
    """Every published audience with its version, size and file."""
    rows = answers.audiences(home)
    answer(as_json, rows, table("Audiences", rows))


@audience.command("preview")
@click.argument("name", metavar="NAME|FILE.yaml")
@click.option("--tag", "tags", multiple=True, help="Show this tag's values, in place of the usual ones; may be repeated.")
@click.option("--examples", default=5, show_default=True, help="How many members to show.")
@as_json_option
@click.pass_obj
def audience_preview(home: Home, name: str, tags: tuple[str, ...], examples: int, as_json: bool) -> None:
    """Who would be in an audience as of the last refresh, and how to reach them; nothing is written.

    Examples: onefold audience preview lapsed_buyers   onefold audience preview drafts/win_back.yaml
    """
    found = answers.audience_preview(home, name, tags, examples)
    shown = [f"{found.audience}, as of {found.as_of} UTC, for {found.purpose or 'no purpose'}"]
    shown += [found.sentence, found.sentence_zh] if found.sentence else []
    tables = [table("Known customers", [found.summary])]
    if found.conditions:
        tables.append(table("Conditions, each by itself", [_without(row, "condition_zh") for row in found.conditions]))
    tables += [
        table("Reach", found.reach),
        table("Overlap with published audiences", found.overlap),
        table("Values", found.values),
        table("Examples", found.examples),
    ]
    answer(as_json, found.as_dict(), *map(escape, shown), *tables)


@audience.command("explain")
@click.argument("name", metavar="NAME|FILE.yaml")
@click.argument("who")
@as_json_option
@click.pass_obj
def audience_explain(home: Home, name: str, who: str, as_json: bool) -> None:
    """Why a customer is in an audience or not: which conditions hold, as of the last refresh.

    Example: onefold audience explain lapsed_buyers email:li@example.com
    """
    found = answers.audience_explain(home, name, who)
    told = f"{found['customer_id']} is {'in' if found['is_member'] else 'not in'} {found['audience']}"
    answer(as_json, found, told, table("Conditions", [_without(row, "condition_zh") for row in found["conditions"]]))


@audience.command("stopped")
@as_json_option
@click.pass_obj
def audience_stopped(home: Home, as_json: bool) -> None:
    """Audiences that the circuit breaker stopped: why, since when, and what their version would be."""
    rows = answers.stopped(home)
    told = table("Stopped audiences", _stopped(rows)) if rows else "No audience is stopped."
    answer(as_json, rows, told)


@audience.command("approve")
@click.argument("names", metavar="NAME …", nargs=-1, required=True)
@click.option("--version", type=int, help="The version that you looked at; another one is not approved by mistake.")
@click.option("--reason", required=True, help="Why it is right to publish; kept with your name.")
@click.option("--by", default=lambda: os.environ.get("USER", "unknown"), show_default="$USER", help="Who approves.")
@as_json_option
@click.pass_obj
def audience_approve(home: Home, names: tuple[str, ...], version: int | None, reason: str, by: str, as_json: bool) -> None:
    """Let the stopped version of an audience out with the next publication, and no other.

    It holds for the kinds of reasons that are shown now, and for about the size that the version would have now.

    Example: onefold audience approve lapsed_buyers --version 4 --reason "the spring campaign ended"
    """
    from dagster_project.lib.stops import Stops

    if version is not None and len(names) > 1:
        raise OnefoldError("--version goes with one audience; approve them one by one, or without it")
    kept = Stops(home)
    approved = [kept.approve(name, by, reason, version) for name in dict.fromkeys(names)]
    content = [
        {"audience": stop.audience, "version": stop.version, "members": stop.members, "would_be": stop.would_be}
        for stop in approved
    ]
    told = [f"{stop.audience}: version {stop.version} may be published ({stop.reason})" for stop in approved]
    answer(as_json, content, *map(escape, told), "Run `onefold publish`; the sensor of `onefold dev` does so by itself.")


def _stopped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What people see of stopped audiences."""
    return [
        {
            **{name: row[name] for name in ("audience", "version", "members", "would_be")},
            "stopped_at": row["stopped_at"].replace(tzinfo=None),
            "why": "\n".join(finding["sentence"] for finding in row["findings"]),
            "approved_by": row["approved_by"],
        }
        for row in rows
    ]


def _without(row: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != key}


@main.command()
@as_json_option
@click.pass_obj
def check(home: Home, as_json: bool) -> None:
    """Check settings, contracts, mappings, templates, suites, destinations and dbt models, also for Spark; touches no data."""
    from dagster_project.lib import dbt, metrics, portability, quality
    from dagster_project.lib.delivery.deliver import destinations_of, sensitive
    from dagster_project.lib.publish import audiences as exposed
    from dagster_project.lib.templates import check_templates

    Settings.of(home)
    channels = load_channels(home)
    manifest = dbt.manifest(home.prepare())
    published, destinations = exposed(manifest), destinations_of(home, manifest)
    for name, each in destinations.items():
        for audience in published:
            if audience.name in each.audiences and (problem := sensitive(audience, name, each)):
                raise OnefoldError(problem)
    counts = {
        "channels": len(channels),
        "entities": sum(len(channel.entities) for channel in channels.values()),
        "templates": check_templates(home),
        "suites": len(quality.suites()),
        "metrics": metrics.require_described(home),
        "audiences": len(published),
        "destinations": len(destinations),
        "statements for Spark": portability.require_portable(home),
    }
    if not counts["statements for Spark"]:
        terminal.problems.print("dbt-spark is not installed (pip install -e '.[dev]'): models were not compiled for Spark")
    answer(as_json, counts, f"{', '.join(f'{n} {what}' for what, n in counts.items())}: all well formed")


@main.command("dbt", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, required=True)
@click.pass_obj
def dbt_command(home: Home, arguments: tuple[str, ...]) -> None:
    """Run dbt on the home's warehouse, with contracts, settings and the write lock.

    Example: onefold dbt build --select tags_lifecycle
    """
    from dagster_project.lib import dbt

    with home.turn("dbt by hand"):
        result = dbt.run(home.prepare(), list(arguments), quiet=False)
    if not result.success:
        sys.exit(1)


def _simulate(home: Home, people: int, days: int, seed: int, until: date) -> dict[str, int]:
    from simulator import NEWSLETTER, SETTINGS
    from simulator import simulate as run_simulation

    home.prepare()
    settings = home.path / "onefold.yaml"
    if not settings.exists() and not home.warehouse.exists():
        settings.write_text(SETTINGS)
        newsletter = home.path / "destinations" / "newsletter.yaml"
        newsletter.parent.mkdir(exist_ok=True)
        newsletter.write_text(NEWSLETTER)
    with bar() as shown:
        tasks: dict[str, Any] = {}

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = shown.add_task(f"simulating {step}", total=total)
            shown.update(tasks[step], completed=done)

        try:
            counts = run_simulation(
                home.landing, answers.truth(home), people=people, days=days, seed=seed, until=until, report=report
            )
        except (ValueError, FileExistsError) as error:
            raise OnefoldError(str(error)) from error
    return {"people": counts.people, "files": counts.files, "rows": counts.rows}


def _ingest(home: Home, names: tuple[str, ...] | None, again: dict[str, Any] | None = None) -> bool:
    """Load channels one by one, each in a run of its own; whether every file was accepted.

    Args:
        again: what to read again, by channel.
    """
    channels = load_channels(home)
    if unknown := set(names or ()) - set(channels):
        raise OnefoldError(f"there is no channel {', '.join(sorted(unknown))}; there are {', '.join(channels)}")
    broken: list[str] = []
    with bar() as shown:
        task = shown.add_task("ingesting", total=len(names or channels))
        for name in names or channels:
            tags = {"onefold/again": json.dumps(again[name])} if again else None
            broken += run_quietly(home, "ingest", shown, name, channel=channels[name], tags=tags)
            shown.advance(task)
    for problem in broken:
        terminal.problems.print(f"[red]{problem}[/red]", highlight=False)
    return not broken


def _summary(content: dict[str, Any]) -> list[Any]:
    titles = {
        "channels": "Rows by channel",
        "quality": "Quality",
        "unusual": "Unusual",
        "customers": "Customers",
        "tags": "Tags",
        "audiences": "Audiences",
        "deliveries": "Deliveries",
    }
    tables: list[Any] = [table(title, content[part]) for part, title in titles.items() if content.get(part)]
    if content.get("stopped"):
        tables.append(table("Stopped audiences", _stopped(content["stopped"])))
    if purposes := content["legitimate_interest"]:
        tables.append(f"Legitimate interest (onefold.yaml): who said nothing may be contacted for {', '.join(purposes)}")
    return [*tables, *content.get("next", [])]
