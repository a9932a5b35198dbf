"""The errors that backupd foresees; each says what is wrong and where, and `hint` says what to do next.

The number is the exit code of the command; the word after it is `kind`, by which health and metrics tell causes apart
(docs/monitoring.md).

    BackupdError              1  other         the base; never raised itself
    ├─ UsageError             2  other         the command line contradicts itself, or names what is not configured
    ├─ ConfigError           78  config        the configuration cannot be used
    │  └─ PolicyEmpty        78  config        a retention policy keeps nothing
    ├─ TemporaryError        75  busy          the same command is likely to succeed later
    │  ├─ LockHeld           75  busy          another run uses the store, or restores to the same target
    │  ├─ SourceBusy         75  busy          the app holds a lock on its database for too long
    │  ├─ SourceReplaced     75  busy          the database was replaced while it was copied
    │  ├─ TargetInUse        75  busy          the database that a restore would replace is open
    │  ├─ Postponed          75  postponed     the hook before a backup asks to try again later
    │  ├─ NothingToSend      75  no-copy       a source has no verified generation yet
    │  ├─ ProcessRefused     75  other         the system starts no further process or thread
    │  ├─ ReplicaUnreachable 75  unreachable   the network or the replica's host does not answer
    │  │  └─ CopyUnreadable  75  unreachable   it answers, and does not let the manifest of a copy be read
    │  ├─ SidecarUnreachable 75  unreachable   a backupd that is asked over HTTP does not answer, or not as backupd
    │  ├─ SidecarBusy        75  busy          it cannot take the request now, or the backup has not ended yet
    │  └─ RemoteRunUnknown   75  interrupted   it does not know the run: it has restarted since
    ├─ Terminated           143  interrupted   SIGTERM or Ctrl-C ended the run
    ├─ TimeLimitExceeded      1  timeout       the run took longer than schedule.run_timeout_s
    ├─ SourceMissing          1  missing       no file exists at the configured path of the database
    ├─ SourceUnusable         1  unusable      the database is there and cannot be backed up
    │  ├─ SourceUnlocked      1  unusable      the app writes it without the locks that make a copy consistent
    │  └─ SourceUnreadable    1  unusable      SQLite cannot read it
    │     ├─ SourceForeign    1  unusable      another engine wrote it, in a newer file format
    │     ├─ SourceEncrypted  1  unusable      it is encrypted, and only its key could make a consistent copy
    │     └─ SourceCorrupt    1  corrupt       it is too damaged to be copied
    ├─ HookFailed             1  other         the hook before a backup failed
    ├─ SnapshotFailed         1  other         the snapshot failed, and not because of the database
    ├─ CopyCorrupt            1  corrupt       a copy failed its integrity check or its digest
    ├─ ManifestInvalid        1  corrupt       a manifest is damaged or not backupd's
    ├─ WorkerFailed           1  other         a process that works on a database died or failed
    │  └─ WorkerHung          1  other         it did not answer in time, or cannot be ended
    ├─ StoreUnusable          1  other         the directory of the backups, here or at a replica, cannot be used
    ├─ NoSpace                1  no-space      too little free space or too few inodes
    ├─ InputOutputError       1  other         a system call failed
    ├─ UnexpectedError        1  other         a defect of backupd, or of a library
    ├─ GenerationMissing      1  no-copy       no generation is what was asked for
    ├─ ContentMissing         1  corrupt       the content of a file that a list names is not in the store
    ├─ NewestUnusable         1  corrupt       newer generations cannot be used, and no older one was accepted
    ├─ GenerationTaken        1  denied        a replica holds another generation of that id
    ├─ NamesExhausted         1  other         every name that a generation of this minute may have is taken
    ├─ RemovalRefused         1  other         the generation is pinned, held, the last verified one, or append-only
    ├─ ForeignCopies          1  denied        a replica holds generations of that source from another store
    ├─ AdoptionRefused        1  denied        the store to be adopted still makes generations
    ├─ OtherDatabase          1  other         the newest generation is of another database than the target
    ├─ TargetRefused          1  other         a restore to that target would destroy or mislead
    ├─ NotConfirmed           1  other         an operator was asked, and did not confirm
    ├─ RestoreFailed          1  other         a restore failed after its target was accepted
    ├─ DrillFailed            1  unproven      the restored copy is too old, or the app does not work on it
    ├─ CheckFailed            1  other         a check of `backupd doctor` failed
    ├─ CatalogUnavailable     1  other         the catalog cannot be read or written; backups go on
    │  ├─ CatalogDiskError    1  other         its disk is full or fails
    │  ├─ CatalogForeign      1  other         another program's file has its place, or a newer backupd wrote it
    │  └─ CatalogDamaged      1  other         the file is damaged: `backupd catalog rebuild` replaces it
    ├─ GateStepFailed         1  other         a step of a deploy failed: the gate stops the deploy
    │  └─ DeliveryUnknown     1  other         a delivery was sent and not confirmed: production may change
    ├─ Cancelled              1  interrupted   a step of a deploy was not completed: the gate ends, or a newer push came
    ├─ LogMissing             1  other         there is no backup.log yet
    ├─ ListenFailed           1  other         the HTTP server cannot listen
    ├─ ReplicaFailed          1  other         a replica refused an operation, or broke the protocol
    ├─ LoginFailed            1  denied        the server rejects the credentials, or they cannot be used
    ├─ HostKeyRefused         1  denied        the server's host key is not the pinned one
    │  ├─ HostKeyUnknown      1  denied        no key is pinned
    │  └─ HostKeyChanged      1  denied        another key is pinned
    ├─ SidecarRefused         1  denied        a backupd that is asked over HTTP refuses the token or the request
    ├─ RemoteBackupFailed     1  other         it took no verified copy, or holds the pruning of its source
    └─ ServerIncompatible     1  denied        server and client share no SSH algorithm
       └─ ServerTooOld        1  denied        the server knows only SSH algorithms that are no longer safe
"""

from collections.abc import Mapping
from typing import ClassVar, Final, Literal, Self

# Why a run failed, for health, metrics and `--json`; `interrupted` also stands for a run that was killed.
ErrorKind = Literal[
    "missing",
    "unusable",
    "corrupt",
    "busy",
    "postponed",
    "no-space",
    "unreachable",
    "denied",
    "no-copy",
    "unproven",
    "config",
    "timeout",
    "interrupted",
    "other",
]

# What each exit code of the commands means, as their help lists it.
EXIT_CODES: Final[Mapping[int, str]] = {
    0: "success",
    1: "failed",
    2: "wrong usage",
    3: "done, with warnings",
    75: "temporary failure (locked, busy or unreachable): try again later",
    78: "invalid configuration",
    130: "interrupted (Ctrl-C)",
    143: "terminated (SIGTERM)",
}

STOP_THE_APP: Final = (
    "stop the app, then run the same command again; in CapRover: Apps, the app, App Configs, Instance Count 0, "
    "Save & Update; with Docker: docker stop NAME"
)
OR_ONLINE: Final = "; an app that cannot stop: --online"


class BackupdError(Exception):
    """An error that is foreseen: `message` says what and where, `hint` what to do next."""

    exit_code: ClassVar[int] = 1
    kind: ClassVar[ErrorKind] = "other"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __init_subclass__(cls, *, exit_code: int | None = None, kind: ErrorKind | None = None) -> None:
        """Set the exit code and the kind of a class, which are else those of its base."""
        super().__init_subclass__()
        cls.exit_code, cls.kind = exit_code or cls.exit_code, kind or cls.kind


class UsageError(BackupdError, exit_code=2):
    """The command line contradicts itself, or names what is not configured."""


class ConfigError(BackupdError, exit_code=78, kind="config"):
    """The configuration cannot be used (sysexits.h EX_CONFIG)."""


class PolicyEmpty(ConfigError):
    """A retention policy keeps nothing."""


class TemporaryError(BackupdError, exit_code=75, kind="busy"):
    """The same command is likely to succeed later (sysexits.h EX_TEMPFAIL)."""


class LockHeld(TemporaryError):
    """Another run uses the store, or restores to the same target."""


class SourceBusy(TemporaryError):
    """The app holds a lock on its database for longer than backupd may wait."""


class SourceReplaced(TemporaryError):
    """The database was replaced by another file while it was copied."""


class TargetInUse(TemporaryError):
    """A process has the database open that is to be replaced: its acknowledged writes would be lost."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint or STOP_THE_APP)


class Postponed(TemporaryError, kind="postponed"):
    """The hook before a backup asks to try again later: that is no failure that an operator need look at."""


class NothingToSend(TemporaryError, kind="no-copy"):
    """A source has no verified generation yet, neither in the store nor at the replica."""


class ProcessRefused(TemporaryError, kind="other"):
    """The system starts no further process or thread: a seccomp profile, a limit, or too little memory."""


class ReplicaUnreachable(TemporaryError, kind="unreachable"):
    """The network or the replica's host does not answer, or the connection broke."""


class CopyUnreadable(ReplicaUnreachable):
    """The replica responds, but the manifest of a copy cannot be read: that is not damage, and may be temporary."""


class SidecarUnreachable(TemporaryError, kind="unreachable"):
    """A backupd that is asked over HTTP does not answer, or what answers is not backupd."""


class SidecarBusy(TemporaryError):
    """A backupd that is asked over HTTP cannot take the request now, or a backup there has not ended in time."""

    retry_after_s: float | None = None


class RemoteRunUnknown(TemporaryError, kind="interrupted"):
    """A backupd that is asked over HTTP does not know the run: it has restarted, or the run ended a day ago."""


class Terminated(BackupdError, exit_code=143, kind="interrupted"):
    """SIGTERM or Ctrl-C ended the run (128 + SIGTERM, as in a shell)."""


class TimeLimitExceeded(BackupdError, kind="timeout"):
    """The run took longer than schedule.run_timeout_s."""


class SourceMissing(BackupdError, kind="missing"):
    """No file exists at the configured path of the database."""


class SourceUnusable(BackupdError, kind="unusable"):
    """The source exists but cannot be backed up: not SQLite, empty, no right to read it, on an unsafe mount."""


class SourceUnlocked(SourceUnusable):
    """The app writes the database without the locks that make a copy of it consistent."""


class SourceUnreadable(SourceUnusable):
    """SQLite cannot read the source as a database."""


class SourceForeign(SourceUnreadable):
    """Another engine wrote the database, in a version of the file format that SQLite refuses."""


class SourceEncrypted(SourceUnreadable):
    """The database is encrypted, and in a state in which only its key could make a consistent copy."""


class SourceCorrupt(SourceUnreadable, kind="corrupt"):
    """The app's database is too damaged to be copied."""


class HookFailed(BackupdError):
    """The hook before a backup failed, so that nothing was copied."""


class SnapshotFailed(BackupdError):
    """The snapshot failed, for a reason that does not lie in the source."""


class CopyCorrupt(BackupdError, kind="corrupt"):
    """A copy failed its integrity check, or its bytes do not match their digest."""


class ManifestInvalid(BackupdError, kind="corrupt"):
    """A manifest is damaged, or backupd did not write it."""


class WorkerFailed(BackupdError):
    """A process that works on a database died or failed."""


class WorkerHung(WorkerFailed):
    """A process that works on a database did not answer in time, or cannot be ended."""


class StoreUnusable(BackupdError):
    """The directory of the backups, here or at a replica, cannot be used."""


class NoSpace(BackupdError, kind="no-space"):
    """There is too little free space, or too few inodes, before or during a task."""


class InputOutputError(BackupdError):
    """A system call failed for a reason that no other class names."""


class UnexpectedError(BackupdError):
    """An exception that backupd does not foresee: a defect of its own, or of a library."""

    @classmethod
    def of(cls, error: BaseException, hint: str) -> Self:
        """Return `error` as one, with its type and its text."""
        return cls(f"unexpected error ({type(error).__name__}): {error}", hint)


class GenerationMissing(BackupdError, kind="no-copy"):
    """No generation is what was asked for."""


class ContentMissing(BackupdError, kind="corrupt"):
    """The content of a file that the list of a generation names is not in the store."""


class NewestUnusable(BackupdError, kind="corrupt"):
    """Newer generations cannot be used, and no operator has accepted the older one that can."""


class GenerationTaken(BackupdError, kind="denied"):
    """A replica holds another generation under the same id: another store sends there, or it was replaced."""


class NamesExhausted(BackupdError):
    """Every name that a generation of this minute may have is taken."""


class RemovalRefused(BackupdError):
    """The generation must not be removed: pinned, held, the last verified one, or at an append-only replica."""


class ForeignCopies(BackupdError, kind="denied"):
    """A replica holds generations of that source that another store made."""


class AdoptionRefused(BackupdError, kind="denied"):
    """The store that is to be adopted is not lost: it still makes generations."""


class OtherDatabase(BackupdError):
    """The newest generation of a source is of another database than the one at the target."""


class TargetRefused(BackupdError):
    """A restore to that target would destroy or mislead."""


class NotConfirmed(BackupdError):
    """An operator at a terminal was asked, and did not confirm."""


class RestoreFailed(BackupdError):
    """A restore failed after its target was accepted."""


class DrillFailed(BackupdError, kind="unproven"):
    """A drill proved no restore: the copy is too old, or the app does not work on it."""


class CheckFailed(BackupdError):
    """A check of `backupd doctor` failed."""


class CatalogUnavailable(BackupdError):
    """The catalog cannot be read or written; backups go on without it, and it can be rebuilt."""


class CatalogDiskError(CatalogUnavailable):
    """The disk of the catalog is full or fails: neither a rebuild nor a restart helps."""


class CatalogForeign(CatalogUnavailable):
    """Another program's file has the catalog's place, or a newer backupd wrote it: an operator has to decide."""


class CatalogDamaged(CatalogUnavailable):
    """The file of the catalog is damaged: a rebuild helps, waiting does not."""


class GateStepFailed(BackupdError):
    """A step of a deploy failed: nothing after it is done, so that production stays as it is before the delivery."""


class DeliveryUnknown(GateStepFailed):
    """A delivery was sent, and not confirmed: production may change, or not."""


class Cancelled(BackupdError, kind="interrupted"):
    """A step of a deploy was not completed, because the gate ends, or because a newer push superseded the deploy."""


class LogMissing(BackupdError):
    """There is no `backup.log` yet."""


class ListenFailed(BackupdError):
    """The HTTP server cannot listen on its address."""


class ReplicaFailed(BackupdError):
    """A replica refused an operation, or does not keep to its protocol."""


class LoginFailed(BackupdError, kind="denied"):
    """The server rejects the credentials, or they cannot be used at all."""


class HostKeyRefused(BackupdError, kind="denied"):
    """The server's host key is not a pinned one: no credentials were sent, and there is no retry."""


class HostKeyUnknown(HostKeyRefused):
    """No key is pinned for that host, so that its identity cannot be verified."""


class HostKeyChanged(HostKeyRefused):
    """The server shows another key than the pinned one: it was reinstalled, or it is another server."""


class SidecarRefused(BackupdError, kind="denied"):
    """A backupd that is asked over HTTP refuses the token or the request."""


class RemoteBackupFailed(BackupdError):
    """A backup that was requested over HTTP has no verified copy, or the pruning of its source is on hold."""


class ServerIncompatible(BackupdError, kind="denied"):
    """Server and client share no SSH algorithm of one kind."""


class ServerTooOld(ServerIncompatible):
    """The server knows only SSH algorithms that are no longer safe."""
