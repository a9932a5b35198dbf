"""A set of files of a run: held before the databases are pinned, and published after them."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from backupd.errors import BackupdError
from backupd.model import PointPart
from backupd.system.directory import Directory
from backupd.system.held_file import HeldFile
from backupd.tasks.context import TaskContext
from backupd.tasks.files.capture import HeldSet, holding_set
from backupd.tasks.files.publication import FilesState, apply_files, decide_files
from backupd.tasks.references import References
from backupd.tasks.requests import FilesRequest
from backupd.tasks.run import BackupRun


@dataclass(slots=True)
class FilesOrder:
    """A set of files that a run backs up; the methods are called in their order."""

    request: FilesRequest
    run: BackupRun
    state: FilesState
    held: HeldSet | None = None
    references: References | BackupdError | None = None

    @property
    def is_going(self) -> bool:
        """Whether the set is held, and nothing has failed."""
        return self.held is not None and self.run.report.outcome != "failed"

    def hold(self, staging: Directory, stack: ExitStack, context: TaskContext) -> None:
        """Hold what differs from the last run, until `stack` is closed. Raises what `holding_set` does."""
        held = stack.enter_context(holding_set(self.request, staging, context))
        held.hold(self.run)
        self.held = held

    def rescan(self) -> None:
        """Hold what is new since, while the databases are pinned. Raises BackupdError, OSError."""
        assert self.held is not None  # noqa: S101 - for the type checker
        self.held.rescan(self.run)

    def rescan_after(self, parts: Sequence[PointPart]) -> None:
        """Hold what is new once more where a database could not be pinned, and its copy is later than the last look.

        Raises BackupdError, OSError.
        """
        assert self.held is not None  # noqa: S101 - for the type checker
        if any(part.since > self.held.held_at for part in parts):
            self.held.rescan(self.run)

    def read_references(self, database: str, copy: HeldFile) -> None:
        """Ask the copy of a source which files it names, if it is the one that belongs to the set."""
        if self.request.query is not None and self.request.database == database:
            with self.run.stage("references"):
                try:
                    self.references = References.read(copy, self.request)
                except BackupdError as error:
                    self.references = error

    def publish(self, context: TaskContext) -> list[PointPart]:
        """Store the contents, and publish the list; return its part of a restore point.

        That is the previous generation where nothing has changed. Raises BackupdError, OSError.
        """
        assert self.held is not None  # noqa: S101 - for the type checker
        request, run, references = self.request, self.run, self.references
        saw = references.saw if isinstance(references, References) else None
        capture = self.held.capture(self.state.previous, run, saw)
        decision = decide_files(request, capture, self.state, context.clock(), self._lacking())
        apply_files(decision, request, capture, self.state, run, context)
        if request.query is not None and references is None:
            run.note(f"files.{request.source}.query was not run: {request.database} was not copied in the same run")
        generation, sha256 = run.details.generation, run.details.archive_sha256
        if generation is None or sha256 is None:
            return []
        return [PointPart(request.source, "files", generation, sha256, capture.since, capture.until)]

    def _lacking(self) -> list[str]:
        references = self.references
        if isinstance(references, BackupdError):
            return [f"{references.message} ({references.hint})"]
        return [str(references)] if references is not None and references.lacking else []
