"""What the command line shows: answers on the output, progress and problems on the error stream."""

import json
import sys
from datetime import datetime
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dagster_project.lib import progress
from dagster_project.lib.contracts import ChannelContract
from dagster_project.lib.errors import OnefoldError, told, with_remedy
from dagster_project.lib.home import Home

# Two streams, so that answers and --json stay clean; a wide table where the output is a file.
problems = Console(stderr=True)
answers = Console(width=None if sys.stdout.isatty() else 140)


class Command(click.Command):
    """Shows an error that a person can put right without a traceback, and exits with 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except OnefoldError as error:
            raise click.ClickException(with_remedy(str(error))) from error
        except Exception as error:
            if message := told(error):
                raise click.ClickException(message) from error
            raise


class Group(click.Group):
    command_class = Command
    group_class = type


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def answer(as_json: bool, content: Any, *shown: Any) -> None:
    """Print the content as JSON, or what is shown to people."""
    if as_json:
        click.echo(json.dumps(content, ensure_ascii=False, indent=2, default=str))
    else:
        answers.print(*shown, sep="\n")


def bar() -> Progress:
    """A progress bar that leaves nothing behind."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=problems,
        transient=True,
    )


def run(home: Home, job: str, tags: dict[str, str] | None = None) -> None:
    """Run one of the jobs to its end behind a progress bar.

    Raises:
        OnefoldError: why it failed, a line for each failed step or check.
    """
    labels = {"refresh": "refreshing", "publish": "publishing", "deliver": "delivering"}
    with bar() as shown:
        broken = run_quietly(home, job, shown, labels[job], tags=tags)
    if broken:
        raise OnefoldError("\n".join(broken))


def run_quietly(
    home: Home,
    job: str,
    shown: Progress,
    label: str,
    channel: ChannelContract | None = None,
    tags: dict[str, str] | None = None,
) -> list[str]:
    """Run a job as one task of a progress bar; returns why it failed, if it did, and shows what its checks warn of."""
    task = shown.add_task(label, total=None)

    def show(what: str, done: int, total: int) -> None:
        shown.update(task, description=f"{label} · {what}"[:60], completed=done, total=total)

    from dagster_project.jobs import problems as problems_of
    from dagster_project.jobs import run_job, warnings

    with progress.listening(show):
        result = run_job(home, job, channel=channel, tags=tags)
    shown.remove_task(task)
    for warning in warnings(result):
        problems.print(f"[yellow]{escape(warning)}[/yellow]", highlight=False)
    return problems_of(result)


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Rows with the keys of the first as columns."""
    result = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name, example in (rows[0] if rows else {"nothing yet": ""}).items():
        is_number = isinstance(example, int | float) and not isinstance(example, bool)
        result.add_column(name.replace("_", " "), overflow="fold", justify="right" if is_number else "left")
    for row in rows:
        result.add_row(*(_text(value) for value in row.values()))
    return result


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.3f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return str(value)
