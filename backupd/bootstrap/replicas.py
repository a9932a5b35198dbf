"""Builds replicas, their requests and the doctor from the configuration."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from zoneinfo import ZoneInfo

from backupd.bootstrap.tasks import backup_request, drill_request, hooks
from backupd.config import Config, ReplicaSection
from backupd.errors import ConfigError, ReplicaUnreachable, UsageError
from backupd.formatting import counted
from backupd.log import Event
from backupd.model import LOCAL_STORE
from backupd.notifications.delivery import examine_messages, examine_pings
from backupd.stores.contract import HIDDEN, STAGING, Replica
from backupd.stores.directory_replica import DirectoryReplica
from backupd.stores.sftp.auth import Credentials
from backupd.stores.sftp.connection import SftpConnection, Timeouts, connection_errors
from backupd.stores.sftp.host_keys import PinnedKeys
from backupd.stores.sftp.store import SftpStore
from backupd.stores.sftp.upload import RemoteHash, VerifiedParts
from backupd.stores.sftp.url import DirectoryAddress, SftpAddress, parse_address
from backupd.stores.state import OWN_IDENTITY
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.doctor import Finding
from backupd.tasks.doctor.files import check_restored_files, check_sets
from backupd.tasks.doctor.hooks import check_hooks
from backupd.tasks.doctor.local import check_local
from backupd.tasks.doctor.replica import check_replica
from backupd.tasks.drill.app_check import check_drill_setup
from backupd.tasks.drill.session import OpenStore
from backupd.tasks.inventory import Inventory
from backupd.tasks.replica import Connect, Retry, once, replica_errors, replica_inventory, until
from backupd.tasks.requests import ReplicationRequest, RetentionRule
from backupd.tasks.restore.extract import FilesStore, ResumingArchives

_PROTECT = (
    "a user who can write it chooses the commands that backupd runs: mount it read-only, or move it out of the app's "
    "volume and chmod go-w"
)
_UNKNOWN = "the name may be misspelled, see the databases that were found; else start the app, which creates them"


def replica_names(config: Config, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the replicas in `names`, all for an empty tuple. Raises UsageError for an unknown one, or without any."""
    for name in names:
        if name not in config.replicas:
            known = ", ".join(config.replicas) or "none"
            raise UsageError(f"unknown replica {name!r}", f"the configuration ({config.origin}) has: {known}")
    if not config.replicas:
        raise UsageError("no replica is configured", "set url under [replicas.NAME]: config.example.toml shows how")
    return names or tuple(config.replicas)


def replication_request(config: Config, name: str, *, adopt: bool = False, force: bool = False) -> ReplicationRequest:
    """Return the request to replicate to `name`, with the options `adopt` and `force` of an operator."""
    replica = config.replicas[name]
    policy = (replica.retention or config.retention).policy()
    retention = RetentionRule(policy, ZoneInfo(config.schedule.timezone))
    return ReplicationRequest(name, retention, (*config.sources, *config.files), replica.append_only, adopt, force)


def replica_connector(config: Config, name: str, context: TaskContext, *, reading: bool = False) -> Connect:
    """Return a function that opens replica `name` each time it is called; the connections share the verified parts.

    It refuses the local store itself, whatever the path or the server that leads there, and the local store of another
    backupd; but that, such as the disk of a lost machine, may be opened for `reading`. Raises ConfigError, and so does
    the function.
    """
    open_replica = _replica_opener(config, name, context)

    @contextmanager
    def connect() -> Iterator[Replica]:
        with open_replica() as replica:
            _require_mounted(replica, context)
            _refuse_local_store(replica, context, reading=reading)
            yield replica

    return connect


def _replica_opener(config: Config, name: str, context: TaskContext) -> Connect:
    replica = config.replicas[name]
    address = parse_address(replica.url)
    if isinstance(address, DirectoryAddress):
        return lambda: nullcontext(DirectoryReplica(name, address.path, context.progress.advance))
    verified = VerifiedParts(context.progress, RemoteHash() if replica.verify == "remote-hash" else None)
    pins = PinnedKeys.read(name, replica.host_key, replica.known_hosts)
    credentials = _credentials(name, replica, address)

    @contextmanager
    def open_sftp() -> Iterator[Replica]:
        with (
            connection_errors(address.where),
            SftpConnection.open(address.host, address.port, pins, credentials, Timeouts()) as connection,
        ):
            yield SftpStore(name, address.path, context.identity, connection, verified)

    return open_sftp


@contextmanager
def open_store(config: Config, name: str, context: TaskContext) -> Iterator[tuple[FilesStore, Inventory]]:
    """Open the local store or the replica `name`, and list its generations. Raises what opening the replica raises.

    Reading from a replica resumes after a lost connection.
    """
    if name == LOCAL_STORE:
        yield context.store, local_inventory(context)
        return
    connect = replica_connector(config, name, context, reading=True)
    with ExitStack() as stack:
        with replica_errors(name):
            replica = stack.enter_context(connect())
            with connection_errors(name):  # before they would count as errors of the server
                inventory = replica_inventory(name, replica, context)
        retry = replica_retry(config, name, context)
        yield stack.enter_context(ResumingArchives(replica, connect, retry)), inventory


def store_opener(config: Config, name: str, context: TaskContext) -> OpenStore:
    """Return a function that opens the store as `open_store` does, each time it is called."""
    return lambda: open_store(config, name, context)


def replica_retry(config: Config, name: str, context: TaskContext) -> Retry:
    """Return the retry policy of a store: until `timeout_s` of the replica, each wait logged; the local store once."""
    if name == LOCAL_STORE:
        return once

    def on_retry(why: str, wait_s: float) -> None:
        context.log.warning(Event.REPLICA_RETRIED, f"{name}: {why}; trying again in {wait_s:.0f} s", store=name)

    return until(config.replicas[name].timeout_s, on_retry)


def diagnose(config: Config, context: TaskContext) -> Iterator[Finding]:
    """Yield the findings of the doctor about the configuration, the local store and each replica."""
    detail = "; ".join(filter(None, (f"from {config.origin}", config.exposure, config.note, config.skipped)))
    yield Finding("configuration", ok=not config.exposure, detail=detail, hint=_PROTECT if config.exposure else "")
    if unknown := config.unknown_names:
        what = f"no database was found for {', '.join(unknown)}"
        yield Finding("configuration", ok=True, detail=what, hint=_UNKNOWN, warning=True)
    requests = tuple(backup_request(config, name) for name in config.sources)
    sets = {name: section.path for name, section in config.files.items()}
    yield from check_local(requests, context, sets)
    yield from check_sets(sets)
    yield from check_restored_files(sets.values(), context)
    yield from check_hooks(hooks(config))
    for name in config.replicas:
        yield from check_replica(
            replication_request(config, name), partial(_open_replica, config, name, context), context
        )
    if config.drill.checks_app:
        named = next((name for name in config.sources if name == config.drill.source), next(iter(config.sources)))
        yield from check_drill_setup(drill_request(config, named))
    zone = ZoneInfo(config.schedule.timezone)
    if config.notify.urls:
        yield from examine_messages(next(iter(config.sources)), context, zone)
    if config.pings:
        yield from examine_pings(config.pings, context, zone)


def _require_mounted(replica: Replica, context: TaskContext) -> None:
    """Raise ReplicaUnreachable where copies were sent to a directory that has nothing of backupd any more.

    Its disk is not mounted: it is not an empty replica, and what was written there would fill another disk, mostly that
    of the backups. Raises OSError.
    """
    if not isinstance(replica, DirectoryReplica) or replica.has_hidden("") or replica.list():
        return
    if sent := context.ask_catalog(lambda catalog: catalog.sent(replica.name), frozenset[str]()):
        what = f"{replica.directory} has nothing of the {counted(len(sent), 'generation')} sent to {replica.name}"
        raise ReplicaUnreachable(what, f"mount the disk that belongs there; for a new one: mkdir {replica.hidden}")


def _refuse_local_store(replica: Replica, context: TaskContext, *, reading: bool) -> None:
    """Raise ConfigError where a replica is the local store itself, or the local store of another backupd.

    A local store has an identity, which a copy of its disk has as well. So it is the local store itself where the work
    directory of this moment is seen too: by a link, a mount or a server of this host. Raises OSError.
    """
    store, name = context.store, replica.name
    usable = store.writable() and store.hidden.exists()
    if usable and not reading and context.identities.own() is None and not store.list():
        context.identity()  # a store that lost it has it recovered with its pins
    if not _has_identity(replica, reading=reading):
        return
    if usable:
        store.prepare()
        with store.staging() as directory:
            if replica.has_hidden(f"{STAGING}/{directory.name}"):
                what = f"replicas.{name} is the directory of the backups itself, under another path"
                raise ConfigError(what, "give it a directory of its own, on another disk or host")
    if not reading:
        unused = f"if no backupd uses it any more, remove {HIDDEN}/{OWN_IDENTITY} there"
        what = f"replicas.{name} is the local store of another backupd"
        raise ConfigError(what, f"give it a directory of its own; {unused}")


def _has_identity(replica: Replica, *, reading: bool) -> bool:
    try:
        return replica.has_hidden(OWN_IDENTITY)
    except OSError:
        if reading:  # who may read the copies need not be allowed to read all there
            return False
        raise


def _open_replica(config: Config, name: str, context: TaskContext) -> AbstractContextManager[Replica]:
    return replica_connector(config, name, context)()


def _credentials(name: str, replica: ReplicaSection, address: SftpAddress) -> Credentials:
    """Return the credentials of `replica`. Raises ConfigError where no user is named."""
    username = replica.username or address.username
    if not username:
        raise ConfigError(f"replicas.{name} has no user", "set username, or write sftp://USER@HOST/PATH")
    secrets = (replica.password, replica.private_key, replica.passphrase)
    return Credentials(username, *(secret.get_secret_value() if secret else None for secret in secrets))
