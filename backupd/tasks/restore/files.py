"""Put a set of files back as it is in a generation: what is missing or differs, and with `exact` nothing else stays.

    list, compare -> unpack what differs into a hidden directory, verify -> record the steps -> rename, one by one

A file stays only where its bytes are those of the copy; nothing is changed in place. What is replaced or goes is kept
in `.backupd-kept-TIME` in the directory of the set, from where an undo puts it back.
"""

import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from backupd.archive.file_list import MAX_LINE_BYTES, FileEntry, decode_entries
from backupd.errors import NoSpace, RestoreFailed, TargetRefused
from backupd.files.comparison import Changes, Comparison, Stays
from backupd.files.restoration import Goal, Restoration, State
from backupd.files.staging import Staged, Staging, damage_error, wanted_entries
from backupd.files.steps import Move, Step, decode_steps, encode_step
from backupd.formatting import counted
from backupd.model import FilesManifest
from backupd.sqlite.history import PointRestore
from backupd.sqlite.swap import SwapJournal
from backupd.sqlite.target import FileLease, Target
from backupd.stores.contract import Archives
from backupd.system.directory import Directory
from backupd.system.fs import OPEN_FILES, is_disk_full
from backupd.system.links import reach
from backupd.system.os_errors import explain_full, os_error_text
from backupd.system.resources import tune_malloc, watching_space
from backupd.tasks.context import TaskContext
from backupd.tasks.restore.contents import contents_of
from backupd.tasks.restore.extract import extract_list
from backupd.tasks.restore.files_left import KeptFiles, discard_unused, opened_set
from backupd.tasks.restore.point_journal import PartPlace
from backupd.tasks.run import RestoreRun
from backupd.tasks.verify import marking_damage


@dataclass(frozen=True, slots=True)
class FilesRestoreRequest:
    """The set of files `source` in the directory `path` is to be put back."""

    source: str
    path: Path
    workers: int  # threads that compare and unpack
    stays: Stays = lambda _path, _is_directory: False  # what a backup of this set leaves out
    exact: bool = False  # what is not in the copy goes, except what `stays`
    stopped: bool = False  # the operator confirms that the app is stopped
    dry_run: bool = False
    if_missing: bool = False  # it comes with databases that do not exist
    warnings: tuple[str, ...] = ()  # each degrades the restore: what an operator has accepted
    takes_back: KeptFiles | None = None  # the restore that this one undoes
    together: PointRestore | None = None  # the restore of a point that this one is a part of

    @property
    def undo_command(self) -> str:
        """The command that takes this restore back."""
        is_undo = self.takes_back is not None and self.takes_back.record.kind == "restore"
        return f"backupd restore --{'redo' if is_undo else 'undo'}"


@dataclass(frozen=True, slots=True)
class FilesRestoreResult:
    """What a restore of a set of files did, or with `dry_run` would do; an undo or redo counts nothing."""

    source: str
    generation: str | None
    taken_at: datetime | None
    target: str
    dry_run: bool
    missing: int = 0  # files, links and whole directories
    differing: int = 0
    extra: int = 0  # that went
    unchanged: int = 0
    files: int = 0  # that were unpacked
    size_bytes: int = 0  # of these
    kept: str | None = None
    undo: str | None = None  # the command that takes the restore back


@dataclass(frozen=True, slots=True)
class InspectedFiles:
    """A set of files that may be put back, and what differs; list and plan are temporary files."""

    manifest: FilesManifest
    request: FilesRestoreRequest
    store: Archives
    run: RestoreRun
    context: TaskContext
    target: Path
    changes: Changes
    entries: "_Scratch"
    plan: "_Scratch"

    @classmethod
    def inspect(
        cls,
        manifest: FilesManifest,
        request: FilesRestoreRequest,
        store: Archives,
        run: RestoreRun,
        context: TaskContext,
    ) -> "InspectedFiles":
        """Read the list, and compare the directory with it. Raises CopyCorrupt, TargetRefused, OSError."""
        entries, plan = _Scratch(), _Scratch()
        with marking_damage(manifest, store, context), run.stage("list"):
            extract_list(manifest, store, entries.stream, request.workers)
        with run.stage("compare"), _opened_or_empty(request.path) as (root, target):
            context.progress.stage("compare", manifest.files.size_bytes)
            stays = request.stays if request.exact else None
            comparison = Comparison(root, stays, request.workers, context.progress)
            with open(plan.stream.fileno(), "wb", closefd=False) as stream:
                stream.writelines(map(encode_step, comparison.steps(decode_entries(entries.lines(), manifest.id))))
        return cls(manifest, request, store, run, context, target, comparison.changes, entries, plan)

    @property
    def source(self) -> str:
        """The source that is restored."""
        return self.request.source

    @property
    def is_equal(self) -> bool:
        """Whether everything is as in the copy already."""
        return self.replaces and self.changes.is_none

    @property
    def replaces(self) -> bool:
        """Whether the directory exists."""
        return self.target.is_dir()

    @property
    def directory(self) -> Path:
        """Where the space is needed: the directory of the set, or the one that it will be made in."""
        return self.target if self.replaces else self.target.parent

    @property
    def needed_bytes(self) -> int:
        """The size of what has to be unpacked; holes in files count."""
        return self.changes.new_bytes

    @property
    def needed_files(self) -> int:
        """How many files, links and directories have to be made."""
        return self.changes.new_names

    def joined(self, together: PointRestore) -> "InspectedFiles":
        """Return it as a part of the restore of a point."""
        return replace(self, request=replace(self.request, together=together))

    def planned(self) -> FilesRestoreResult:
        """Return the result that the restore would have."""
        changes = self.changes
        return FilesRestoreResult(
            source=self.request.source,
            generation=self.manifest.id,
            taken_at=self.manifest.taken_at,
            target=str(self.target),
            dry_run=self.request.dry_run,
            missing=changes.missing,
            differing=changes.differing,
            extra=changes.extra,
            unchanged=changes.unchanged,
            files=changes.new_files,
            size_bytes=changes.new_bytes,
        )

    @contextmanager
    def prepared(self) -> Iterator["PreparedFiles"]:
        """Unpack and verify what has to be put in place, into a hidden directory of the set, for the block.

        Raises CopyCorrupt, ContentMissing, NoSpace, ReplicaUnreachable, TargetRefused, OSError.
        """
        tune_malloc()
        with _made(self.target, self.manifest) as root, Restoration.create(root, self.context.clock()) as restoration:
            try:
                with _full_disk(self.target), marking_damage(self.manifest, self.store, self.context):
                    restoration.write_plan(self._steps())
                    with self.run.stage("unpack"):
                        self._warn(self._unpack(restoration))
                yield PreparedFiles(self.planned(), restoration, "restored", self.request, self.run)
            finally:
                discard_unused(restoration)

    def _unpack(self, restoration: Restoration) -> Staged:
        progress = self.context.progress
        progress.stage("unpack", self.changes.new_bytes)
        advance = watching_space(Path(restoration.root.fixed_path), 0, progress.advance)
        needed = (entry.digest for entry in wanted_entries(self._entries(), self._puts()) if entry.type == "f")
        contents = contents_of(self.store, needed, self.changes.new_files)
        with restoration.new_tree() as new:
            staged = Staging(new, contents.open, self.request.workers, advance).unpack(self._entries(), self._puts())
        if staged.damage:
            raise damage_error(staged, self.manifest.id)
        return staged

    def _warn(self, staged: Staged) -> None:
        if staged.foreign:
            self.run.warn(
                f"{counted(staged.foreign, 'file')} or directories in {self.target} did not get the owner of the copy: "
                f"uid {os.geteuid()} may not give them away; run backupd as root, or as their owner (PUID)"
            )
        if staged.set_id:
            self.run.note(
                f"{counted(staged.set_id, 'file')} in {self.target} lost setuid and setgid: chmod gives them back"
            )

    def _entries(self) -> Iterator[FileEntry]:
        return decode_entries(self.entries.lines(), self.manifest.id)

    def _steps(self) -> Iterator[Step]:
        return decode_steps(self.plan.lines(), "the plan")

    def _puts(self) -> Iterator[bytes]:
        return (step.path for step in self._steps() if isinstance(step, Move) and step.kind == "put")


@dataclass(frozen=True, slots=True)
class InspectedFilesUndo:
    """The restore `entry` of the set of files in the directory `target` may be taken back."""

    request: FilesRestoreRequest
    entry: KeptFiles
    run: RestoreRun
    target: Path

    @classmethod
    def inspect(cls, request: FilesRestoreRequest, entry: KeptFiles, run: RestoreRun) -> "InspectedFilesUndo":
        """Look whether the directory is there. Raises TargetRefused, OSError."""
        with opened_set(request.path) as root:
            return cls(request, entry, run, Path(root.path))

    @property
    def source(self) -> str:
        """The source that is restored."""
        return self.request.source

    @property
    def replaces(self) -> bool:
        """True."""
        return True

    @property
    def directory(self) -> Path:
        """The directory of the set."""
        return self.target

    @property
    def needed_bytes(self) -> int:
        """None: all is on that file system already."""
        return 0

    @property
    def needed_files(self) -> int:
        """None."""
        return 0

    def planned(self) -> FilesRestoreResult:
        """Return the result that the undo would have."""
        return FilesRestoreResult(self.request.source, None, None, str(self.target), self.request.dry_run)

    @contextmanager
    def prepared(self) -> Iterator["PreparedFiles"]:
        """Open what was kept, for the block. Raises TargetRefused, OSError."""
        with opened_set(self.request.path) as root, Restoration.open(root, self.entry.path.name) as restoration:
            goal: Goal = "reverted" if self.entry.record.kind == "restore" else "restored"
            restoration.run_again()
            try:
                yield PreparedFiles(self.planned(), restoration, goal, self.request, self.run)
            finally:
                discard_unused(restoration)


class PreparedFiles:
    """What differs, unpacked and verified in the hidden directory of `restoration`; or for an undo, what it kept."""

    def __init__(
        self,
        planned: FilesRestoreResult,
        restoration: Restoration,
        goal: Goal,
        request: FilesRestoreRequest,
        run: RestoreRun,
    ) -> None:
        self._result, self._restoration, self._goal = planned, restoration, goal
        self._request, self._run = request, run

    @property
    def place(self) -> PartPlace:
        """Where its copy of the journal of a point belongs."""
        return PartPlace("files", self._result.target, os.fstat(self._restoration.root.descriptor).st_ino)

    def settle(self) -> Target | None:
        """Return None: nothing leases a directory."""
        return None

    def plan(self, now: datetime) -> SwapJournal | None:
        """Make durable what was unpacked, and the record of what is about to be done. Raises OSError."""
        request, together = self._request, self._request.together
        generation = request.takes_back.record.generation if request.takes_back else self._result.generation
        state = State(self._goal, "ready", generation or "", now.timestamp(), first=request.takes_back is None)
        if together is not None:
            state = replace(state, point=together.point, run=together.run, sources=together.sources)
        with self._run.stage("sync"), _full_disk(Path(self._result.target)):
            self._restoration.make_ready(state)
        return None

    def commit(self, lease: FileLease | None) -> None:
        """Put it in place. Raises RestoreFailed, TargetRefused, NoSpace, OSError; then `LeftFiles.undo` helps."""
        del lease
        try:
            with _full_disk(Path(self._result.target)):
                self._restoration.move()
        except OSError as error:
            raise RestoreFailed(
                f"{self._result.target} changed while its files were put in place: {os_error_text(error)}",
                "stop what writes there, and run the same command again",
            ) from error

    def result(self) -> FilesRestoreResult:
        """Return what was done, once what was replaced has the name by which it is kept."""
        kept, root = self._restoration.kept_name, self._restoration.root
        with Restoration.open(root, kept) as restoration:
            late = len(restoration.late())
            if not late and self._request.together is None:  # there was nothing before: an undo has nothing to put back
                with suppress(OSError):
                    restoration.run_again()  # under that name the next restore removes it, where this one is killed
                    restoration.remove()
                    return self._result
        if late:
            self._run.warn(
                f"{counted(late, 'file')} appeared in {root.path} during the restore: see {root.path_of(kept)}/late"
            )
        return replace(
            self._result, kept=root.path_of(kept), undo=self._request.undo_command if self._request.together else None
        )


class _Scratch:
    """A temporary file without a name, which is closed with its last user."""

    def __init__(self) -> None:
        self.stream: BinaryIO = tempfile.TemporaryFile(prefix="backupd-", buffering=0)  # noqa: SIM115
        weakref.finalize(self, self.stream.close)

    def lines(self) -> Iterator[bytes]:
        """Yield its lines, from the beginning."""
        with open(f"{OPEN_FILES}{self.stream.fileno()}", "rb") as buffered:
            yield from iter(lambda: buffered.readline(MAX_LINE_BYTES), b"")


@contextmanager
def _opened_or_empty(path: Path) -> Iterator[tuple[Directory, Path]]:
    """Open the directory that `path` leads to, or an empty one where it does not exist; yields it and its path.

    Raises TargetRefused, OSError.
    """
    with _above(path) as (above, name), ExitStack() as stack:
        try:
            root = stack.enter_context(above.child(name))
        except FileNotFoundError:
            empty = stack.enter_context(tempfile.TemporaryDirectory(prefix="backupd-"))
            root = stack.enter_context(Directory.open(empty))
        yield root, Path(above.path_of(name))


@contextmanager
def _above(path: Path) -> Iterator[tuple[Directory, str]]:
    try:
        directory, name = reach(path)
    except FileNotFoundError as error:
        raise TargetRefused(f"{path.parent} does not exist", "create it, or mount the volume of the app") from error
    with directory:
        yield directory, name


@contextmanager
def _made(target: Path, manifest: FilesManifest) -> Iterator[Directory]:
    """Open the directory of the set, made where it does not exist. Raises TargetRefused, OSError."""
    with _above(target) as (above, name), ExitStack() as stack:
        try:
            root = stack.enter_context(above.child(name))
        except FileNotFoundError:
            root = stack.enter_context(above.make(name))
            stack.callback(_remove_empty, above, name)
            _give_origin(root, manifest)
        yield root


def _remove_empty(above: Directory, name: str) -> None:
    with suppress(OSError):  # it is not empty: the restore succeeded
        os.rmdir(name, dir_fd=above.descriptor)


def _give_origin(root: Directory, manifest: FilesManifest) -> None:
    origin = manifest.origin
    if os.geteuid() == 0 and origin.uid is not None:
        with suppress(OSError):
            os.fchown(root.descriptor, origin.uid, -1 if origin.gid is None else origin.gid)
    os.fchmod(root.descriptor, origin.mode & 0o1777)


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        what, hint = explain_full(error, path)
        raise NoSpace(what, f"{hint}, and try again") from error
