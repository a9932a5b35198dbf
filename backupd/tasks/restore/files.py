"""Put a set of files back as it is in a generation: what is missing or differs, and with `exact` nothing else stays.

    list, compare -> unpack what differs into a hidden directory, verify -> record the steps -> rename, one by one

A file stays only where its bytes are those of the copy; nothing is changed in place. What is replaced or goes is kept
in `.backupd-kept-TIME` in the directory of the set, from where an undo puts it back.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from backupd.archive.archive import unpack
from backupd.archive.file_list import MAX_LINE_BYTES, FileEntry, decode_entries
from backupd.errors import CopyCorrupt, NoSpace, RestoreFailed, TargetRefused
from backupd.files.comparison import Changes, Comparison, Stays
from backupd.files.restoration import Restoration
from backupd.files.staging import Staged, Staging, damage_error
from backupd.files.steps import Move, Step, decode_steps, encode_step
from backupd.model import FilesManifest
from backupd.sqlite.swap import SwapJournal
from backupd.sqlite.target import FileLease, Target
from backupd.stores.contract import Archives
from backupd.system.directory import Directory
from backupd.system.fs import is_disk_full
from backupd.system.links import reach
from backupd.system.os_errors import explain_full
from backupd.system.resources import watching_space
from backupd.system.signals import defer_signals
from backupd.tasks.context import TaskContext
from backupd.tasks.restore.point_journal import PartPlace
from backupd.tasks.run import RestoreRun
from backupd.tasks.verify import marking_damage

_HINT: Final = "use another generation, or this one from another store (backupd list)"


class OpenedContents(Protocol):
    """Contents of files to read."""

    def open(self, digest: str) -> BinaryIO:
        """Open what is stored, unpacked, and not yet compared with `digest`.

        Raises ContentMissing, CopyCorrupt, OSError.
        """


class FilesStore(Archives, Protocol):
    """A store that has the list and the contents of a set of files."""

    @property
    def contents(self) -> OpenedContents:
        """The contents of files, by their digest."""


@dataclass(frozen=True, slots=True)
class FilesRestoreRequest:
    """The set of files `source` in the directory `path` is to be put back."""

    source: str
    path: Path
    workers: int  # threads that compare and unpack
    stays: Stays = lambda _path, _is_directory: False  # what a backup of this set leaves out
    exact: bool = False  # what is not in the copy goes, except what `stays`
    dry_run: bool = False


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
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class InspectedFiles:
    """A set of files that may be put back, and what differs; list and plan are temporary files."""

    manifest: FilesManifest
    request: FilesRestoreRequest
    store: FilesStore
    run: RestoreRun
    context: TaskContext
    target: Path
    changes: Changes
    entries: BinaryIO
    plan: BinaryIO

    @classmethod
    def inspect(
        cls,
        manifest: FilesManifest,
        request: FilesRestoreRequest,
        store: FilesStore,
        run: RestoreRun,
        context: TaskContext,
    ) -> "InspectedFiles":
        """Read the list, and compare the directory with it. Raises CopyCorrupt, TargetRefused, OSError."""
        with ExitStack() as stack:
            files = [tempfile.TemporaryFile(prefix="backupd-", buffering=0) for _ in range(2)]  # noqa: SIM115
            for each in files:
                stack.callback(each.close)
            entries, plan = files
            with marking_damage(manifest, store, context), run.stage("list"):
                _read_list(manifest, store, entries, request.workers)
            with run.stage("compare"), _opened_or_empty(request.path) as (root, target):
                context.progress.stage("compare", manifest.files.size_bytes)
                stays = request.stays if request.exact else None
                comparison = Comparison(root, stays, request.workers, context.progress)
                with open(plan.fileno(), "wb", closefd=False) as stream:
                    stream.writelines(map(encode_step, comparison.steps(_decoded(entries, manifest.id))))
            stack.pop_all()
            return cls(manifest, request, store, run, context, target, comparison.changes, entries, plan)

    @property
    def source(self) -> str:
        """The source that is restored."""
        return self.request.source

    @property
    def directory(self) -> Path:
        """Where the space is needed: the directory of the set, or the one that it will be made in."""
        return self.target if self.target.is_dir() else self.target.parent

    @property
    def needed_bytes(self) -> int:
        """The size of what has to be unpacked; holes in files count."""
        return self.changes.new_bytes

    @property
    def needed_files(self) -> int:
        """How many files, links and directories have to be made."""
        return self.changes.new_names

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
        with _made(self.target, self.manifest) as root, Restoration.create(root, self.context.clock()) as restoration:
            prepared = PreparedFiles(self.planned(), restoration, self.run, self.context)
            try:
                with _full_disk(self.target), marking_damage(self.manifest, self.store, self.context):
                    restoration.write_plan(self._steps())
                    with self.run.stage("unpack"):
                        self._warn(self._unpack(restoration))
                yield prepared
            finally:
                if not prepared.is_committed:
                    prepared.discard()

    def _unpack(self, restoration: Restoration) -> Staged:
        context, store, root = self.context, self.store, restoration.root
        context.progress.stage("unpack", self.changes.new_bytes)
        advance = watching_space(Path(root.fixed_path), 0, context.progress.advance)
        with restoration.new_tree() as new:
            staging = Staging(new, store.contents.open, self.request.workers, advance)
            puts = (step.path for step in self._steps() if isinstance(step, Move) and step.kind == "put")
            staged = staging.unpack(_decoded(self.entries, self.manifest.id), puts)
        if staged.damage:
            raise damage_error(staged, self.manifest.id)
        return staged

    def _warn(self, staged: Staged) -> None:
        if staged.foreign:
            self.run.warn(
                f"{staged.foreign} files and directories in {self.target} did not get the owner that they had: "
                f"uid {os.geteuid()} may not give them away; run backupd as root, or as their owner (PUID)"
            )
        if staged.set_id:
            self.run.note(f"{staged.set_id} files in {self.target} lost setuid and setgid: chmod gives them back")

    def _steps(self) -> Iterator[Step]:
        return decode_steps(_lines(self.plan), "the plan")


class PreparedFiles:
    """What differs, unpacked and verified in the hidden directory of `restoration`; or what an undo moves."""

    def __init__(
        self,
        planned: FilesRestoreResult,
        restoration: Restoration,
        run: RestoreRun,
        context: TaskContext,
    ) -> None:
        self._result, self._restoration, self._run, self._context = planned, restoration, run, context
        self.is_committed = False

    @property
    def place(self) -> PartPlace:
        """Where its copy of the journal of a point belongs."""
        root = self._restoration.root
        return PartPlace("files", self._result.target, os.fstat(root.descriptor).st_ino)

    def settle(self) -> Target | None:
        """Return None: nothing leases a directory."""
        return None

    def plan(self, now: datetime) -> SwapJournal | None:
        """Make durable what was unpacked, and the record of what is about to be done. Raises OSError."""
        with self._run.stage("sync"):
            self._restoration.make_ready("restored", self._result.generation or "", now)
        return None

    def commit(self, lease: FileLease | None) -> None:
        """Put it in place; undo that where it fails. Raises RestoreFailed, TargetRefused, NoSpace, OSError."""
        del lease
        restoration = self._restoration
        with self._run.stage("rename"), defer_signals():
            self.is_committed = True  # from here on `restoration` holds the only copy of what is replaced
            try:
                restoration.move()
            except BaseException as error:
                restoration.turn_back()
                self.is_committed = False
                raise _commit_error(error, restoration) from error

    def keep(self) -> FilesRestoreResult:
        """Give what was replaced its name, once all is decided, and return the result. Raises OSError."""
        self._result = replace(self._result, kept=self._restoration.keep())
        if late := self._restoration.late():
            self._run.warn(
                f"{len(late)} files appeared in {self._result.target} meanwhile: see {self._result.kept}/late"
            )
        return self._result

    def discard(self) -> None:
        """Remove what was prepared. Raises OSError."""
        self._restoration.remove()


def _commit_error(error: BaseException, restoration: Restoration) -> BaseException:
    if isinstance(error, OSError) and not is_disk_full(error):
        return RestoreFailed(
            f"{restoration.root.path} changed while its files were put in place ({error}): all is as it was before",
            "stop what writes there, and run the same command again",
        )
    return error


def _read_list(manifest: FilesManifest, store: Archives, target: BinaryIO, workers: int) -> None:
    """Unpack the list of a generation into the empty file `target`, and verify it. Raises CopyCorrupt, OSError."""
    limit, facts = manifest.files.list_bytes, manifest.archive
    with store.open(manifest.id) as archive:
        sha256 = unpack(archive, target, facts, limit_bytes=limit, workers=workers, advance=lambda _done: None)
    if sha256 != manifest.files.list_sha256:
        raise CopyCorrupt(f"{manifest.id}: the list differs from its manifest in digest or size", _HINT)


def _decoded(entries: BinaryIO, found_in: str) -> Iterator[FileEntry]:
    return decode_entries(_lines(entries), found_in)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a temporary file, from its beginning."""
    stream.seek(0)
    with open(stream.fileno(), "rb", closefd=False) as buffered:
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
