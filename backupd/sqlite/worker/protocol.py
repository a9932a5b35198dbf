"""What parent and worker send each other; `system.worker` and `system.worker_process` are the two ends of the pipe."""

import time
from typing import Any, Literal, NamedTuple, TypedDict


class SnapshotSettings(NamedTuple):
    """Time limits of a copy, in seconds, and what it may do in the special cases of docs/sources.md."""

    method: Literal["backup", "vacuum"] = "backup"
    timeout_s: float = 3600.0
    busy_timeout_s: float = 60.0
    writer_budget_s: float = 2.0
    quiet_wait_s: float = 60.0
    hot_journal: Literal["copy", "fail"] = "copy"
    hot_journal_wait_s: float = 60.0
    network_fs: Literal["refuse", "allow"] = "refuse"
    reserve_bytes: int = 0


class SnapshotRequest(TypedDict):
    """Copy the database at `path` to the empty file `target`; without it, only open and pin it."""

    path: str
    device: int  # of the file that was inspected, and no other is copied
    inode: int
    uid: int | None
    gid: int | None
    unmapped: str  # the id (`user`, `group`) that this user namespace does not map
    empty: bool
    target: str  # its name
    held: int | None  # the descriptor of `target`
    journal: int | None  # that of the empty file for a hot journal
    deadline: float  # by the monotonic clock, which the processes of one machine share
    settings: dict[str, Any]  # of SnapshotSettings


class SnapshotReply(TypedDict):
    """What was copied: with a `hot` journal to be rolled back, or encrypted, byte for byte."""

    hot: bool
    encrypted: bool
    page_size: int
    journal_mode: Literal["wal", "rollback"]
    writer: str
    copier: str
    filesystem: str
    writers_held_s: float
    instant: tuple[int, int]  # between which the database was what the copy is, see `now_ns`


class PinRequest(TypedDict):
    """Open the databases of one owner, to pin them together. A `PinCommand` follows for each further step."""

    sources: list[SnapshotRequest]


class PinCommand(TypedDict):
    """Pin all that were opened, waiting at most `wait_s`; or copy number `copy` until `deadline`."""

    copy: int | None
    deadline: float
    wait_s: float


class PinReply(TypedDict):
    """A database that is pinned: between when it was, and whether its writers wait for the copy."""

    instant: tuple[int, int]
    holds_writers: bool


Thoroughness = Literal["all", "structure", "pages"]


class IntegrityRequest(TypedDict):
    """Check the copy at `path`, which SQLite `writer` wrote, with the `priority` of `system.resources`.

    The less is `thorough`, the less of what its schema computes is run.
    """

    path: str
    held: int  # its descriptor
    writer: str
    priority: dict[str, Any]
    thorough: Thoroughness


class IntegrityReply(TypedDict):
    """The fields of `model.Verdict` and, of a copy that can be read, of `model.Contents`."""

    verdict: dict[str, Any]
    contents: dict[str, Any] | None


class CopyRequest(TypedDict, total=False):
    """Do `verb` to the copy at `path`: compact it into `target`, run the `query`, or that of the set `files`.

    Its descriptor is `held`; that of the empty file `target`, or of one for the names, is `target_held`.
    """

    verb: Literal["recover", "compact", "query", "names"]
    path: str
    held: int
    target: str
    target_held: int
    query: str | None
    files: str


class CheckpointRequest(TypedDict):
    """Bring the database at `path`, which its app knows as `name`, into one file."""

    path: str
    name: str
    uid: int | None
    gid: int | None


class CheckpointResult(NamedTuple):
    """How the old database is damaged, if it is, after its WAL or journal was taken into its file.

    `journal_problem` says why its hot journal was left alone: backupd cannot tell whether to play it back.
    """

    damage: str
    journal_problem: str = ""


class QueryResult(NamedTuple):
    """`PRAGMA user_version`, and the first value of the first row of a query as text; None without a row or a query.

    Of a very long value it is the beginning.
    """

    user_version: int
    answer: str | None


class OnlineRestoreRequest(TypedDict):
    """Overwrite the live database at `path` by the copy `snapshot`."""

    path: str
    snapshot: str
    held: int  # the descriptor of `snapshot`
    uid: int | None
    gid: int | None
    busy_timeout_s: float


class LeaseRequest(TypedDict):
    """Take the write lease on those of `paths` that exist."""

    paths: list[str]
    uid: int | None
    gid: int | None


class LeaseState(TypedDict):
    """Whether the lease is held; else on which file it is not, and why."""

    state: Literal["held", "used", "unknown"]
    path: str
    reason: str


class LookRequest(TypedDict):
    """Look for databases below the directory `path`, at no more than `most` names, and `depth` directories deep.

    Not at the paths `without`, at relative paths that match one of `exclude`, in directories that are called as one of
    `names`, or at what has `kept` in its name. Only at files whose relative path matches the `pattern`, if there is
    one, and at those whose name matches one of `keys`.
    """

    path: str
    pattern: str
    exclude: list[str]
    without: list[str]
    names: list[str]
    keys: list[str]
    kept: str
    most: int
    depth: int


class LookReply(TypedDict):
    """The fields of `discovery.DirectoryContents`."""

    real: str
    databases: list[str]
    keys: list[str]
    files: dict[str, int]
    sizes: dict[str, int]
    too_many: bool
    complete: bool


def now_ns() -> int:
    """Return the time in nanoseconds by a clock that all processes of this machine share, and that nobody sets."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
