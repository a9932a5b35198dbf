"""Check what restores left in the directory of a set of files."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path

from backupd.errors import RestoreFailed, SourceUnusable, TargetRefused
from backupd.files.restoration import RUNNING, restorations
from backupd.formatting import human_age, human_bytes
from backupd.sqlite.history import KEPT_FOR
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor import Finding
from backupd.tasks.restore.files_left import KeptFiles, kept_files, opened_set


def check_restored_files(paths: Iterable[Path], context: TaskContext) -> Iterator[Finding]:
    """Yield a finding for each killed restore of the sets of files at `paths`, and one for what each has replaced."""
    for path in paths:
        try:
            with opened_set(path) as root:
                if restorations(root, RUNNING):
                    what = f"a restore of the files in {path} was killed, or is running"
                    hint = "the next backup or restore finishes or undoes it"
                    yield Finding("restore", ok=False, detail=what, hint=hint)
            for kept in kept_files(path, sized=True):
                yield _kept(kept, context)
        except (TargetRefused, RestoreFailed) as error:
            yield Finding("restore", ok=False, detail=error.message, hint=error.hint)
        except (SourceUnusable, OSError):  # an unreadable directory is a finding of its set
            continue


def _kept(kept: KeptFiles, context: TaskContext) -> Finding:
    age = context.clock() - kept.kept_at
    text = human_age(age.total_seconds())
    when = text if age < timedelta() else f"{text} ago"
    detail = f"{kept.path} is what a restore replaced {when}, {human_bytes(kept.size_bytes)}"
    hint = "backupd clean removes it" + ("" if age >= KEPT_FOR else f" after {KEPT_FOR.days} days")
    return Finding("restore", ok=True, detail=detail, hint=hint)
