"""What the restore of a point needs of each of its parts: databases and sets of files are driven alike.

    inspect -> prepare -> settle -> lease all -> journal beside each -> commit, one after the other -> finish

Nothing of the app has changed before the first commit. What fails or is killed between the first commit and the last is
undone from what lies beside the targets alone (`LeftPart`), by the same process or the next.
"""

from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from backupd.sqlite.swap import SwapJournal
from backupd.sqlite.target import FileLease, Target
from backupd.tasks.restore.point_journal import Found, PartPlace


class PartResult(Protocol):
    """What the restore of one part did, or in a dry run would do: a frozen dataclass, which is a part in `--json`."""

    @property
    def source(self) -> str:
        """The source that was restored."""

    @property
    def generation(self) -> str | None:
        """The generation; None where an undo puts back what was kept."""

    @property
    def target(self) -> str:
        """The path of the database, or of the directory."""

    @property
    def kept(self) -> str | None:
        """Where the old state is kept, None where there was none."""

    @property
    def undo(self) -> str | None:
        """The command that takes the restore back."""


class InspectedPart(Protocol):
    """A target that may be replaced, and what that needs; nothing was changed.

    To make one raises TargetRefused.
    """

    @property
    def source(self) -> str:
        """The source that is restored."""

    @property
    def directory(self) -> Path:
        """Where the space is needed."""

    @property
    def needed_bytes(self) -> int:
        """How much is needed there."""

    @property
    def needed_files(self) -> int:
        """How many new names are needed there."""

    def planned(self) -> PartResult:
        """Return the result that the restore would have."""

    def prepared(self) -> AbstractContextManager["PreparedPart"]:
        """Unpack and verify, and keep that for the block; what was not committed by its end is removed.

        Raises CopyCorrupt, GenerationMissing, NoSpace, ReplicaUnreachable, TargetRefused, OSError.
        """


class PreparedPart(Protocol):
    """One part, verified and durable beside its target (on the same mount), which is unchanged."""

    @property
    def place(self) -> PartPlace:
        """Where its copy of the journal belongs."""

    def settle(self) -> Target | None:
        """Look at the target again, and finish what its app left unfinished; return what has to be leased.

        Raises TargetInUse, TargetRefused, NoSpace.
        """

    def plan(self, now: datetime) -> SwapJournal | None:
        """Return the swap of a database, which its copy of the journal holds; the leases are held from here on.

        A set of files keeps a record of its own in its hidden directory, and makes it durable here.
        """

    def commit(self, lease: FileLease | None) -> None:
        """Put the part in place, durably.

        Raises TargetInUse, RestoreFailed, OSError; then this part is as it was before, or `LeftPart.undo` makes it so.
        """

    def result(self) -> PartResult:
        """Return what was done, once all parts are committed."""


class LeftPart(Protocol):
    """What a restore that was killed or failed left of one part. Each method may be repeated after a kill."""

    @property
    def path(self) -> Path:
        """The database or directory, for messages."""

    def found(self) -> Found:
        """Return what lies at the target, once what its commit left half done is finished or undone.

        Raises TargetRefused, OSError.
        """

    def settle(self) -> Target | None:
        """Finish what the app left unfinished at the target, and return what has to be leased before an undo.

        Raises TargetInUse, TargetRefused, NoSpace.
        """

    def undo(self) -> str:
        """Make all as it was before, and return what is worth telling, such as where newer data is kept.

        What the app has written since is never removed. Raises OSError.
        """

    def finish(self) -> None:
        """Remove the record of the restore that this one took back, which only an undo needs. Raises OSError."""

    def discard(self) -> None:
        """Remove what was prepared and is not in place. Raises OSError."""
