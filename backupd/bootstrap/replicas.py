"""Builds what replication works with from the configuration, as `backupd.bootstrap.tasks` does for the rest."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from backupd.bootstrap.tasks import backup_request, drill_request, monitors
from backupd.config import Config
from backupd.errors import ConfigError, UsageError
from backupd.log import Event
from backupd.model import LOCAL_STORE
from backupd.notifications.delivery import examine_messages, examine_pings
from backupd.stores.contract import HIDDEN, Archives, Replica
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
from backupd.tasks.doctor.local import check_local
from backupd.tasks.doctor.replica import check_replica
from backupd.tasks.drill.app_check import check_drill_setup
from backupd.tasks.drill.drill import OpenStore
from backupd.tasks.inventory import Inventory
from backupd.tasks.replica import Connect, Retry, once, replica_errors, replica_inventory, until
from backupd.tasks.requests import ReplicationRequest, RetentionRule
from backupd.tasks.restore.extract import ResumingArchives


def require_replicas(config: Config, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the replicas that `names` ask for, all when there are none. Raises UsageError."""
    for name in names:
        if name not in config.replicas:
            known = ", ".join(config.replicas) or "none"
            raise UsageError(f"there is no replica {name!r}", f"the configuration ({config.origin}) has: {known}")
    if not config.replicas:
        raise UsageError(
            "there is no replica to send to", "set url under [replicas.NAME]: config.example.toml shows how"
        )
    return names or tuple(config.replicas)


def replication_request(config: Config, name: str, *, adopt: bool = False, force: bool = False) -> ReplicationRequest:
    """Return what the configuration asks for of replica `name`, and an operator with `adopt` and `force`."""
    replica = config.replicas[name]
    policy = (replica.retention or config.retention).policy()
    retention = RetentionRule(policy, ZoneInfo(config.schedule.timezone))
    return ReplicationRequest(name, retention, tuple(config.sources), replica.append_only, adopt, force)


def connecting(config: Config, name: str, context: TaskContext, *, reading: bool = False) -> Connect:
    """Return what opens replica `name`, as often as it is called; what was proven by one is known to the next.

    The directory that a backupd keeps its backups in, such as the disk of a lost machine, is only for `reading`. Raises
    ConfigError.
    """
    address = parse_address(config.replicas[name].url)
    if isinstance(address, DirectoryAddress):
        if not reading:
            _refuse_local_store(name, address.path, config.backups_dir)
        return lambda: _mirror(name, address, context)
    remote_hash = RemoteHash() if config.replicas[name].verify == "remote-hash" else None
    verified = VerifiedParts(context.progress, remote_hash)
    pins, credentials = pins_of(config, name), credentials_of(config, name, address)
    return lambda: _over_sftp(name, address, pins, credentials, verified, context)


@contextmanager
def opened_store(config: Config, name: str, context: TaskContext) -> Iterator[tuple[Archives, Inventory]]:
    """Lend the local store or the replica of that name, with all that is in it. Raises what connecting raises.

    Archives of a replica are read on when the connection is lost in the middle.
    """
    if name == LOCAL_STORE:
        yield context.store, local_inventory(context)
        return
    connect = connecting(config, name, context, reading=True)
    with ExitStack() as stack:
        with replica_errors(name):
            replica = stack.enter_context(connect())
            inventory = replica_inventory(name, replica, context)
        yield ResumingArchives(replica, connect, retrying(config, name, context)), inventory


def opening(config: Config, name: str, context: TaskContext) -> OpenStore:
    """Return what lends a store as `opened_store` does, as often as it is called."""
    return lambda: opened_store(config, name, context)


def retrying(config: Config, name: str, context: TaskContext) -> Retry:
    """Return what tries again, for as long as `timeout_s` of the replica says; each wait is logged.

    What is done in the local store is done once.
    """
    if name == LOCAL_STORE:
        return once

    def on_retry(why: str, wait_s: float) -> None:
        context.log.warning(Event.REPLICA_RETRIED, f"{name}: {why}; trying again in {wait_s:.0f} s", store=name)

    return until(config.replicas[name].timeout_s, on_retry)


def diagnose(config: Config, context: TaskContext) -> Iterator[Finding]:
    """Yield what a doctor finds in the whole set-up, here and at each replica."""
    note = f"; {config.note}" if config.note else ""
    yield Finding("configuration", ok=True, detail=f"from {config.origin}{note}")
    yield from check_local(tuple(backup_request(config, name) for name in config.sources), context)
    for name in config.replicas:
        yield from check_replica(replication_request(config, name), partial(_open, config, name, context), context)
    if config.drill.checks_app:
        yield from check_drill_setup(drill_request(config, config.drill.source or next(iter(config.sources))))
    if config.notify.urls:
        yield from examine_messages(next(iter(config.sources)), context)
    if config.pings:
        yield from examine_pings(monitors(config), context)


def _refuse_local_store(name: str, directory: Path, backups_dir: Path) -> None:
    """Raise ConfigError where a replica is a directory that a backupd keeps its backups in, by way of links as well."""
    whose = ""
    with suppress(OSError):  # what cannot be looked at is told of where it is used
        if (directory / HIDDEN / OWN_IDENTITY).exists():
            whose = "where another backupd keeps its backups"
    with suppress(OSError):
        if directory.samefile(backups_dir):
            whose = "the directory of the backups itself"
    if whose:
        hint = "give it a directory of its own, on another disk"
        raise ConfigError(f"replicas.{name} leads to {directory}, {whose}", hint)


def _open(config: Config, name: str, context: TaskContext) -> AbstractContextManager[Replica]:
    return connecting(config, name, context)()


def pins_of(config: Config, name: str) -> PinnedKeys:
    """Return the host keys that are pinned for replica `name`. Raises ConfigError."""
    replica = config.replicas[name]
    return PinnedKeys.read(name, replica.host_key, replica.known_hosts)


def credentials_of(config: Config, name: str, address: SftpAddress) -> Credentials:
    """Return whom to log in as. Raises ConfigError when nobody is named."""
    replica = config.replicas[name]
    username = replica.username or address.username
    if not username:
        raise ConfigError(f"replicas.{name} names no user", "set username, or write sftp://USER@HOST/PATH")
    secrets = (replica.password, replica.private_key, replica.passphrase)
    return Credentials(username, *(secret.get_secret_value() if secret else None for secret in secrets))


@contextmanager
def _mirror(name: str, address: DirectoryAddress, context: TaskContext) -> Iterator[Replica]:
    yield DirectoryReplica(name, address.path, context.progress.advance)


@contextmanager
def _over_sftp(
    name: str,
    address: SftpAddress,
    pins: PinnedKeys,
    credentials: Credentials,
    verified: VerifiedParts,
    context: TaskContext,
) -> Iterator[Replica]:
    with (
        connection_errors(address.where),
        SftpConnection.open(address.host, address.port, pins, credentials, Timeouts()) as connection,
    ):
        yield SftpStore(name, address.path, context.identity, connection, verified)
