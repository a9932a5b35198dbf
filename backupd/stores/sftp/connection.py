"""One SSH connection to a replica and its SFTP channels; a lost connection raises ReplicaUnreachable."""

import errno
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

from paramiko import Channel, SFTPClient, SSHException, Transport
from paramiko.sftp import SFTPError

from backupd.errors import BackupdError, ReplicaFailed, ReplicaUnreachable
from backupd.formatting import one_line
from backupd.stores.sftp.auth import Credentials, log_in
from backupd.stores.sftp.handshake import shake_hands
from backupd.stores.sftp.host_keys import PinnedKeys
from backupd.stores.sftp.paramiko_internals import NamingClient, ObservedTransport, ProtocolViolated
from backupd.stores.sftp.protocol import PACKET_BYTES, WINDOW_BYTES, Limits, find_limits
from backupd.system.resources import tune_malloc

CHANNELS: Final = 4  # each has its own window at the server: more is in flight on a line with high latency
_LOW_LATENCY_S: Final = 0.01  # one channel's window of 2 MiB then carries 200 MB/s, and more channels are slower
_HIGH_LATENCY_S: Final = 0.05  # no host is so busy that its fastest response takes that long
_LATENCY_SAMPLES: Final = 5
_SLOWEST_BYTES_S: Final = 32 << 10
_NETWORK_ERRORS: Final = frozenset(
    (errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ETIMEDOUT, errno.EBADF)
)

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # else its threads print tracebacks to standard error


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait: to connect and for each step of a login, for the next bytes, and for an operation as a whole.

    An operation may take longer by what its bytes take on the slowest line that is worth waiting for.
    """

    connect_s: float = 20.0
    stall_s: float = 60.0
    operation_s: float = 300.0

    def limit_s(self, moved_bytes: int) -> float:
        """Return the seconds that an operation may take that moves so many bytes."""
        return self.operation_s + moved_bytes / _SLOWEST_BYTES_S


class SftpConnection:
    """A connection whose host key was pinned and whose login succeeded.

    A lost connection raises ReplicaUnreachable, an error of the server OSError.
    """

    def __init__(self, transport: Transport, timeouts: Timeouts) -> None:
        self._transport = transport
        self.timeouts = timeouts
        self.watchdog = Watchdog(transport, timeouts.stall_s)
        self.clients: tuple[SFTPClient, ...] = ()
        self._min_response_s = float("inf")
        self._channel_refused = False  # no more are requested then: a refusal may take long
        self._opening: list[threading.Thread] = []
        self._lock = threading.Lock()

    @classmethod
    @contextmanager
    def open(
        cls, host: str, port: int, pins: PinnedKeys, credentials: Credentials, timeouts: Timeouts
    ) -> Iterator[Self]:
        """Connect, check the host key before anything is sent, log in, and open the first channel; close at the end.

        Raises ReplicaUnreachable, HostKeyRefused, LoginFailed.
        """
        tune_malloc()
        with connection_errors(f"{host}:{port}"):
            transport = ObservedTransport(_connect(host, port, timeouts))
        connection = cls(transport, timeouts)
        try:
            with connection_errors(f"{host}:{port}"), connection.operation():
                _check_host_key(transport, host, port, pins, timeouts)
                log_in(transport, credentials)
                connection.clients = (connection._open_client(),)
            yield connection
        finally:
            connection.watchdog.close()

    def operation(self, moved_bytes: int = 0) -> "Operation":
        """Return the time for an operation that moves `moved_bytes`, as a context manager."""
        return Operation(self.watchdog, self.timeouts.limit_s(moved_bytes))

    @property
    def client(self) -> SFTPClient:
        """The first channel."""
        return self.clients[0]

    @property
    def is_active(self) -> bool:
        """Whether it is not known to be lost."""
        return self._transport.is_active()

    @property
    def has_low_latency(self) -> bool:
        """Whether a response takes little time: the fastest of several, since a busy host is not a distant one."""
        return self._min_response_s < _LOW_LATENCY_S

    @cached_property
    def _limits(self) -> Limits:
        for _ in range(_LATENCY_SAMPLES):
            with self._timed():
                found = find_limits(self.client)
            if not _LOW_LATENCY_S <= self._min_response_s < _HIGH_LATENCY_S:
                break
        return found

    @property
    def block_bytes(self) -> int:
        """The largest block that the server reads and writes at once; the first use measures the latency on the way."""
        return self._limits.block_bytes

    @property
    def open_files(self) -> int:
        """How many files a channel may have open."""
        return self._limits.open_files

    def open_channels(self, wanted: int, *, near: bool = False) -> None:
        """Begin to open channels up to `wanted`, at most CHANNELS; with low latency only if they are faster `near` too.

        They open in the background and at the same time: each takes several round trips.
        """
        self.block_bytes  # noqa: B018 - it measures the latency
        wanted = min(wanted, CHANNELS) if near or not self.has_low_latency else 1
        for _ in range(0 if self._channel_refused else wanted - len(self.clients) - len(self._opening)):
            thread = threading.Thread(target=self._add_client, name="sftp-channel", daemon=True)
            self._opening.append(thread)
            thread.start()

    def channels(self, wanted: int) -> tuple[SFTPClient, ...]:
        """Return `wanted` channels, or as many as `open_channels` could open."""
        while self._opening:
            self._opening.pop().join()
        return self.clients[:wanted]

    def open_session(self) -> Channel:
        """Open one more channel, for any purpose. Raises SSHException."""
        with self._timed():
            return self._transport.open_session(WINDOW_BYTES, PACKET_BYTES, timeout=self.timeouts.connect_s)

    def _open_client(self) -> SFTPClient:
        channel = self.open_session()
        channel.settimeout(self.timeouts.stall_s)
        with self.watchdog.watching():  # paramiko waits without limit for the response
            channel.invoke_subsystem("sftp")
        with self._timed():
            return NamingClient(channel)

    def _add_client(self) -> None:
        try:
            client = self._open_client()
        except (SSHException, EOFError, OSError, SFTPError):
            self._channel_refused = True
        else:
            with self._lock:
                self.clients = (*self.clients, client)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Measure the one response that the block waits for."""
        began = time.monotonic()
        yield
        self._min_response_s = min(self._min_response_s, time.monotonic() - began)


class Operation:
    """The time that an operation may take in all: it runs only inside of `with` blocks, of which there may be several.

    Without it, a server that always responds just before the stall timeout would never end. The connection ends at
    the limit, and the block raises ReplicaUnreachable.
    """

    def __init__(self, watchdog: "Watchdog", limit_s: float) -> None:
        self._watchdog, self._limit_s = watchdog, limit_s
        self._left_s, self._ends_at = limit_s, 0.0

    def __enter__(self) -> None:
        self._ends_at = time.monotonic() + self._left_s
        self._watchdog.limit(self._ends_at)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._left_s = self._ends_at - time.monotonic()
        too_late = self._watchdog.unlimit(self._ends_at)
        if too_late and isinstance(error, SSHException | SFTPError | EOFError | OSError | ReplicaUnreachable):
            what = f"the server is too slow: an operation took longer than {self._limit_s:.0f} s"
            raise ReplicaUnreachable(what, "check the network, and the load of that host") from error


class Watchdog:
    """Closes a transport on which nothing moves, or too slowly: paramiko's own timeouts are for single responses."""

    def __init__(self, transport: Transport, stall_s: float) -> None:
        self._transport, self._stall_s = transport, stall_s
        self._reset_at = 0.0
        self._blocks = 0  # that must move something
        self._limits: list[float] = []  # when blocks must have ended
        self._thread: threading.Thread | None = None
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def reset(self) -> None:
        """Note that something moved."""
        self._reset_at = time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[Self]:
        """Close the transport when the block runs longer than `stall_s` without a call of `reset()`.

        It is closed as well when this process is told to stop, which would wait for a slow transfer otherwise.
        """
        with self._lock:
            self.reset()
            self._blocks += 1
            self._start()
        try:
            yield self
        except (KeyboardInterrupt, SystemExit):
            self.close()
            raise
        finally:
            with self._lock:
                self._blocks -= 1

    def limit(self, ends_at: float) -> None:
        """Close the transport at `ends_at` (monotonic), unless `unlimit` is called before."""
        with self._lock:
            self._limits.append(ends_at)
            self._start()

    def unlimit(self, ends_at: float) -> bool:
        """Undo `limit`; returns whether the transport was closed at the limit."""
        with self._lock:
            self._limits.remove(ends_at)
        return ends_at < time.monotonic() and not self._transport.is_active()

    def close(self) -> None:
        """End the thread, and close the transport without waiting for the server."""
        self._stopped.set()
        with suppress(Exception):  # errors of a lost connection
            self._transport.close()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="sftp-watchdog", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._stall_s / 4)):
            now = time.monotonic()
            with self._lock:
                ends_at = min(self._limits, default=now)
                expired = ends_at < now or (self._blocks and now - self._reset_at > self._stall_s)
            if expired:
                self._transport.close()
                return


@contextmanager
def connection_errors(where: str) -> Iterator[None]:
    """Turn errors of the network into ReplicaUnreachable; errors of the server stay OSError."""
    try:
        yield
    except BackupdError:
        raise
    except (ProtocolViolated, UnicodeDecodeError, struct.error) as error:
        why = str(error) if isinstance(error, ProtocolViolated) else type(error).__name__
        what = f"{where} violates the protocol: {why}"
        raise ReplicaFailed(what, "check which server answers at that port") from error
    except (SSHException, SFTPError, EOFError, ConnectionError, TimeoutError, socket.gaierror) as error:
        raise ReplicaUnreachable(
            f"the connection to {where} failed: {one_line(str(error)) or type(error).__name__}",
            "backupd tries again; if it keeps failing, check the host, its port, and the network between",
        ) from error
    except OSError as error:
        if str(error) == "Socket is closed" or error.errno in _NETWORK_ERRORS:
            raise ReplicaUnreachable(
                f"the connection to {where} was lost: {one_line(str(error))}",
                "backupd tries again; if it keeps failing, check the network",
            ) from error
        raise


def _connect(host: str, port: int, timeouts: Timeouts) -> socket.socket:
    """Return a TCP connection that detects a dead peer: by TCP_USER_TIMEOUT (RFC 5482), and by keepalives when idle."""
    connection = socket.create_connection((host, port), timeout=timeouts.connect_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeouts.stall_s * 1000))
    return connection


def _check_host_key(transport: ObservedTransport, host: str, port: int, pins: PinnedKeys, timeouts: Timeouts) -> None:
    options = transport.get_security_options()
    pinned = [algorithm for algorithm in pins.algorithms(host, port) if algorithm in options.key_types]
    options.key_types = (*pinned, *(algorithm for algorithm in options.key_types if algorithm not in pinned))
    transport.auth_timeout = transport.channel_timeout = timeouts.connect_s
    pins.check(host, port, shake_hands(transport, host, port, timeouts.connect_s))
