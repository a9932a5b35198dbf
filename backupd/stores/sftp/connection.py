"""One SSH connection to a replica, and the SFTP channels in it; what is lost with it may be tried again."""

import errno
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

from paramiko import Channel, PKey, SFTPClient, SSHException, Transport
from paramiko.sftp import SFTPError
from paramiko.ssh_exception import IncompatiblePeer

from backupd.errors import BackupdError, ReplicaFailed, ReplicaUnreachable, ServerIncompatible
from backupd.formatting import printable
from backupd.stores.sftp.algorithms import CIPHERS, nothing_in_common
from backupd.stores.sftp.auth import Credentials, log_in
from backupd.stores.sftp.client import NamingClient
from backupd.stores.sftp.host_keys import ALGORITHMS, PinnedKeys
from backupd.stores.sftp.paramiko_internals import ObservedTransport
from backupd.stores.sftp.protocol import PACKET_BYTES, WINDOW_BYTES, block_bytes
from backupd.stores.sftp.url import host_and_port
from backupd.system.resources import tune_malloc

EVERY_TYPE: Final = tuple(algorithm for algorithms in ALGORITHMS.values() for algorithm in algorithms)
_NO_BANNER: Final = "Error reading SSH protocol banner"  # paramiko, of a silence and of a lost connection
_TRY_AGAIN: Final = "check the host, its port and the network between; it is worth trying again"


@dataclass(frozen=True, slots=True)
class OfferedHostKeys:
    """The host keys that a server has shown, the preferred types first; `missing` types could not be asked for.

    `problem` says why they could not.
    """

    keys: tuple[PKey, ...]
    missing: tuple[str, ...] = ()
    problem: ReplicaUnreachable | None = None


logging.getLogger("paramiko").addHandler(logging.NullHandler())  # else tracebacks of its threads go to standard error
_NETWORK_ERRORS: Final = frozenset(
    (errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ETIMEDOUT, errno.EBADF)
)
_NEAR_S: Final = 0.01  # one channel's window of 2 MiB then carries 200 MB/s, and more channels only cost
_FAR_S: Final = 0.05  # nor is any host so busy that its quickest answer takes that long
_LOOKS: Final = 5
CHANNELS: Final = 4  # each has a window of its own at the server: so much more is on the way over a long line


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for a connection to stand, for any sign of life in the middle of a transfer."""

    connect_s: float = 20.0
    stall_s: float = 60.0


class SftpConnection:
    """A connection whose host key was pinned and whose login succeeded; closes at the end of its block.

    Whatever the network does to it raises ReplicaUnreachable; what the server refuses is OSError.
    """

    def __init__(self, transport: Transport, patience: Patience) -> None:
        self._transport = transport
        self._patience = patience
        self._watchdog = _Watchdog(transport, patience.stall_s)
        self.clients: tuple[SFTPClient, ...] = ()
        self._quickest_s = float("inf")
        self._has_all = False  # that the server grants: it is not asked again, for a refusal may take long
        self._opening: list[threading.Thread] = []
        self._lock = threading.Lock()

    @classmethod
    @contextmanager
    def to(cls, host: str, port: int, pins: PinnedKeys, credentials: Credentials, patience: Patience) -> Iterator[Self]:
        """Connect, check the host key before anything is told, log in, and open the first channel.

        Raises ReplicaUnreachable, HostKeyRefused, LoginFailed.
        """
        tune_malloc()
        with connection_errors(f"{host}:{port}"):
            transport = ObservedTransport(_connect(host, port, patience))
        link = cls(transport, patience)
        try:
            with connection_errors(f"{host}:{port}"):
                _negotiate(transport, host, port, pins, patience)
                log_in(transport, credentials)
                link.clients = (link._open(),)
            yield link
        finally:
            link.close()

    @property
    def client(self) -> SFTPClient:
        """The channel for all that is small."""
        return self.clients[0]

    @property
    def is_near(self) -> bool:
        """Whether an answer comes soon; the quickest of several tells, since a host that is busy is not far."""
        return self._quickest_s < _NEAR_S

    @cached_property
    def block_bytes(self) -> int:
        """The largest block that the server reads and writes at once; asked again where a near host may be busy."""
        for _ in range(_LOOKS):
            with self._timed():
                found = block_bytes(self.client)
            if not _NEAR_S <= self._quickest_s < _FAR_S:
                break
        return found

    def widen(self, wanted: int) -> None:
        """Begin to open channels up to `wanted`, at most CHANNELS; where the host is near, one is enough.

        They are opened at the same time, and while other things are done: each takes several round trips.
        """
        self.block_bytes  # noqa: B018 - its answer tells whether the host is near
        wanted = 1 if self.is_near else min(wanted, CHANNELS)
        for _ in range(0 if self._has_all else wanted - len(self.clients) - len(self._opening)):
            thread = threading.Thread(target=self._add_channel, name="sftp-channel", daemon=True)
            self._opening.append(thread)
            thread.start()

    def channels(self, wanted: int) -> tuple[SFTPClient, ...]:
        """Return so many channels, or as many as `widen` could open."""
        while self._opening:
            self._opening.pop().join()
        return self.clients[:wanted]

    @contextmanager
    def watched(self) -> Iterator["_Watchdog"]:
        """Cut the connection when nothing moves in the block for longer than `stall_s`; `alive()` says that it does.

        It is cut as well when this process is to end: what is on its way over a slow line would be waited for.
        """
        with self._watchdog.watching():
            try:
                yield self._watchdog
            except (KeyboardInterrupt, SystemExit):
                self.close()
                raise

    def close(self) -> None:
        """Close everything; a peer that does not answer is not waited for."""
        self._watchdog.stop()
        with suppress(Exception):  # what a broken connection says at its end helps nobody
            self._transport.close()

    def session(self) -> Channel:
        """Open one more channel, for anything. Raises SSHException."""
        with self._timed():
            return self._transport.open_session(WINDOW_BYTES, PACKET_BYTES, timeout=self._patience.connect_s)

    def _open(self) -> SFTPClient:
        channel = self.session()
        channel.settimeout(self._patience.stall_s)
        with self.watched():  # paramiko waits for ever for a yes or a no
            channel.invoke_subsystem("sftp")
        with self._timed():
            return NamingClient(channel)

    def _add_channel(self) -> None:
        try:
            client = self._open()
        except (SSHException, EOFError, OSError, SFTPError):
            self._has_all = True
        else:
            with self._lock:
                self.clients = (*self.clients, client)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Note how long the one answer that the block waits for takes."""
        began = time.monotonic()
        yield
        self._quickest_s = min(self._quickest_s, time.monotonic() - began)


class _Watchdog:
    """Closes a transport whose peer stays silent: paramiko's own timeouts do not cover a write that stalls."""

    def __init__(self, transport: Transport, stall_s: float) -> None:
        self._transport, self._stall_s = transport, stall_s
        self._moved_at = 0.0
        self._watched = 0  # blocks that run
        self._thread: threading.Thread | None = None
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def alive(self) -> None:
        """Say that something moved."""
        self._moved_at = time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs."""
        with self._lock:
            self.alive()
            self._watched += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="sftp-watchdog", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched -= 1

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._stall_s / 4)):
            if self._watched and time.monotonic() - self._moved_at > self._stall_s:
                self._transport.close()
                return


@contextmanager
def connection_errors(where: str) -> Iterator[None]:
    """Turn what the network does to a connection into ReplicaUnreachable; what the server refuses stays OSError."""
    try:
        yield
    except BackupdError:
        raise
    except (SSHException, SFTPError, EOFError, ConnectionError, TimeoutError, socket.gaierror) as error:
        raise ReplicaUnreachable(
            f"the connection to {where} failed: {str(error) or type(error).__name__}",
            "it is tried again; if it stays so: check the host, its port, and the network between",
        ) from error
    except (UnicodeDecodeError, struct.error) as error:
        what = f"{where} does not keep to the protocol: {type(error).__name__}"
        raise ReplicaFailed(what, "look at what answers at that port") from error
    except OSError as error:
        if str(error) == "Socket is closed" or error.errno in _NETWORK_ERRORS:
            raise ReplicaUnreachable(
                f"the connection to {where} was lost: {error}", "it is tried again: check the network if it stays so"
            ) from error
        raise


def _connect(host: str, port: int, patience: Patience) -> socket.socket:
    """Return a TCP connection that notices a dead peer: by TCP_USER_TIMEOUT (RFC 5482), and keepalives when silent."""
    connection = socket.create_connection((host, port), timeout=patience.connect_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(patience.stall_s * 1000))
    return connection


def _negotiate(transport: ObservedTransport, host: str, port: int, pins: PinnedKeys, patience: Patience) -> None:
    options = transport.get_security_options()
    types = [kind for kind in pins.types(host, port) if kind in options.key_types]
    options.key_types = (*types, *(kind for kind in options.key_types if kind not in types))
    transport.auth_timeout = transport.channel_timeout = patience.connect_s
    pins.check(host, port, shake_hands(transport, host, port, patience.connect_s))


def shake_hands(transport: ObservedTransport, host: str, port: int, timeout_s: float) -> PKey:
    """Negotiate within `timeout_s` seconds and return the key that the server shows, which nobody has checked yet.

    Raises ReplicaUnreachable, and ServerIncompatible where nothing that is safe is common to both.
    """
    where = host_and_port(host, port)
    transport.get_security_options().ciphers = CIPHERS
    transport.banner_timeout = transport.handshake_timeout = timeout_s
    give_up_at = time.monotonic() + timeout_s
    try:
        transport.start_client(timeout=timeout_s)
        if transport.initial_kex_done:  # paramiko returns at the timeout as if all were well
            return transport.get_remote_server_key()
        told = ""
    except IncompatiblePeer:
        raise nothing_in_common(where, transport) from None
    except (SSHException, EOFError, OSError) as error:
        is_gone = isinstance(error, ConnectionError) or str(error).startswith(_NO_BANNER)
        told = "" if is_gone else printable(str(error))
    if time.monotonic() >= give_up_at:
        raise ReplicaUnreachable(f"{where} did not negotiate within {timeout_s:g} s", _TRY_AGAIN)
    if not told:
        raise ReplicaUnreachable(f"{where} closed the connection before it showed a host key", _TRY_AGAIN)
    raise ReplicaUnreachable(f"{where} answers, but not as an SSH server does: {told}", _TRY_AGAIN)


def fetch_host_keys(host: str, port: int, timeout_s: float) -> OfferedHostKeys:
    """Ask a server for every host key that it has, one connection for each, without logging in.

    Nothing proves that the right server answers. What was received before a later connection failed is returned. Raises
    ReplicaUnreachable when there is no key within `timeout_s` seconds (the name server's time not counted), and
    ServerIncompatible.
    """
    deadline = time.monotonic() + timeout_s
    found: list[PKey] = []
    wanted: Sequence[str] = EVERY_TYPE
    while wanted:
        try:
            key = _fetch(host, port, wanted, max(0.1, deadline - time.monotonic()))
        except ServerIncompatible:
            if found:  # none of the types that are left
                break
            raise
        except ReplicaUnreachable as problem:  # it may refuse many connections at once (MaxStartups, fail2ban)
            if found:
                return OfferedHostKeys(tuple(found), _types(wanted), problem)
            raise
        left = tuple(algorithm for algorithm in wanted if algorithm not in ALGORITHMS.get(key.get_name(), ()))
        if left == wanted:
            where = host_and_port(host, port)
            raise ReplicaUnreachable(f"{where} shows a host key of another type than the agreed one", _TRY_AGAIN)
        found.append(key)
        wanted = left
    return OfferedHostKeys(tuple(found))


def _types(algorithms: Sequence[str]) -> tuple[str, ...]:
    """Return the types of keys that `algorithms` are of."""
    return tuple(kind for kind, its in ALGORITHMS.items() if set(its).intersection(algorithms))


def _fetch(host: str, port: int, wanted: Sequence[str], timeout_s: float) -> PKey:
    deadline = time.monotonic() + timeout_s
    with _connected(host, port, timeout_s) as transport:
        transport.get_security_options().key_types = wanted
        return shake_hands(transport, host, port, max(0.1, deadline - time.monotonic()))


@contextmanager
def _connected(host: str, port: int, timeout_s: float) -> Iterator[ObservedTransport]:
    where = host_and_port(host, port)
    try:
        connection = socket.create_connection((host, port), timeout=timeout_s)
    except OSError as error:
        told = f"no connection within {timeout_s:g} s" if isinstance(error, TimeoutError) else error.strerror or error
        raise ReplicaUnreachable(f"{where} cannot be reached: {told}", _TRY_AGAIN) from error
    with connection:
        transport = ObservedTransport(connection)
        try:
            yield transport
        finally:
            transport.close()
