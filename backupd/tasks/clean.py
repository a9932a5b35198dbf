"""Remove old leftovers: databases and files that restores replaced, damaged copies, and contents that no list names."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from backupd.errors import CopyCorrupt, GenerationMissing
from backupd.formatting import counted, human_bytes, human_duration
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.history import KEPT_FOR, KeptDatabase, choose_undo, kept_files, remove_kept, restore_history
from backupd.sqlite.source import real_path
from backupd.sqlite.target import restore_lock, restore_locks
from backupd.stores.contract import CONTENTS, ListedContent
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.events import LeftoverRemoved
from backupd.tasks.pruning_plan import holds_on
from backupd.tasks.restore import files_left
from backupd.tasks.restore.recovery import recover_files, recover_restore
from backupd.tasks.store_events import ContentsSwept
from backupd.tasks.sweep import GRACE, remove_contents, unneeded_contents

Kind = Literal["replaced database", "replaced files", "record of a restore", "damaged copy", "contents of files"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or directory that is kept for an undo or for inspection."""

    kind: Kind  # an online restore replaces no file: only its record is left
    source: str  # empty for contents, which belong to the whole store
    path: Path
    since: datetime  # aware, UTC; of contents that of the oldest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CleanDecision:
    """Whether `leftover` is (or would be) removed, and why."""

    leftover: Leftover
    removed: bool
    reason: str


def decide_replaced(
    kept: tuple[Leftover, ...], next_undone: Collection[Path], older_than: timedelta, now: datetime
) -> tuple[CleanDecision, ...]:
    """Decide about what restores to one database or set of files have replaced, oldest first.

    Those in `next_undone`, which the next `restore --undo` or `--redo` puts back, stay for KEPT_FOR at least. One stays
    for as long as an older one does, since undos go back from the newest to the oldest without a gap.
    """
    decisions: list[CleanDecision] = []
    for one in kept:
        age = now - one.since
        if decisions and not decisions[-1].removed:
            decisions.append(CleanDecision(one, removed=False, reason="an older one stays"))
        elif age < older_than:
            decisions.append(CleanDecision(one, removed=False, reason=f"younger than {_span(older_than)}"))
        elif one.path in next_undone and age < KEPT_FOR:
            reason = f"restore --undo puts it back; it stays for {_span(KEPT_FOR)}"
            decisions.append(CleanDecision(one, removed=False, reason=reason))
        else:
            decisions.append(CleanDecision(one, removed=True, reason=f"older than {_span(older_than)}"))
    return tuple(decisions)


def decide_damaged(
    copies: tuple[Leftover, ...], held: Collection[str], older_than: timedelta, now: datetime
) -> tuple[CleanDecision, ...]:
    """Decide about damaged copies; those of a source in `held`, whose pruning is on hold, stay as evidence."""

    def decide(one: Leftover) -> CleanDecision:
        if one.source in held:
            return CleanDecision(one, removed=False, reason=f"pruning of {one.source} is on hold")
        if now - one.since < older_than:
            return CleanDecision(one, removed=False, reason=f"younger than {_span(older_than)}")
        return CleanDecision(one, removed=True, reason=f"older than {_span(older_than)}")

    return tuple(map(decide, copies))


def clean(
    databases: Mapping[str, Path],
    older_than: timedelta,
    context: TaskContext,
    *,
    files: Mapping[str, Path] = MappingProxyType({}),
    everything: bool = True,
    dry_run: bool = False,
) -> tuple[CleanDecision, ...]:
    """Remove old leftovers of the `databases` and sets of `files` (paths by name); with `dry_run` nothing is changed.

    With `everything` damaged copies of sources that are no longer configured go too, and contents of files that no list
    names, such as those of a backup that was killed: a day old, as in pruning, and under no hold. Holds the lock of the
    store, and the restore lock of each of them, where a killed restore is recovered first. Raises LockHeld,
    TargetRefused, OSError.
    """
    with nullcontext() if dry_run else context.exclusive_lock("clean"):
        if not dry_run:
            context.recover()
        replaced = (_clean_replaced(*source, older_than, context, dry_run=dry_run) for source in databases.items())
        replaced_files = (_clean_files(*source, older_than, context, dry_run=dry_run) for source in files.items())
        return (
            *chain.from_iterable(replaced),
            *chain.from_iterable(replaced_files),
            *_clean_damaged(None if everything else {*databases, *files}, older_than, context, dry_run=dry_run),
            *(_clean_contents(context, dry_run=dry_run) if everything else ()),
        )


def _clean_replaced(
    source: str, path: Path, older_than: timedelta, context: TaskContext, *, dry_run: bool
) -> tuple[CleanDecision, ...]:
    target = real_path(path)
    if not target.parent.is_dir():
        return ()
    with nullcontext() if dry_run else restore_lock(path), DatabasePlace.open(target) as place:
        if not dry_run:
            recover_restore(path, context)
        kept = kept_files(place)
        found = tuple(_replaced(one, source) for one in kept)
        decisions = decide_replaced(found, _next_undone(place), older_than, context.clock())
        for decision, one in zip(decisions, kept, strict=True):
            if decision.removed and not dry_run:
                remove_kept(one, place)
                _log_removed(decision.leftover, context)
    return decisions


def _clean_files(
    source: str, path: Path, older_than: timedelta, context: TaskContext, *, dry_run: bool
) -> tuple[CleanDecision, ...]:
    if not path.is_dir():
        return ()
    with nullcontext() if dry_run else restore_locks([real_path(path)]):
        if not dry_run:
            recover_files(path, context)
        kept = files_left.kept_files(path, sized=True)
        found = tuple(Leftover("replaced files", source, one.path, one.kept_at, one.size_bytes) for one in kept)
        next_undone = set[Path]()
        for redo in (False, True):
            with suppress(GenerationMissing):
                next_undone.add(files_left.choose_files_undo(kept, redo=redo).path)
        decisions = decide_replaced(found, next_undone, older_than, context.clock())
        for decision, one in zip(decisions, kept, strict=True):
            if decision.removed and not dry_run:
                files_left.remove_kept(one)
                _log_removed(decision.leftover, context)
    return decisions


def _clean_damaged(
    sources: Collection[str] | None, older_than: timedelta, context: TaskContext, *, dry_run: bool
) -> tuple[CleanDecision, ...]:
    copies = {copy.directory: copy for copy in context.quarantine.copies()}
    of_all = (
        Leftover("damaged copy", copy.directory.parent.name, copy.directory, copy.since, copy.size_bytes)
        for copy in copies.values()
    )
    found = tuple(one for one in of_all if sources is None or one.source in sources)
    held = {one.source for one in found if context.holds.get(one.source) is not None}
    decisions = decide_damaged(found, held, older_than, context.clock())
    for decision in decisions:
        if decision.removed and not dry_run:
            context.quarantine.remove(copies[decision.leftover.path])
            _log_removed(decision.leftover, context)
    return decisions


def _clean_contents(context: TaskContext, *, dry_run: bool) -> Iterator[CleanDecision]:
    """Sweep the contents that no list names; a prune ends what was begun here, and takes later what is young."""
    store, inventory = context.store, read_inventory(context)
    held = holds_on({generation.source for generation in inventory.generations if generation.kind == "files"}, context)
    try:
        old, young = unneeded_contents(store, inventory)
    except (CopyCorrupt, GenerationMissing) as error:  # of a list
        yield _of_contents([], error.message, context)
        return
    reason = f"pruning of {', '.join(held)} is on hold" if held else ""
    if (old or young) and not dry_run:
        context.sweeps.add(store.name)
    if old and not held and not dry_run:
        remove_contents(store, old)
        context.emit(ContentsSwept(store.name, len(old), sum(content.stored_bytes for content in old)))
    if not (young or held or dry_run):
        context.sweeps.clear(store.name)
    if old:
        yield _of_contents(old, reason, context)
    if young:
        yield _of_contents(young, reason or f"younger than {_span(GRACE)}", context)


def _of_contents(contents: Sequence[ListedContent], why_kept: str, context: TaskContext) -> CleanDecision:
    """Return what is decided about contents that no list names; they go where nothing speaks against it."""
    since = min((datetime.fromtimestamp(one.modified_at, UTC) for one in contents), default=context.clock())
    size_bytes = sum(content.stored_bytes for content in contents)
    found = Leftover("contents of files", "", context.store.directory / CONTENTS, since, size_bytes)
    reason = why_kept or f"no generation needs {counted(len(contents), 'content')}"
    return CleanDecision(found, removed=not why_kept, reason=reason)


def _replaced(kept: KeptDatabase, source: str) -> Leftover:
    kind: Kind = "replaced database" if kept.holds_data else "record of a restore"
    return Leftover(kind, source, kept.path, kept.since, kept.size_bytes)


def _next_undone(place: DatabasePlace) -> frozenset[Path]:
    """Return the paths that the next undo and the next redo would put back. Raises TargetRefused, OSError."""
    entries, found = restore_history(place), set()
    for redo in (False, True):
        with suppress(GenerationMissing):
            found.add(choose_undo(entries, redo=redo).path)
    return frozenset(found)


def _log_removed(leftover: Leftover, context: TaskContext) -> None:
    what = f"removed the {leftover.kind} {leftover.path} ({human_bytes(leftover.size_bytes)})"
    context.emit(LeftoverRemoved(what, leftover.source, leftover.path))


def _span(span: timedelta) -> str:
    return human_duration(span.total_seconds())
