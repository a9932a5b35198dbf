"""What restores leave beside a database: a killed one is finished or undone, and old databases wait for a word."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from backupd.errors import TargetRefused
from backupd.formatting import human_age, human_bytes
from backupd.log import Event
from backupd.sqlite.history import (
    KEPT_FOR,
    KeptDatabase,
    finish_online_restore,
    kept_files,
    pending_online_restore,
    took_effect,
)
from backupd.sqlite.swap import recover_swap
from backupd.sqlite.swap_journal import pending_swap
from backupd.sqlite.target_locks import restore_lock
from backupd.system.owners import ownership_hint
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor.finding import Finding


def heal_restore(path: Path, context: TaskContext) -> None:
    """Finish or undo what a killed restore began at the database that `path` leads to, and say so.

    Call it with the place to yourself (`restore_lock`), as a restore at work has it. Raises TargetRefused, OSError.
    """
    target = _real(path)
    try:
        healed = recover_swap(target)
        begun = pending_online_restore(target)
        took = begun is not None and took_effect(target, begun)
        if begun is not None:
            finish_online_restore(target, begun, done=took)
    except PermissionError as error:
        raise TargetRefused(
            f"uid {os.geteuid()} has no right to work in {target.parent}: {error.strerror}",
            ownership_hint(
                target.parent, "run backupd as its owner (PUID), or as root with the capability DAC_OVERRIDE"
            ),
        ) from error
    if healed is not None:
        what = f"a restore of {target} was killed: {healed.what}" + (f"; {healed.detail}" if healed.detail else "")
        context.log.warning(Event.RESTORE_RECOVERED, what, target=str(target))
    if begun is not None:
        effect = "it had taken effect" if took else "it had changed nothing"
        what = f"an online restore of {begun.record.generation} to {target} was killed: {effect}"
        context.log.warning(Event.RESTORE_RECOVERED, what, target=str(target))


def healed_before_backup(path: Path, context: TaskContext) -> str:
    """Do the same before a backup, which goes on whatever comes of it; returns in words what is wrong, if anything.

    Raises LockHeld in the moment in which another backupd puts a database in place.
    """
    try:
        if pending_swap(_real(path)) is not None or pending_online_restore(_real(path)) is not None:
            with restore_lock(path):
                heal_restore(path, context)
    except TargetRefused as error:
        return f"{error.message}: {error.hint}"
    except PermissionError:  # the backup fails for the same reason, and reports it
        return ""
    except OSError as error:
        return f"what a killed restore left beside {path} could not be put right: {error}"
    return ""


def examine_restores(path: Path, context: TaskContext) -> Iterator[Finding]:
    """Yield a finding for a restore that was killed, and one for each old database that a restore kept."""
    target = _real(path)
    try:
        if pending_swap(target) is not None or pending_online_restore(target) is not None:
            what = f"a restore of {target} was killed, or is at work"
            yield Finding("restore", ok=False, detail=what, hint="the next backup or restore finishes or undoes it")
        kept = (one for one in kept_files(target) if one.holds_data)
        yield from (_kept(one, context) for one in kept)
    except TargetRefused as error:
        yield Finding("restore", ok=False, detail=error.message, hint=error.hint)
    except OSError:  # that its directory cannot be read is a finding of the source
        return


def _kept(kept: KeptDatabase, context: TaskContext) -> Finding:
    age = context.clock() - kept.since
    detail = f"{kept.path.name} is what a restore replaced, {_ago(age)}, of {human_bytes(kept.size_bytes)}"
    hint = "backupd clean removes it" + ("" if age >= KEPT_FOR else f" once it is {KEPT_FOR.days} days old")
    return Finding("restore", ok=True, detail=detail, hint=hint)


def _ago(age: timedelta) -> str:
    words = human_age(age.total_seconds())
    return words if age < timedelta() else f"{words} ago"


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
