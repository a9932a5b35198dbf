"""Replicas for tests: real connections to servers of this machine, whose files lie in a directory of this machine."""

import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Protocol

from backupd.archive.manifest import decode_manifest
from backupd.errors import ReplicaUnreachable
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX
from backupd.report import ReplicationDetails, RunReport
from backupd.retention import RetentionPolicy
from backupd.stores.contract import Replica
from backupd.stores.sftp.auth import Credentials
from backupd.stores.sftp.connection import SftpConnection, Timeouts, connection_errors
from backupd.stores.sftp.host_keys import PinnedKeys
from backupd.stores.sftp.store import SftpStore
from backupd.stores.sftp.upload import RemoteHash, VerifiedParts
from backupd.tasks.context import TaskContext
from backupd.tasks.events import CopyForgotten
from backupd.tasks.replica import Connect, Retry, T, once
from backupd.tasks.replicate import replicate
from backupd.tasks.requests import ReplicationRequest, RetentionRule

SENDER = "0123456789abcdef"
SHORT_TIMEOUTS = Timeouts(connect_s=10, stall_s=5)
REPLICATE_ALL = ReplicationRequest("there", RetentionRule(RetentionPolicy(daily=30)), ("tasks",))


class Target(Protocol):
    """A server that can be sent to."""

    user: str
    port: int

    @property
    def key(self) -> Path: ...

    def host_key(self) -> str: ...


@contextmanager
def sftp_connection(
    target: Target, port: int, timeouts: Timeouts = SHORT_TIMEOUTS, password: str | None = None
) -> Iterator[SftpConnection]:
    """Lend a connection to a running server, by way of `port`; logs in by key, or by `password`."""
    pins = PinnedKeys.read("there", target.host_key(), None)
    credentials = Credentials(target.user, password, None if password else target.key.read_text())
    with SftpConnection.open("127.0.0.1", port, pins, credentials, timeouts) as connection:
        yield connection


@contextmanager
def connected(
    target: Target,
    path: Path | str,
    port: int | None = None,
    verified: VerifiedParts | None = None,
    timeouts: Timeouts = SHORT_TIMEOUTS,
    sender: Callable[[], str] = lambda: SENDER,
    password: str | None = None,
) -> Iterator[SftpStore]:
    """Lend the store in `path` of a running server, by way of `port` where that is another one."""
    with (
        connection_errors("the replica"),
        sftp_connection(target, port or target.port, timeouts, password) as connection,
    ):
        yield SftpStore("there", str(path), sender, connection, verified)


def over_sftp(
    target: Target,
    path: Path | str,
    context: TaskContext,
    port: int | None = None,
    timeouts: Timeouts = SHORT_TIMEOUTS,
    remote_hash: RemoteHash | None = None,
) -> Connect:
    """Return what connects to the store in `path`, as replication is given it."""
    verified = VerifiedParts(None, remote_hash)

    def connect() -> AbstractContextManager[Replica]:
        return connected(target, path, port, verified, timeouts, context.identity)

    return connect


def retrying(times: int, between: Callable[[], None] = lambda: None) -> Retry:
    """Return what tries so often, without waiting, and does something `between`."""

    def retry(do: Callable[[], T], /) -> T:
        for _ in range(times - 1):
            try:
                return do()
            except ReplicaUnreachable:
                between()
        return do()

    return retry


def replicate_to(
    connect: Connect,
    context: TaskContext,
    retry: Retry = once,
    order: ReplicationRequest = REPLICATE_ALL,
) -> RunReport[ReplicationDetails]:
    """Replicate now, and return the report."""
    return replicate(order, connect, retry, context)


def empty_replica(files: Path, *contexts: TaskContext) -> None:
    """Remove all that was sent to `files`, and let the catalogs forget it: else the next replication misses it."""
    for path in files.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for context in contexts:
        for generation in context.ask_catalog(lambda catalog: catalog.sent("there"), frozenset[str]()):
            context.emit(CopyForgotten(generation, "there"))


def incompressible_database(path: Path, size_bytes: int) -> None:
    """Make a database that does not compress."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE noise(id INTEGER PRIMARY KEY, data BLOB)")
        connection.execute("INSERT INTO noise(data) VALUES (?)", (os.urandom(size_bytes),))
        connection.commit()


def complete_generations(files: Path) -> set[str]:
    """Return the ids of the generations in `files`; fails unless each is private and what its manifest says."""
    found = set()
    for path in files.glob(f"*{MANIFEST_SUFFIX}"):
        key = path.name.removesuffix(MANIFEST_SUFFIX)
        archive = files / f"{key}{ARCHIVE_SUFFIX}"
        manifest = decode_manifest(path.read_bytes(), key)
        assert hashlib.sha256(archive.read_bytes()).hexdigest() == manifest.archive.sha256
        assert {stat.S_IMODE(each.stat().st_mode) for each in (path, archive)} == {0o600}
        found.add(key)
    return found


def only_complete_generations(files: Path, context: TaskContext) -> set[str]:
    """Return what `complete` does; fails as well when an archive without a manifest is not that of the local store."""
    for archive in files.glob(f"*{ARCHIVE_SUFFIX}"):
        assert archive.read_bytes() == (context.store.directory / archive.name).read_bytes()
    return complete_generations(files)


def assert_checksums(files: Path) -> None:
    """Let the real sha256sum check what is there, all of it."""
    done = subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=files, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(list(files.glob("*.gz")))
