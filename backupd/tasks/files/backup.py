"""A set of files in a run: held before the databases are pinned, looked at again after, then stored and published.

So no row of a copy lacks its file, in an app that writes a file before its row and removes it after.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from backupd.errors import BackupdError
from backupd.model import PointPart
from backupd.system.directory import Directory
from backupd.system.held_file import HeldFile
from backupd.system.os_errors import os_error_text
from backupd.tasks.context import TaskContext
from backupd.tasks.files.capture import HeldSet, holding_set
from backupd.tasks.files.publication import apply_files, decide_files, files_state
from backupd.tasks.inventory import Inventory
from backupd.tasks.references import References
from backupd.tasks.requests import FilesRequest
from backupd.tasks.run import BackupRun


class SetsOfRun:
    """The sets of files of one run, held until `stack` ends; one that fails is left out, and ends no other."""

    def __init__(self, inventory: Inventory, staging: Directory, stack: ExitStack, context: TaskContext) -> None:
        self._inventory, self._staging, self._stack, self._context = inventory, staging, stack, context
        self._held: list[tuple[FilesRequest, BackupRun, HeldSet]] = []
        self._references: dict[str, References] = {}
        self._looks = 0

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, orders: Sequence[tuple[FilesRequest, BackupRun]]) -> None:
        """Hold what differs from the last run. Raises BackupdError and OSError of a run alone."""
        for request, run in orders:
            with run.turn(self._context.working):
                held = self._stack.enter_context(holding_set(request, self._inventory, self._staging, self._context))
                held.hold(run)
                self._held.append((request, run, held))

    def rescan(self) -> None:
        """Hold what is new or changed since: just before the databases are pinned, and as soon as all are."""
        self._looks += 1
        for _, run, held in self._held:
            if run.report.outcome != "failed":
                with run.turn(self._context.working):
                    held.rescan(run)

    def ask(self, database: str, copy: HeldFile) -> None:
        """Ask the copy of a database which files it names, for the sets that belong to it."""
        for request, run, _ in self._held:
            if request.query and request.database == database:
                try:
                    self._references[request.source] = References.read(copy, request)
                except (BackupdError, OSError) as error:
                    why = error.message if isinstance(error, BackupdError) else os_error_text(error)
                    run.warn(f"files.{request.source}.query failed: {why}")

    def publish(self, databases: Sequence[PointPart], unsure_ms: Mapping[str, int]) -> list[PointPart]:
        """Store the contents of each, then publish its list; return the parts of a restore point.

        It degrades a set that one of the `databases` was copied after it, because that could not be pinned; what is new
        since is held at least. Of the databases in `unsure_ms` a note tells how long a file must have been there.
        """
        parts = list[PointPart]()
        for request, run, held in self._held:
            if run.report.outcome != "failed":
                with run.turn(self._context.working):
                    late = [one.source for one in databases if one.until > held.held_until]
                    if late or not self._looks:
                        held.rescan(run)
                    parts.append(self._publish(request, run, held))
                    for source in late if self._looks > 1 else ():
                        run.warn(f"{source} was copied after {request.source}: its newest rows may lack their files")
                    for source, span_ms in unsure_ms.items():
                        if request.database in ("", source):
                            run.note(
                                f"{source} was written to whenever it was pinned: a file that its app made and deleted "
                                f"within {span_ms} ms at that moment may be missing, though a row of the copy names it"
                            )
        return parts

    def _publish(self, request: FilesRequest, run: BackupRun, held: HeldSet) -> PointPart:
        context, state = self._context, files_state(request.source, self._inventory, self._context)
        references = self._references.get(request.source)
        capture = held.capture(state.previous, run, references.saw if references else None)
        lacking = [str(references)] if references and references.lacking else []
        decision = decide_files(request, capture, state, context.clock(), lacking)
        apply_files(decision, request, capture, state, run, context)
        if request.unread_query:
            run.warn(request.unread_query)
        elif request.query and not references:
            run.note(f"files.{request.source}.query is checked when its database is backed up in the same run")
        details = run.details
        assert details.generation is not None  # noqa: S101 - for the type checker: it was published, or is unchanged
        assert details.archive_sha256 is not None  # noqa: S101
        return PointPart(
            request.source, "files", details.generation, details.archive_sha256, capture.since, capture.until
        )
