"""The commands `onefold bench …`."""

from pathlib import Path

import click

from dagster_project import terminal
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.home import Home
from dagster_project.terminal import Group, answer, as_json_option, table


@click.group(cls=Group)
def bench() -> None:
    """Benchmarks of this machine; the ratios within one run are what counts."""


def _bench_folder(home: Home) -> Path:
    return home.temporary / "bench"


@bench.command("ingest")
@click.option("--events", default=1_000_000, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Turns of Onefold and DuckDB; pandas and dlt have one.")
@click.option("--beside", default="duckdb,pandas,dlt", show_default=True, help="What to measure beside Onefold.")
@as_json_option
@click.pass_obj
def bench_ingest(home: Home, events: int, rounds: int, beside: str, as_json: bool) -> None:
    """JSON events through the whole of ingestion, beside bare DuckDB, pandas and dlt reading them.

    Example: onefold bench ingest --events 200000 --beside duckdb
    """
    from bench import ingest as benchmark

    others = tuple(name for name in beside.split(",") if name)
    if unknown := set(others) - set(benchmark.BESIDE):
        raise OnefoldError(f"--beside knows {', '.join(benchmark.BESIDE)}, not {', '.join(sorted(unknown))}")
    content = benchmark.run(_bench_folder(home), events, rounds, others, _tell)
    answer(as_json, content, table(f"{events:,} JSON events, {content['megabytes']} MB", content["results"]))


@bench.command("refresh")
@click.option("--sizes", default="100000,1000000,5000000", show_default=True, help="Events of history.")
@click.option("--increments", default=3, show_default=True, help="Times that a thousand events are added at each size.")
@as_json_option
@click.pass_obj
def bench_refresh(home: Home, sizes: str, increments: int, as_json: bool) -> None:
    """A whole build, a thousand new events, and all models anew, at growing sizes of history; where time and memory go.

    Example: onefold bench refresh --sizes 20000,100000
    """
    from bench import refresh as benchmark

    wanted = tuple(int(size) for size in sizes.split(","))
    content = benchmark.run(_bench_folder(home), wanted, increments, _tell)
    shown = [
        {
            "events": r["events"],
            "ingest_s": r["full"]["ingest"],
            "full_s": r["full"]["seconds"],
            "to_linear": r["full_to_linear"],
            "peak_gib": r["full"]["peak_gib"],
            "increment_s": r["increment"]["seconds"],
            "to_least": r["increment_to_least"],
            "serve_s": r["increment"]["serve"],
        }
        for r in content["results"]
    ]
    parts = [{"events": r["events"], **r["increment"]["parts"]} for r in content["results"]]
    largest = content["results"][-1]
    answer(
        as_json,
        content,
        table("Builds", shown),
        table(f"Seconds of {content['batch']:,} new events, by part", parts),
        table(f"All models of {largest['events']:,} events anew, by step", largest["anew"]["parts"]),
        table("The slowest models", largest["anew"]["slowest"]),
    )


@bench.command("identity")
@click.option("--links", default=10_000_000, show_default=True, help="Size of the candidate graph.")
@click.option("--giant", default=1_000_000, show_default=True, help="Links of one component in which everything breaks.")
@as_json_option
@click.pass_obj
def bench_identity(home: Home, links: int, giant: int, as_json: bool) -> None:
    """Identity on a large graph, with rules and without, then a thousand links more, then one giant bad component.

    Example: onefold bench identity --links 1000000 --giant 100000
    """
    from bench import identity as benchmark

    content = benchmark.run(_bench_folder(home), links, giant, _tell)
    rows = [{"what": name, **content[name]} for name in ("none", "shipped", "more", "giant") if name in content]
    ratios = [{"rules_to_none": content["rules_to_none"], "more_to_whole": content["more_to_whole"]}]
    answer(as_json, content, *(table(row["what"], [row]) for row in rows), table("Ratios", ratios))


@bench.command("match")
@click.option("--profiles", default=100_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@as_json_option
@click.pass_obj
def bench_match(home: Home, profiles: int, rounds: int, as_json: bool) -> None:
    """Matching of records, beside plain Splink comparing the same pairs.

    Example: onefold bench match --profiles 20000 --rounds 1
    """
    from bench import match as benchmark

    content = benchmark.run(_bench_folder(home), profiles, rounds, _tell)
    answer(as_json, content, table(f"{profiles:,} profiles", content["results"]))


@bench.command("accuracy")
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--people", default=2000, show_default=True, help="Size of the sample company.")
@as_json_option
@click.pass_obj
def bench_accuracy(home: Home, data: Path, people: int, as_json: bool) -> None:
    """Matching on data with known truth: fake_1000, febrl3 and febrl4 below DATA, and the sample company at three noise levels.

    Example: onefold bench accuracy data
    """
    from bench import accuracy as benchmark

    rows = benchmark.run(_bench_folder(home), data, people, _tell)
    answer(as_json, rows, table("Matching against the truth", rows))


@bench.command("sentiment")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@as_json_option
@click.pass_obj
def bench_sentiment(home: Home, file: Path, as_json: bool) -> None:
    """How often sentiment is right, on texts that people labelled: FILE has the columns text, label and, optionally, language.

    Example: onefold bench sentiment labelled.tsv
    """
    from bench import sentiment as benchmark

    content = benchmark.run(file)
    title = f"Accuracy, with its 95 % interval; {content['texts_per_second']:,} texts a second"
    answer(as_json, content, table(title, content["results"]), table("by label", content["labels"]))


@bench.command("live")
@click.option("--events", default=1_000_000, show_default=True, help="Events of history.")
@click.option("--files", default=20, show_default=True, help="Files of a thousand events, one after the other.")
@click.option("--settle", default=2.0, show_default=True, help="landing_settle_seconds; part of the time.")
@as_json_option
@click.pass_obj
def bench_live(home: Home, events: int, files: int, settle: float, as_json: bool) -> None:
    """From a landed file to the audience ledger in the continuous mode.

    Example: onefold bench live --events 100000 --files 5
    """
    from bench import live as benchmark

    content = benchmark.run(_bench_folder(home), events, files, settle, _tell)
    whole = [{key: content[key] for key in ("events", "files", "settle_seconds", "median", "percentile_95")}]
    answer(as_json, content, table("Seconds from file to ledger", whole), table("by part", [content["parts"]]))


@bench.command("deliver")
@click.option("--members", default=100_000, show_default=True, help="Of the audience that is sent whole.")
@click.option("--few", default=10_000, show_default=True, help="Members of the small audience in which a hundred change.")
@click.option("--many", default=1_000_000, show_default=True, help="Members of the large one.")
@as_json_option
@click.pass_obj
def bench_deliver(home: Home, members: int, few: int, many: int, as_json: bool) -> None:
    """Members to a webhook on this machine, beside a bare client with the same bodies; then a hundred changes among many.

    Example: onefold bench deliver --members 20000 --few 1000 --many 100000
    """
    from bench import deliver as benchmark

    content = benchmark.run(_bench_folder(home), members, few, many, _tell)
    whole = {name: content[name] for name in ("plan", "send", "bare", "send_to_bare", "members_per_second", "grown_mib")}
    shown = [{**row, "to_few": round(row["seconds"] / content["changes"][0]["seconds"], 2)} for row in content["changes"]]
    answer(as_json, content, table(f"{members:,} members", [whole]), table("A hundred changes", shown))


def _tell(what: str) -> None:
    terminal.problems.print(what)


@bench.command("spark")
@click.option("--people", default="100,1000", show_default=True, help="Sizes of the sample company, for both engines.")
@click.option("--only-duckdb", default="10000", show_default=True, help="Further sizes, for DuckDB alone.")
@as_json_option
@click.pass_obj
def bench_spark(home: Home, people: str, only_duckdb: str, as_json: bool) -> None:
    """All models of the sample company on DuckDB and on Spark in one process, at growing sizes.

    Example: onefold bench spark --people 100,300 --only-duckdb ''
    """
    from bench import spark as benchmark

    sizes = [tuple(int(size) for size in given.split(",") if size) for given in (people, only_duckdb)]
    content = benchmark.run(_bench_folder(home), *sizes, _tell)
    names = ("people", "events", "engine", "seconds", "peak_gib", "java_gib", "shuffled_mb", "staging_mb", "tables_mb")
    shown = [{name: r.get(name) for name in names} for r in content["results"]]
    parts = [{"people": r["people"], "engine": r["engine"], **r["parts"]} for r in content["results"]]
    shuffled = [{"people": r["people"], **r["shuffled"]} for r in content["results"] if "shuffled" in r]
    tables = {"All models": shown, "Seconds by step": parts, "Shuffled MB by step": shuffled}
    answer(as_json, content, *(table(title, rows) for title, rows in tables.items()))
