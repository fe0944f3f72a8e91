"""Reading landed files again after a mapping mistake: what they brought under the old mapping is withdrawn.

A file's old rows go and its new ones come in one transaction, so that no moment shows neither. A run that was killed has
done some of the files; run again, it does all of them.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dagster_project.lib.contracts import ChannelContract, Source
from dagster_project.lib.errors import OnefoldError
from dagster_project.lib.files import LandedFile, content_hash, landed_files
from dagster_project.lib.home import Home, transaction
from dagster_project.lib.ingest import Batch, EntityLoad, next_sequence, prepare_warehouse, withdraw
from dagster_project.lib.progress import tell
from dagster_project.lib.rejected import replay
from dagster_project.lib.settings import Settings
from dagster_project.lib.state import State

log = logging.getLogger("onefold")


@dataclass(frozen=True)
class Again:
    """What to read again.

    Args:
        entities: of the channel; none: all of them.
        files: names as in the ledger, or paths; none: every file.
        withdraw_gone: withdraw also what came from files that are no longer there.
    """

    entities: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    withdraw_gone: bool = False


@dataclass
class _Plan:
    """One entity: the files to read, and the batches (id, file) that the ledger has of them, by content."""

    entity: str
    files: list[tuple[Source, LandedFile, str]] = field(default_factory=list)
    old: dict[str, list[str]] = field(default_factory=dict)  # content: batches
    unclaimed: list[str] = field(default_factory=list)  # batches of files that are there, and that no source names any more
    gone: list[tuple[str, str]] = field(default_factory=list)


def reingest(home: Home, channel: ChannelContract, settings: Settings, again: Again) -> list[EntityLoad]:
    """Read files of a channel again under the present contracts and mappings; staging is then as if they had always been.

    A file that the new mapping refuses keeps the rows it had. The next refresh rebuilds every model.

    Raises:
        OnefoldError: an entity or file is unknown, a location cannot be listed, or files are gone whose rows nobody asked to
            withdraw; then nothing was changed.
    """
    if unknown := set(again.entities) - set(channel.entities):
        known = ", ".join(channel.entities)
        raise OnefoldError(f"{channel.channel} has no entity {', '.join(sorted(unknown))}; it has {known}")
    names = again.entities or tuple(channel.entities)
    with home.connect(f"ingest of {channel.channel}") as connection:
        prepare_warehouse(connection, {channel.channel: channel})
    plans = [_plan(home, channel, name, again.files) for name in names]
    if again.files and not any(plan.files or plan.unclaimed or plan.gone for plan in plans):
        raise OnefoldError(f"no file {', '.join(again.files)} is in landing or in the ledger of {', '.join(names)}")
    gone = sorted({uri for plan in plans for _, uri in plan.gone})
    if gone and not again.withdraw_gone:
        shown = ", ".join(gone[:5]) + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
        raise OnefoldError(
            f"{shown}: loaded before and no longer there, so that the rows could not be read again; land them again, "
            "name those that are there with --file, or give the rows up with --withdraw-gone"
        )
    loads = [_carry_out(home, channel, plan, settings) for plan in plans]
    replay(home, {channel.channel: channel.model_copy(update={"entities": {n: channel.entities[n] for n in names}})}, settings)
    return loads


def _plan(home: Home, channel: ChannelContract, name: str, wanted: Sequence[str]) -> _Plan:
    plan = _Plan(name)
    for source in channel.entities[name].sources:
        for file in landed_files(home, channel, name, source):
            if not wanted or _is_named(home, file.uri, wanted):
                with file.local(home) as path:
                    plan.files.append((source, file, content_hash(path)))
    present = {content for _, _, content in plan.files}
    with home.connect(f"ingest of {channel.table(name)}") as connection:
        batches = connection.execute(
            "select batch_id, content_hash, source_uri from staging._loads "
            "where channel = ? and entity = ? and status = 'loaded' order by seq",
            [channel.channel, name],
        ).fetchall()
    for batch, content, uri in batches:
        if content in present:
            plan.old.setdefault(content, []).append(batch)
        elif not wanted or _is_named(home, uri, wanted):
            path = home.path / uri  # of an absolute path: that path
            if "://" not in uri and path.is_file() and content_hash(path) == content:
                plan.unclaimed.append(batch)
            else:
                plan.gone.append((batch, uri))
    return plan


def _is_named(home: Home, uri: str, wanted: Sequence[str]) -> bool:
    if uri in wanted:
        return True
    return "://" not in uri and (home.path / uri).resolve() in {Path(name).resolve() for name in wanted if "://" not in name}


def _carry_out(home: Home, channel: ChannelContract, plan: _Plan, settings: Settings) -> EntityLoad:
    entity, state = channel.entities[plan.entity], State(home)
    load = EntityLoad(channel.table(plan.entity))
    for source in entity.sources:
        # A run that is killed half way must not leave an ordinary one believing that all is read.
        state.forget_files(f"{load.table}/{source.name}", [file.uri for _, file, _ in plan.files])
    for done, (source, file, content) in enumerate(plan.files, 1):
        # Of several files or sources with one content the first takes the old batches away.
        Batch(home, channel, plan.entity, source, file, settings, replaces=plan.old.pop(content, [])).load(load)
        state.remember_file(f"{load.table}/{source.name}", *file.identity, entity.fingerprint)
        tell(f"{load.table}: {file.uri.rsplit('/', 1)[-1]}", done, len(plan.files))
    for batch in [*plan.unclaimed, *(batch for batch, _ in plan.gone)]:
        with home.connect(f"ingest of {load.table}") as connection:
            with transaction(connection):
                seq = next_sequence(connection)
                load.withdrawn += withdraw(connection, batch, seq)
            state.advance("loaded", seq)
    return load
