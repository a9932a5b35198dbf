"""What can go wrong, told so that the reader knows what to do next; the exit code sits on the class."""

from typing import ClassVar, Final, Literal

# What kind of failure a run had, for health, metrics and machines; `interrupted` is a run that was killed.
ErrorKind = Literal[
    "missing",
    "unusable",
    "corrupt",
    "busy",
    "no-space",
    "unreachable",
    "denied",
    "no-copy",
    "unproven",
    "config",
    "interrupted",
    "other",
]

STOP_THE_APP: Final = (
    "stop the app, then run the same command again; in CapRover: Apps, the app, App Configs, Instance Count 0, "
    "Save & Update; with Docker: docker stop NAME"
)
OR_ONLINE: Final = "; an app that cannot stop: --online"


class BackupdError(Exception):
    """Any foreseen trouble: `message` says what and where, `hint` what to do next."""

    exit_code: ClassVar[int] = 1
    kind: ClassVar[ErrorKind] = "other"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BackupdError):
    """The command line asks for something that cannot be meant."""

    exit_code = 2


class TemporaryError(BackupdError):
    """The same command is likely to succeed later (sysexits.h EX_TEMPFAIL)."""

    exit_code = 75
    kind: ClassVar[ErrorKind] = "busy"


class ConfigError(BackupdError):
    """The configuration cannot be used (sysexits.h EX_CONFIG)."""

    exit_code = 78
    kind = "config"


class Terminated(BackupdError):
    """The run was told to stop (SIGTERM, Ctrl-C) and did: no fault of its own (128 + SIGTERM, as shells say it)."""

    exit_code = 143
    kind = "interrupted"


class ReplicaUnreachable(TemporaryError):
    """The network, or the host at its other end, is not there just now, or went away in the middle."""

    kind = "unreachable"


class ProcessRefused(TemporaryError):
    """The system starts no further process or thread: a seccomp profile, a limit, or too little memory."""

    kind = "other"


class NothingToSend(TemporaryError):
    """A source has no verified generation yet, neither here nor at the replica."""

    kind = "no-copy"


class LockHeld(TemporaryError):
    """Another run works on the same store, or restores to the same place."""


class SourceBusy(TemporaryError):
    """The app holds a lock on its database for longer than we may wait."""


class SourceReplaced(TemporaryError):
    """The database was replaced by another file while it was being copied."""


class TargetInUse(TemporaryError):
    """Somebody has the database open that is to be replaced: acknowledged writes would be lost."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint or STOP_THE_APP)


class SourceMissing(BackupdError):
    """There is no database where the configuration says there is one."""

    kind = "missing"


class SourceUnusable(BackupdError):
    """The source is there but cannot be backed up: not SQLite, empty, no right to read it, on an unsafe mount."""

    kind: ClassVar[ErrorKind] = "unusable"


class SourceUnlocked(SourceUnusable):
    """The database is written without the locks that keep a copy of it consistent."""


class SourceUnreadable(SourceUnusable):
    """The source is no database that this SQLite can read."""


class SourceForeign(SourceUnreadable):
    """The source is a database of another engine, in a version of the file format that SQLite refuses."""


class SourceEncrypted(SourceUnreadable):
    """The source is an encrypted database, and in a state in which only its key makes a consistent copy."""


class SourceCorrupt(SourceUnreadable):
    """The app's database is so damaged that it cannot even be copied."""

    kind = "corrupt"


class SnapshotFailed(BackupdError):
    """The copy could not be made, for a reason that is not the source's."""


class NoSpace(BackupdError):
    """Too little free space, before or in the middle of the work."""

    kind = "no-space"


class CopyCorrupt(BackupdError):
    """A copy failed its integrity check, or bytes do not match their digest."""

    kind = "corrupt"


class ManifestInvalid(BackupdError):
    """A manifest is damaged, or was never one of ours."""

    kind = "corrupt"


class GenerationMissing(BackupdError):
    """No generation fits what was asked for."""

    kind = "no-copy"


class GenerationTaken(BackupdError):
    """A replica holds another generation under the same id: somebody else sends there."""

    kind = "denied"


class RemovalRefused(BackupdError):
    """A generation that must not be removed: pinned, on hold, the last verified one, or at an append-only replica."""


class ForeignCopies(BackupdError):
    """A replica holds generations of that source that another store has made."""

    kind = "denied"


class AdoptionRefused(BackupdError):
    """The store that is to be adopted is not lost: it still makes generations."""

    kind = "denied"


class OtherDatabase(BackupdError):
    """The newest generation of a source is of another database than the one that is meant."""


class DrillFailed(BackupdError):
    """A rehearsal of a restore proved nothing: the copy is too old, or the app does not work on it."""

    kind = "unproven"


class TargetRefused(BackupdError):
    """Restoring there would destroy or mislead."""


class HostKeyRefused(BackupdError):
    """The server does not show a host key that is pinned: nothing was told to it, and nothing is tried again."""

    kind = "denied"


class HostKeyUnknown(HostKeyRefused):
    """No key is pinned for that host, so that nobody can tell whether it is the right one."""


class HostKeyChanged(HostKeyRefused):
    """The server shows another key than the pinned one: it was set up anew, or is somebody else."""


class ServerIncompatible(BackupdError):
    """Server and client have no SSH algorithm of one kind in common."""

    kind = "denied"


class ServerTooOld(ServerIncompatible):
    """The server knows only SSH algorithms that are no longer safe."""


class LoginFailed(BackupdError):
    """The server lets nobody in with these credentials, or they cannot be used at all."""

    kind = "denied"


class PolicyEmpty(ConfigError):
    """A retention policy that keeps nothing."""
