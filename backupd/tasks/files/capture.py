"""Capture a set of files: hold what differs from the last run, store its contents, and pack the list of all files."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from backupd.archive.archive import pack
from backupd.files.held import HeldFiles, HoldOptions, Seen, holding, most_held, reopened
from backupd.files.index import Trailer, path_of, read_trailer
from backupd.files.listing import write_list
from backupd.files.storing import Findings, StoreOptions, Storing
from backupd.files.walker import FilesDirectory
from backupd.formatting import printable
from backupd.model import FilesFacts, FilesManifest
from backupd.sqlite.database_files import SIDE_SUFFIXES
from backupd.sqlite.snapshot import between
from backupd.stores.content_writer import ContentWriter
from backupd.stores.contract import HIDDEN
from backupd.system.directory import Directory
from backupd.system.held_file import HeldFile
from backupd.system.os_errors import os_error_text
from backupd.system.resources import lower_priority, require_space, reserve_bytes, watching_space
from backupd.tasks.capture import ARCHIVE_PART, PackedCopy
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory
from backupd.tasks.requests import FilesRequest
from backupd.tasks.run import BackupRun

INDEX: Final = "index"  # in the hidden directory of the store: of each set of files what was read of it
_LEVEL: Final = 6
_FILES_OF_A_CAPTURE: Final = 1100  # and directories, at its peak: of contents that wait for their names 1,000
_ADVANCE_EVERY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class FilesCapture:
    """The list of a set of files in staging, whose contents are stored, and what was found on the way."""

    directory: FilesDirectory
    since: datetime  # the files were what the list says at one time since then, and until
    until: datetime
    seen: Seen
    findings: Findings
    not_held: int  # files that were read by their names, after all others
    uncovered: tuple[str, ...]  # databases among the files, a few of them by name
    uncovered_count: int
    files: FilesFacts | None = None  # None where nothing differs from the last generation
    packed: PackedCopy | None = None
    unchanged: bool = False  # the list is that of the last generation


class HeldSet:
    """One set of files of a run, held during the block of `holding_set`."""

    def __init__(
        self,
        request: FilesRequest,
        held: HeldFiles,
        trailer: Trailer,
        staging: Directory,
        writer: ContentWriter,
        context: TaskContext,
    ) -> None:
        self._request, self._held, self._trailer, self._staging = request, held, trailer, staging
        self._writer, self._context = writer, context

    def hold(self, run: BackupRun) -> None:
        """Hold what differs from the last run. Raises BackupdError, OSError."""
        with run.stage("hold"):
            self._held.hold()

    def rescan(self, run: BackupRun) -> None:
        """Hold what is new or changed since the hold. Raises BackupdError, OSError."""
        with run.stage("rescan"):
            self._held.rescan()

    @property
    def held_until(self) -> datetime:
        """Up to when all is held that the set had."""
        return between((self._held.since_ns, self._held.until_ns))[1]

    def capture(
        self, previous: FilesManifest | None, run: BackupRun, saw: Callable[[bytes], object] | None = None
    ) -> FilesCapture:
        """Store the contents, durably, and pack the list, unless it is that of `previous`.

        `saw` gets the path of each file and link. Raises CopyCorrupt, NoSpace, SnapshotFailed, OSError.
        """
        held = self._held
        is_known = previous is not None and self._trailer.list_sha256 == previous.files.list_sha256
        if is_known and not held.seen.differs and not held.storing.lacks_any(held.lines()):
            if saw is not None:
                for line in held.lines():
                    if not line.startswith(b"d"):
                        saw(path_of(line))
            return self._result(self._trailer, unchanged=True)
        with run.stage("store"):
            not_held = held.store()
            self._writer.commit()
        with run.stage("list"):
            facts, packed, trailer = self._list(saw)
        try:
            self._keep_index(trailer)
        except OSError as error:
            run.warn(f"all files of {self._request.source} will be read again: {os_error_text(error)}")
        unchanged = previous is not None and facts.list_sha256 == previous.files.list_sha256
        return self._result(trailer, not_held=not_held, files=facts, packed=packed, unchanged=unchanged)

    def _list(self, saw: Callable[[bytes], object] | None) -> tuple[FilesFacts, PackedCopy, Trailer]:
        request, held = self._request, self._held
        plain = HeldFile.create(self._staging, "list")
        with open(plain.descriptor, "wb", closefd=False) as out:
            sums = write_list(held.lines(), out, request.source, saw or (lambda _path: None))
        archive = HeldFile.create(self._staging, ARCHIVE_PART)
        packed = pack(
            plain.stream(),
            archive.stream(),
            level=request.packing.level,
            workers=request.packing.workers,
            advance=lambda _done: None,
            initializer=lambda: lower_priority(request.packing.priority),
        )
        facts = FilesFacts(
            list_sha256=packed.snapshot_sha256,
            list_bytes=plain.size_bytes,
            files=sums.files,
            directories=sums.directories,
            links=sums.links,
            size_bytes=sums.size_bytes,
            skipped=held.seen.special + held.seen.unreadable + held.storing.findings.unreadable_count,
        )
        uncovered = tuple(shown_path(path) for path in sums.databases)
        return facts, PackedCopy(packed, archive), Trailer(packed.snapshot_sha256, uncovered, sums.database_count)

    def _keep_index(self, trailer: Trailer) -> None:
        """Replace the index of the last run; without it, all files are read again. Raises OSError."""
        index = self._held.finish_index(trailer)
        with (
            Directory.open(self._context.store.directory) as base,
            base.child(HIDDEN) as hidden,
            hidden.make(INDEX) as directory,
        ):
            index.move(directory, self._request.source)
            directory.fsync()

    def _result(
        self,
        trailer: Trailer,
        *,
        not_held: int = 0,
        files: FilesFacts | None = None,
        packed: PackedCopy | None = None,
        unchanged: bool,
    ) -> FilesCapture:
        held = self._held
        since, until = between((held.since_ns, held.until_ns))
        return FilesCapture(
            directory=held.directory,
            since=since,
            until=until,
            seen=held.seen,
            findings=held.storing.findings,
            not_held=not_held,
            uncovered=trailer.uncovered,
            uncovered_count=trailer.uncovered_count,
            files=files,
            packed=packed,
            unchanged=unchanged,
        )


@contextmanager
def holding_set(
    request: FilesRequest, inventory: Inventory, staging: Directory, context: TaskContext
) -> Iterator[HeldSet]:
    """Yield a set of files, of which nothing is held yet; `staging` is that of the run.

    Raises SourceMissing, SourceUnusable, NoSpace, OSError.
    """
    directory = FilesDirectory.inspect(request.path)
    store, deadline = context.store, time.monotonic() + request.timeout_s
    reserve = reserve_bytes(store.directory, request.reserve_bytes)
    require_space(store.directory, 0, reserve, f"a backup of {request.source}", _FILES_OF_A_CAPTURE)
    with ExitStack() as stack:
        own = stack.enter_context(staging.make(f"files-{request.source}", durable=False))
        writer = stack.enter_context(store.contents.adding(own, directory.may_be_read_by))
        options = StoreOptions(
            level=request.packing.level or _LEVEL,
            workers=request.packing.workers,
            initializer=lambda: lower_priority(request.packing.priority),
            advance=_sometimes(watching_space(store.directory, reserve, context.progress.advance)),
            deadline=deadline,
        )
        storing = Storing(writer, store.contents.digests, options)
        index, trailer = _last_index(request.source, inventory, own, store.directory)
        hold_options = HoldOptions(request.exclude, _left_out(request, directory, context), most_held(), deadline)
        context.progress.stage("files", 0)
        held = stack.enter_context(holding(directory, hold_options, index, storing, own))
        yield HeldSet(request, held, trailer, own, writer, context)


def _last_index(source: str, inventory: Inventory, own: Directory, store: Path) -> tuple[HeldFile, Trailer]:
    """Return the index that the last run has left, an empty one where it is of no use: all files are read again then.

    So it is after a generation with the same list turned out to be damaged: contents that are not what they were are
    stored again. Raises OSError.
    """
    with suppress(OSError), Directory.open(store) as base, base.child(HIDDEN) as hidden:
        with hidden.child(INDEX) as directory:
            descriptor = directory.open_file(source)
        found = HeldFile(own, INDEX, own.hold(descriptor))
        with reopened(descriptor) as stream:
            if (trailer := read_trailer(stream)) and not _is_damaged(trailer, source, inventory):
                return found, trailer
    return HeldFile.create(own, INDEX), Trailer()


def _is_damaged(trailer: Trailer, source: str, inventory: Inventory) -> bool:
    """Tell whether the newest generation with the list of an index is damaged."""
    for generation in inventory.of(source):
        manifest = inventory.manifests.get(generation.id)
        if isinstance(manifest, FilesManifest) and manifest.files.list_sha256 == trailer.list_sha256:
            return generation.damaged
    return False


def _left_out(request: FilesRequest, directory: FilesDirectory, context: TaskContext) -> tuple[str, ...]:
    """Return what lies in the directory, and is backed up in another way or keeps the backups."""
    paths = (os.path.realpath(path) for path in request.databases)
    databases = (f"{path}{suffix}" for path in paths for suffix in ("", *SIDE_SUFFIXES))
    found = (directory.below(path) for path in (str(context.store.directory), *databases))
    return tuple(dict.fromkeys(path for path in found if path))


def _sometimes(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Return an `advance` that is called a few times a second, of which each asks for the free space."""
    last_s = 0.0

    def throttled(done_bytes: int) -> None:
        nonlocal last_s
        if time.monotonic() - last_s > _ADVANCE_EVERY_S:
            last_s = time.monotonic()
            advance(done_bytes)

    return throttled


def shown_path(path: bytes) -> str:
    """Return a path of a file for messages."""
    return printable(os.fsdecode(path))
