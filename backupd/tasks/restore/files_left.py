"""What restores leave in the directory of a set of files: one that was killed, and what each has replaced."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from backupd.errors import GenerationMissing
from backupd.files.restoration import KEPT, RUNNING, Restoration, State, restorations
from backupd.sqlite.target import Target
from backupd.system.directory import Directory
from backupd.system.links import reach
from backupd.tasks.context import TaskContext
from backupd.tasks.events import RestoreRecovered
from backupd.tasks.restore.point_journal import FILES_JOURNAL, Found


@dataclass(frozen=True, slots=True)
class KeptFiles:
    """What the restore of `generation` has replaced, at `path`; or, once it is undone, what that restore had put."""

    path: Path
    generation: str
    restored_at: datetime
    changed_at: datetime  # when it was restored, or undone
    is_undone: bool


class LeftFiles:
    """What a restore of a point that was killed or failed left of a set of files; see `LeftPart`.

    Nothing that is running is left once all was decided: then what is there, is as it has to be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def found(self) -> Found:
        """Return what lies in the directory. Raises TargetRefused, OSError."""
        for state in self._states():
            if state is None or state.phase == "ready":
                return "old"
            if state.phase == "moving":
                return "partial"
        return "new"

    def used_by_undo(self) -> Target | None:
        """Return None: nothing leases a directory."""
        return None

    def undo(self) -> str:
        """Make all as it was before; return where files are that appeared meanwhile. Raises OSError, TargetRefused."""
        told: list[str] = []
        with opened_set(self.path) as root:
            for restoration in _running(root):
                turn_back(restoration)
                told += [f"files that appeared meanwhile are in {place}" for place in _late(restoration)]
        return "; ".join(told)

    def finish(self) -> None:
        """Give what was replaced the name by which it is kept. Raises OSError."""
        with opened_set(self.path) as root:
            for restoration in _running(root):
                restoration.keep()

    def _states(self) -> Iterator[State | None]:
        with opened_set(self.path) as root:
            yield from (restoration.state() for restoration in _running(root))


def recover_files(path: Path, context: TaskContext) -> None:
    """Finish or undo a killed restore of the set of files at `path`, and log it.

    One of a point is left to that: see `LeftFiles`. Call it under the lock of the set. Raises TargetRefused, OSError.
    """
    with suppress(FileNotFoundError), opened_set(path) as root:
        if root.stat(FILES_JOURNAL) is not None:
            return
        for restoration in _running(root):
            state = restoration.state()
            if state is None or state.phase == "ready":
                turn_back(restoration)
                how = "removed: nothing had changed"
            else:
                restoration.move()
                how = f"finished: what it replaced is in {restoration.keep()}"
            context.emit(RestoreRecovered(f"a restore of the files in {path} was killed: {how}", path))


def turn_back(restoration: Restoration) -> None:
    """Make all as it was before, and remove what was only prepared. Raises RestoreFailed, TargetRefused, OSError."""
    state = restoration.state()
    if state is not None:
        restoration.turn_back()
    if (state is None or state.first) and not restoration.late():
        restoration.remove()
    else:
        restoration.keep()


def kept_files(path: Path) -> tuple[KeptFiles, ...]:
    """Return what restores of the set of files at `path` have replaced, oldest first. Raises TargetRefused, OSError."""
    found: list[KeptFiles] = []
    with opened_set(path) as root:
        for name in restorations(root, KEPT):
            with Restoration.open(root, name) as restoration:
                state = restoration.state()
                if state is not None:
                    changed_at = datetime.fromtimestamp(state.changed_at, UTC)
                    is_undone = state.goal == "reverted"
                    at = Path(restoration.path)
                    found.append(KeptFiles(at, state.generation, restoration.time, changed_at, is_undone))
    return tuple(found)


def choose_files_undo(kept: Sequence[KeptFiles], *, redo: bool) -> KeptFiles:
    """Return what the next undo puts back: what the newest restore replaced that was not undone.

    With `redo`, what the last undo took back, unless a restore followed it. Raises GenerationMissing.
    """
    if redo:
        last = max((each.restored_at for each in kept), default=None)
        undone = [each for each in kept if each.is_undone and last is not None and each.changed_at >= last]
        found = max(undone, key=lambda each: each.changed_at, default=None)
    else:
        found = next((each for each in reversed(kept) if not each.is_undone), None)
    if found is None:
        raise GenerationMissing(
            f"no {'undo' if redo else 'restore'} of these files is recorded: nothing can be undone",
            "backupd list shows the generations that can be restored",
        )
    return found


@contextmanager
def opened_set(path: Path) -> Iterator[Directory]:
    """Open the directory of a set, to which `path` leads. Raises TargetRefused for a link of another owner, OSError."""
    above, name = reach(path)
    with above, above.child(name) as root:
        yield root


def _running(root: Directory) -> Iterator[Restoration]:
    for name in restorations(root, RUNNING):
        with Restoration.open(root, name) as restoration:
            yield restoration


def _late(restoration: Restoration) -> tuple[str, ...]:
    with suppress(OSError):  # it was removed: there were none
        return (f"{restoration.path}/late",) if restoration.late() else ()
    return ()
