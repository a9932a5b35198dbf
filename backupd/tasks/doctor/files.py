"""Check the directories of sets of files, and what restores left in them."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path

from backupd.errors import RestoreFailed, SourceUnusable, TargetRefused
from backupd.files.restoration import RUNNING, restorations
from backupd.files.walker import FilesDirectory
from backupd.formatting import human_age, human_bytes
from backupd.sqlite.history import KEPT_FOR
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor import Finding, run_check
from backupd.tasks.restore.files_left import KeptFiles, kept_files, opened_set


def check_sets(paths: Mapping[str, Path]) -> Iterator[Finding]:
    """Yield a finding for the directory of each set of files, by its name: a backup begins with the same look at it."""
    for name, path in paths.items():
        yield run_check(f"files {name}", partial(_directory, path))


def _directory(path: Path) -> str:
    found = FilesDirectory.inspect(path)
    return f"{found.path}: uid {found.facts.uid}, mode {found.facts.mode:04o}"


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
