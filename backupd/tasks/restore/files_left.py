"""What restores leave in the directory of a set of files: one that was killed, and what each has replaced."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from backupd.errors import GenerationMissing
from backupd.files.restoration import KEPT, RUNNING, Restoration, State, restorations
from backupd.formatting import counted
from backupd.sqlite.history import Kind, PointRestore, RestoreRecord
from backupd.sqlite.target import Target
from backupd.system.directory import Directory
from backupd.system.links import reach
from backupd.tasks.restore.point_journal import Found


@dataclass(frozen=True, slots=True)
class KeptFiles:
    """What the restore of `record` has replaced, at `path`; once that is undone, what it had put in place."""

    path: Path
    record: RestoreRecord
    kept_at: datetime  # the time in its name
    restored_at: datetime  # or undone, or restored again
    size_bytes: int = 0  # where it was asked for


class LeftFiles:
    """What a restore of a point that was killed or failed left in the directory `root` of a set of files.

    Where nothing is running any more, all was decided: what is there is as it has to be.
    """

    def __init__(self, root: Directory, path: Path) -> None:
        self._root, self.path = root, path

    def found(self) -> Found:
        """Return what lies in the directory. Raises TargetRefused, OSError."""
        for restoration in running(self._root):
            state = restoration.state()
            if state is None or state.phase == "ready" or (state.phase == "reached" and state.turned_back):
                return "old"
            if state.phase == "moving":
                return "partial"
        return "new"

    def settle(self) -> Target | None:
        """Return None: nothing leases a directory."""
        return None

    def undo(self) -> str:
        """Make all as it was before; return where files are that appeared since.

        Raises RestoreFailed, TargetRefused, OSError.
        """
        return "; ".join(told for restoration in running(self._root) if (told := turn_back(restoration)))

    def finish(self) -> None:
        """Give what was replaced the name by which it is kept. Raises OSError."""
        for restoration in running(self._root):
            restoration.keep()

    def discard(self) -> None:
        """Remove what was prepared and is not in place. Raises OSError."""
        for restoration in running(self._root):
            discard_unused(restoration)


def turn_back(restoration: Restoration) -> str:
    """Make all as it was before, and remove what was only prepared; return where files are that appeared since.

    Raises RestoreFailed, TargetRefused, OSError.
    """
    state = restoration.state()
    if state is not None:
        restoration.turn_back()
    if state is not None and (late := restoration.late()):
        return f"{counted(len(late), 'file')} appeared during the restore: see {restoration.keep()}/late"
    if state is None or state.first:
        restoration.remove()
    else:
        restoration.keep()
    return ""


def discard_unused(restoration: Restoration) -> None:
    """Remove what was prepared where nothing was moved yet; what was kept is kept on. Raises OSError."""
    if restoration.root.holds(restoration.name, restoration.directory.descriptor):
        state = restoration.state()
        if state is None or state.phase == "ready":
            turn_back(restoration)


def kept_files(path: Path, *, sized: bool = False) -> tuple[KeptFiles, ...]:
    """Return what restores of the set of files at `path` have replaced, oldest first; with their sizes if `sized`.

    Raises TargetRefused, OSError.
    """
    found: list[KeptFiles] = []
    with suppress(FileNotFoundError), opened_set(path) as root:
        for name in restorations(root, KEPT):
            with Restoration.open(root, name) as restoration:
                if (state := restoration.state()) is not None:
                    at = datetime.fromtimestamp(state.changed_at, UTC)
                    size_bytes = restoration.size_bytes() if sized else 0
                    kept = KeptFiles(Path(restoration.path), _record(state), restoration.time, at, size_bytes)
                    found.append(kept)
    return tuple(found)


def remove_kept(kept: KeptFiles) -> None:
    """Remove what a restore has replaced, durably. Raises TargetRefused, OSError."""
    with opened_set(kept.path.parent) as root, Restoration.open(root, kept.path.name) as restoration:
        restoration.remove()


def _record(state: State) -> RestoreRecord:
    together = PointRestore(state.point, state.run, state.sources) if state.point else None
    kind: Kind = "restore" if state.goal == "restored" else "undo"
    record = RestoreRecord(kind, state.generation or None, "file", together=together)
    return record if record.is_valid() else RestoreRecord(kind, None, "file")


def choose_files_undo(kept: Sequence[KeptFiles], *, redo: bool) -> KeptFiles:
    """Return what the next undo undoes, as `sqlite.history.choose_undo` does: the newest restore, else the last undo.

    With `redo`: the last undo, unless a restore followed it. Raises GenerationMissing.
    """
    undone = sorted((each for each in kept if each.record.kind == "undo"), key=lambda each: each.restored_at)
    last = max((each.kept_at for each in kept), default=None)
    if redo:
        found = [each for each in undone if last is not None and each.restored_at >= last]
    else:
        found = [each for each in kept if each.record.kind == "restore"] or undone
    if not found:
        raise GenerationMissing(
            f"no {'undo' if redo else 'restore'} of these files is recorded: nothing can be undone",
            "backupd list --points shows the restore points that can be restored",
        )
    return found[-1]


@contextmanager
def opened_set(path: Path) -> Iterator[Directory]:
    """Open the directory of a set, to which `path` leads. Raises TargetRefused for a link of another owner, OSError."""
    above, name = reach(path)
    with above, above.child(name) as root:
        yield root


def running(root: Directory) -> Iterator[Restoration]:
    """Yield each restore in a set that is running, or was killed, open until the next one. Raises OSError."""
    for name in restorations(root, RUNNING):
        with Restoration.open(root, name) as restoration:
            yield restoration
