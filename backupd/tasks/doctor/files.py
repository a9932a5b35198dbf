"""Check the directories of sets of files, and what restores left in them."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from backupd.errors import RestoreFailed, SourceUnusable, TargetRefused
from backupd.files.restoration import RUNNING, restorations
from backupd.files.walker import FilesDirectory
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor import Finding, kept_by_restore, run_check
from backupd.tasks.restore.files_left import kept_files, opened_set


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
                yield kept_by_restore(kept.path, kept.kept_at, kept.size_bytes, context)
        except (TargetRefused, RestoreFailed) as error:
            yield Finding("restore", ok=False, detail=error.message, hint=error.hint)
        except (SourceUnusable, OSError):  # an unreadable directory is a finding of its set
            continue
