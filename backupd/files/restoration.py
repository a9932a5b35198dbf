"""One restore of a set of files: a hidden directory in it, which holds what is put in place and what that replaces.

    .backupd-restore-20261130T040000Z    a restore, or an undo, that is running or was killed
    .backupd-kept-20261130T040000Z       what a restore has replaced
        plan                             its steps
        state                            what it is about to do, and how far it is
        new/                             what is put in place, at the same paths as in the set
        old/                             what was there
        late/                            what appeared at a path in between

Each step is a rename, and where its names are shows whether it was done: so all of them are repeated after a kill, in
one direction or the other, until all are. Only names relative to open directories are used, and no link is followed.
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal, Self

from pydantic import TypeAdapter, ValidationError

from backupd.errors import RestoreFailed, TargetRefused
from backupd.files.steps import MAX_STEP_BYTES, Attributes, SetAttributes, Step, decode_steps, encode_step
from backupd.files.tree import Cursor, make_durable, remove_tree, size_of_tree
from backupd.formatting import counted
from backupd.system.directory import Directory
from backupd.system.fs import is_disk_full
from backupd.system.small_file import UnexpectedFile

RUNNING: Final = ".backupd-restore-"
KEPT: Final = ".backupd-kept-"
_NAME: Final = re.compile(r"\.backupd-(restore|kept)-(\d{8}T\d{6}Z)(-[1-9]\d{0,3})?", re.ASCII)
_TIME: Final = "%Y%m%dT%H%M%SZ"
_PLAN, _STATE, _NEW, _OLD, _LATE = "plan", "state", "new", "old", "late"
_MOST_NUMBER: Final = 9999

Goal = Literal["restored", "reverted"]  # all of the copy is in place, or all as it was before
Phase = Literal["ready", "moving", "reached"]


@dataclass(frozen=True, slots=True)
class State:
    """What a restore of `generation` is about to do, and how far it is."""

    goal: Goal
    phase: Phase
    generation: str
    changed_at: float  # seconds since the epoch
    first: bool  # nothing was ever moved but by this restore: once it is turned back, nothing of it is needed
    turned_back: bool = False  # it failed: its goal is now what was there before
    point: str = ""  # of which it restores a part; with the run and the sources of that, for an undo of all of them
    run: str = ""
    sources: tuple[str, ...] = ()


def opposite(goal: Goal) -> Goal:
    """Return the other goal."""
    return "reverted" if goal == "restored" else "restored"


_STATES = TypeAdapter(State)


class Restoration:
    """The hidden directory `name` of a restore, which is open in the directory `root` of the set; a context manager."""

    def __init__(self, root: Directory, name: str, directory: Directory) -> None:
        self.root, self.name, self.directory = root, name, directory

    @classmethod
    def create(cls, root: Directory, now: datetime) -> Self:
        """Make the hidden directory of a new restore. Raises TargetRefused, OSError."""
        name = _new_name(root, now)
        with _not_writable(root):
            os.mkdir(name, 0o700, dir_fd=root.descriptor)
        restoration = cls.open(root, name)
        for inner in (_NEW, _OLD, _LATE):
            restoration.directory.make(inner, new=True, durable=False).close()
        root.fsync()
        return restoration

    @classmethod
    def open(cls, root: Directory, name: str) -> Self:
        """Open the hidden directory `name`. Raises UnexpectedFile where another user could write in it, OSError."""
        directory = root.child(name)
        state = os.fstat(directory.descriptor)
        own = {os.geteuid(), 0, os.fstat(root.descriptor).st_uid}
        if state.st_uid not in own or stat.S_IMODE(state.st_mode) & 0o077:
            directory.close()
            raise UnexpectedFile("the directory of another user, or open to others", root.path_of(name))
        return cls(root, name, directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.directory.close()

    @property
    def path(self) -> str:
        """Its path, for messages."""
        return self.root.path_of(self.name)

    @property
    def kept_name(self) -> str:
        """The name by which it is kept."""
        return KEPT + self.name.removeprefix(RUNNING).removeprefix(KEPT)

    @property
    def time(self) -> datetime:
        """The time in its name (aware, UTC)."""
        return _order(self.name)[0]

    def new_tree(self) -> Directory:
        """Open the tree of what is to be put in place, which the caller closes. Raises OSError."""
        return self.directory.child(_NEW)

    def write_plan(self, steps: Iterable[Step]) -> None:
        """Write the plan, not yet durable. Raises OSError, and what `steps` raise."""
        with open(self.directory.create_file(_PLAN), "wb") as stream:
            stream.writelines(map(encode_step, steps))

    def steps(self) -> Iterator[Step]:
        """Yield the steps of the plan. Raises TargetRefused where it is damaged, OSError."""
        with open(self.directory.open_file(_PLAN), "rb") as stream:
            yield from decode_steps(iter(lambda: stream.readline(MAX_STEP_BYTES), b""), self.directory.path_of(_PLAN))

    def state(self) -> State | None:
        """Return its state, None where it was never ready. Raises TargetRefused where it is damaged, OSError."""
        try:
            return _STATES.validate_json(self.directory.read(_STATE))
        except FileNotFoundError:
            return None
        except ValidationError:
            raise TargetRefused(
                f"{self.directory.path_of(_STATE)} is damaged: cannot determine how far a killed restore went",
                f"what it replaced is in {self.path}: put back what is missed, and remove that directory",
            ) from None

    def make_ready(self, state: State) -> None:
        """Make all that was prepared durable, and record what is about to be done. Raises OSError."""
        make_durable(self.directory)
        self._record(replace(state, phase="ready"))

    def move(self) -> None:
        """Do what it was made ready for, durably; also after a kill.

        Raises RestoreFailed, TargetRefused, OSError; then `turn_back` undoes what was done.
        """
        state = self._require_state()
        if state.phase != "reached":
            self._record(replace(state, phase="moving"))
            self._reach(state.goal)
            self._record(replace(state, phase="reached"))

    def turn_back(self) -> None:
        """Make all as it was before it was made ready, durably; also after a kill.

        Raises RestoreFailed, TargetRefused, OSError.
        """
        state = self._require_state()
        if state.turned_back:
            self.move()
            return
        back = replace(state, goal=opposite(state.goal), turned_back=True)
        if state.phase != "ready":
            with _suppress_full_disk():  # without this record a kill leads forward, which is as whole
                self._record(replace(back, phase="moving"))
            self._reach(back.goal)
        with _suppress_full_disk():
            self._record(replace(back, phase="reached"))

    def keep(self) -> str:
        """Give it the name of what is kept, durably, now that nothing runs in it; return its path. Raises OSError."""
        if self.name.startswith(RUNNING):
            name = self.kept_name
            self.root.rename_to_free_name(self.name, self.root, name)
            self.name = name
            self.root.fsync()
        return self.path

    def run_again(self) -> None:
        """Take the name of a restore that is running, durably, for an undo or a redo. Raises OSError."""
        name = RUNNING + self.name.removeprefix(KEPT)
        self.root.rename_to_free_name(self.name, self.root, name)
        self.name = name
        self.root.fsync()

    def remove(self) -> None:
        """Remove it with all that is in it, durably. Raises OSError."""
        remove_tree(self.root, self.name)
        self.root.fsync()

    def size_bytes(self) -> int:
        """Return the size of all that is in it. Raises OSError."""
        return size_of_tree(self.directory)

    def late(self) -> tuple[str, ...]:
        """Return the names of what is kept in `late`. Raises OSError."""
        with self.directory.child(_LATE) as late:
            return tuple(sorted(late.names()))

    def _reach(self, goal: Goal) -> None:
        if goal == "restored":
            self._restore()
        else:
            self._revert()
        make_durable(self.directory)

    def _restore(self) -> None:
        with self._cursors() as (tree, new, old):
            for step in self.steps():
                if isinstance(step, SetAttributes):
                    continue
                prepared = new.find(step.path)
                if step.kind == "put" and prepared is None:
                    continue  # done
                there = tree.find(step.path)
                if there is not None and (step.kind == "put" or old.find(step.path) is None):
                    self._set_aside(there, old, step.path)
                if prepared is not None:
                    _rename(prepared, tree.parent(step.path))
            make_durable(self.directory)
            self._set_attributes(tree, lambda step: step.now)

    def _revert(self) -> None:
        lost: list[bytes] = []
        with self._cursors() as (tree, new, old):
            for step in self.steps():
                if isinstance(step, SetAttributes):
                    continue
                there = tree.find(step.path)
                if step.kind == "put" and there is not None and new.find(step.path) is None:
                    _rename(there, new.parent(step.path, make=True))
                kept = old.find(step.path)
                if kept is None:
                    continue
                try:
                    place = tree.parent(step.path)
                except (FileNotFoundError, UnexpectedFile):
                    lost.append(step.path)
                    continue
                if (there := tree.find(step.path)) is not None:
                    self._set_aside(there, None, step.path)
                _rename(kept, place)
            make_durable(self.directory)
            self._set_attributes(tree, lambda step: step.was)
        if lost:
            raise RestoreFailed(
                f"{counted(len(lost), 'file')} could not be put back, since no directory is there any more: "
                f"{os.fsdecode(lost[0])!r} is in {self.directory.path_of(_OLD)}",
                "make the directories again, and run the same command again",
            )

    def _set_aside(self, there: tuple[Directory, str], old: Cursor | None, path: bytes) -> None:
        """Move what is there to `old`, where nothing was moved before, else to `late`."""
        if old is not None and old.find(path) is None:
            _rename(there, old.parent(path, make=True))
            return
        with self.directory.child(_LATE) as late:
            number = len(late.names())
            while True:
                number += 1
                with suppress(FileExistsError):
                    _rename(there, (late, str(number)))
                    return

    def _set_attributes(self, tree: Cursor, which: Callable[[SetAttributes], Attributes]) -> None:
        """Give the directories that stay their attributes: those in a directory before the directory itself.

        Root does not where the plan is not its own.
        """
        if os.geteuid() != os.fstat(self.directory.descriptor).st_uid:
            return
        for step in self.steps():
            if isinstance(step, SetAttributes) and (found := tree.find(step.path)) is not None:
                with suppress(UnexpectedFile), found[0].child(found[1]) as directory:
                    if os.fstat(directory.descriptor).st_ino == step.inode:
                        _set(directory.descriptor, which(step))

    @contextmanager
    def _cursors(self) -> Iterator[tuple[Cursor, Cursor, Cursor]]:
        with (
            self.directory.child(_NEW) as new_root,
            self.directory.child(_OLD) as old_root,
            Cursor(self.root) as tree,
            Cursor(new_root) as new,
            Cursor(old_root) as old,
        ):
            yield tree, new, old

    def _require_state(self) -> State:
        state = self.state()
        if state is None:
            raise RestoreFailed(f"{self.path} was never ready", f"remove it: nothing was moved to or from {self.path}")
        return state

    def _record(self, state: State) -> None:
        self.directory.replace(_STATE, json.dumps(asdict(state)).encode() + b"\n", temporary=f"{_STATE}.part")


def restorations(root: Directory, prefix: str) -> list[str]:
    """Return the names of the hidden directories of restores in a set, `RUNNING` or `KEPT`, oldest first.

    Those of other programs, links and files are left out. Raises OSError.
    """
    with os.scandir(root.descriptor) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(prefix) and _is_time(entry.name)]
    directories = (name for name in names if (state := root.stat(name)) is not None and stat.S_ISDIR(state.st_mode))
    return sorted(directories, key=_order)


def _new_name(root: Directory, now: datetime) -> str:
    """Return a name that sorts after all that are there, also when the clock was set back."""
    there = [*restorations(root, RUNNING), *restorations(root, KEPT)]
    last = max(map(_order, there), default=(datetime.min.replace(tzinfo=UTC), 0))
    time, number = max(last, (now.astimezone(UTC).replace(microsecond=0), 0))
    if number >= _MOST_NUMBER:
        raise TargetRefused(
            f"no name is left for a restore after that of {time:%F %T} UTC in {root.path}",
            f"no restore gave those names: find out which process did, and remove {KEPT}…",
        )
    return f"{RUNNING}{time.strftime(_TIME)}" + (f"-{number + 1}" if number else "")


def _order(name: str) -> tuple[datetime, int]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name[:120]!r} is not the name of a restore")
    return datetime.strptime(found[2], _TIME).replace(tzinfo=UTC), int((found[3] or "-1")[1:])


def _is_time(name: str) -> bool:
    with suppress(ValueError):
        return bool(_order(name))
    return False


def _rename(source: tuple[Directory, str], target: tuple[Directory, str]) -> None:
    """Move something, whatever it is, to a name that nothing has.

    Its owner may make a directory writable for that, and does.
    """
    (here, name), (there, new) = source, target
    try:
        here.rename_to_free_name(name, there, new)
    except PermissionError:
        with _writable(here.descriptor), _writable(there.descriptor), _writable_child(here, name):
            here.rename_to_free_name(name, there, new)


@contextmanager
def _writable(descriptor: int) -> Iterator[None]:
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    with suppress(PermissionError):
        os.fchmod(descriptor, mode | 0o700)
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.fchmod(descriptor, mode)


@contextmanager
def _writable_child(directory: Directory, name: str) -> Iterator[None]:
    """Make what is moved writable where it is a directory: its entry `..` changes."""
    state = directory.stat(name)
    if state is None or not stat.S_ISDIR(state.st_mode):
        yield
        return
    with directory.child(name) as child, _writable(child.descriptor):
        yield


def _set(descriptor: int, attributes: Attributes) -> None:
    with suppress(OSError):  # only root may, and not on every file system
        os.fchown(descriptor, attributes.uid, attributes.gid)
    with suppress(PermissionError):
        os.fchmod(descriptor, attributes.mode)
    os.utime(descriptor, ns=(attributes.mtime_ns, attributes.mtime_ns))


@contextmanager
def _not_writable(root: Directory) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise TargetRefused(
            f"uid {os.geteuid()} may not write to {root.path}: {error.strerror}",
            "run backupd as its owner (PUID), or as root with the capability DAC_OVERRIDE",
        ) from error


@contextmanager
def _suppress_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
