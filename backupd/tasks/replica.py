"""A replica as tasks use it: connected, again where a connection is lost, with its inventory and its errors."""

import errno
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final, Protocol, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from backupd.archive.manifest import decode_manifest
from backupd.errors import (
    CopyUnreadable,
    GenerationMissing,
    ManifestInvalid,
    NoSpace,
    ReplicaFailed,
    ReplicaUnreachable,
)
from backupd.formatting import printable
from backupd.stores.contract import Replica
from backupd.system.fs import is_disk_full
from backupd.system.os_errors import explain_full, os_error_text
from backupd.tasks.context import TaskContext
from backupd.tasks.events import CopyForgotten, GenerationRemoved
from backupd.tasks.inventory import Inventory, take_inventory
from backupd.tasks.requests import ReplicationRequest
from backupd.tasks.store_events import PointRemoved
from backupd.tasks.sweep import note_sweep

T = TypeVar("T")
Connect = Callable[[], AbstractContextManager[Replica]]

_FIRST_WAIT_S: Final = 2.0
_MAX_WAIT_S: Final = 120.0
_DENIED = (
    "let the account there read and write the directory of the replica (owner and mode), or correct the path in url"
)
# What the file system of another host says while that host, or the network to it, is away.
_AWAY: Final = frozenset(
    (errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN)
)
_MAX_MESSAGE: Final = 400  # characters
_MAX_SENDERS: Final = 8  # that publish in the same moments, one after the other


class Retry(Protocol):
    """Calls a function, again where that may help, and returns its value."""

    def __call__(self, do: Callable[[], T], /) -> T:
        """Return what `do` returns, as soon as it does. Raises its last error."""


def once(do: Callable[[], T], /) -> T:
    """Call `do` once."""
    return do()


def until(deadline_s: float, on_retry: Callable[[str, float], None]) -> Retry:
    """Return a Retry that calls again after ReplicaUnreachable, and waits longer each time, with jitter.

    A replica that answers, and refuses, is not asked again.

    `on_retry` gets the reason and the seconds of each wait. After `deadline_s` the last error is raised. SIGTERM, which
    raises in the main thread, ends a wait at once.
    """

    def before_sleep(state: RetryCallState) -> None:
        if state.outcome is not None and state.next_action is not None:
            on_retry(str(state.outcome.exception()), state.next_action.sleep)

    return Retrying(
        retry=retry_if_exception(_may_pass),
        wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_MAX_WAIT_S),
        stop=stop_after_delay(deadline_s),
        before_sleep=before_sleep,
        reraise=True,
    )


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, ReplicaUnreachable) and not isinstance(error, CopyUnreadable)


@contextmanager
def replica_errors(name: str) -> Iterator[None]:
    """Name the replica in the errors of the block. Raises NoSpace, ReplicaFailed, ReplicaUnreachable."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            what, hint = explain_full(error, error.filename if isinstance(error.filename, str) else None)
            raise NoSpace(f"{name}: {what}", hint) from error
        if isinstance(error, TimeoutError | ConnectionError) or error.errno in _AWAY:
            raise ReplicaUnreachable(f"{name}: {error.strerror or error}", "check that host and the network") from error
        what = f"{name}: {printable(os_error_text(error))[:_MAX_MESSAGE]}"
        hint = _DENIED if isinstance(error, PermissionError) else "check free space, inodes, quota and rights there"
        raise ReplicaFailed(what, f"{hint}; backupd doctor tries them") from error


def replica_inventory(name: str, replica: Replica, context: TaskContext) -> Inventory:
    """Read all manifests of a replica; copies that a check found damaged are marked so. Raises OSError.

    Refused are copies of generations that this store knows by another digest, and those that were sent there and are no
    longer listed.
    """
    none = frozenset[str]()
    damaged, sent = context.ask_catalog(lambda catalog: (catalog.damaged(name), catalog.sent(name)), (none, none))
    remote = take_inventory(replica, context.clock(), damaged)
    known = _known_digests(remote.manifests, context)
    found = remote.digests()
    remote = remote.refusing([key for key in sorted(found) if known.get(key, found[key]) != found[key]])
    if gone := sent - {generation.id for generation in remote.generations}:
        gone &= context.ask_catalog(lambda catalog: catalog.sent(name), none)  # not what was removed since
    return remote.losing(gone) if gone else remote


def _known_digests(ids: Collection[str], context: TaskContext) -> Mapping[str, str]:
    """Return the digests of archives of `ids` that this store has made: by its manifests, else by its catalog."""
    known: dict[str, str] = {}
    for generation_id in ids:
        with suppress(ManifestInvalid, GenerationMissing, OSError):
            encoded = context.store.manifest(generation_id)
            known[generation_id] = decode_manifest(encoded, generation_id).archive.sha256
    pruned = ids - known.keys()
    return known | context.ask_catalog(lambda catalog: catalog.archive_digests(pruned), dict[str, str]())


def remove_copies(
    removals: Mapping[str, str], request: ReplicationRequest, replica: Replica, remote: Inventory, context: TaskContext
) -> None:
    """Remove generations at a replica, each with the reason: `SHA256SUMS` and the catalog first. Raises OSError."""
    note_sweep(removals, remote, context)
    _write_checksums(request, replica, remote, removals, context)
    for generation_id, reason in removals.items():
        context.emit(CopyForgotten(generation_id, request.name))
        replica.remove(generation_id)
        context.emit(GenerationRemoved(generation_id, request.name, reason))


def remove_points(removals: Mapping[str, str], replica: Replica, context: TaskContext) -> None:
    """Remove the indexes of restore points at a replica, each with the reason, before any of their parts go.

    Raises OSError.
    """
    for point_id, reason in removals.items():
        replica.remove_point(point_id)
        context.emit(PointRemoved(point_id, replica.name, reason))


def _write_checksums(
    request: ReplicationRequest, replica: Replica, remote: Inventory, removals: Collection[str], context: TaskContext
) -> None:
    """Write SHA256SUMS of what stays, again where another sender published in between: the last to write lists all."""
    for _ in range(_MAX_SENDERS):
        replica.write_checksums(remote.checksums(without=removals))
        if {stored.id for stored in replica.list()} <= {generation.id for generation in remote.generations}:
            return
        remote = replica_inventory(request.name, replica, context)
