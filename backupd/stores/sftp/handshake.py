"""The beginning of a connection, up to the host key; before it is checked nothing is told to the other side."""

import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from paramiko import PKey, SSHException
from paramiko.ssh_exception import IncompatiblePeer

from backupd.errors import ReplicaUnreachable, ServerIncompatible
from backupd.stores.sftp.address import host_and_port
from backupd.stores.sftp.algorithms import CIPHERS, nothing_in_common
from backupd.stores.sftp.paramiko_internals import ObservedTransport
from backupd.stores.sftp.publickey import ALGORITHMS
from backupd.text import printable

EVERY_TYPE: Final = tuple(algorithm for algorithms in ALGORITHMS.values() for algorithm in algorithms)
_NO_BANNER: Final = "Error reading SSH protocol banner"  # paramiko, of a silence and of a lost connection
_TRY_AGAIN: Final = "check the host, its port and the network between; it is worth trying again"


@dataclass(frozen=True, slots=True)
class HostKeys:
    """The host keys that a server has shown, the preferred types first; `missing` types could not be asked for.

    `problem` says why they could not.
    """

    keys: tuple[PKey, ...]
    missing: tuple[str, ...] = ()
    problem: ReplicaUnreachable | None = None


logging.getLogger("paramiko").addHandler(logging.NullHandler())  # else tracebacks of its threads go to standard error


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


def fetch_host_keys(host: str, port: int, timeout_s: float) -> HostKeys:
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
                return HostKeys(tuple(found), _types(wanted), problem)
            raise
        left = tuple(algorithm for algorithm in wanted if algorithm not in ALGORITHMS.get(key.get_name(), ()))
        if left == wanted:
            where = host_and_port(host, port)
            raise ReplicaUnreachable(f"{where} shows a host key of another type than the agreed one", _TRY_AGAIN)
        found.append(key)
        wanted = left
    return HostKeys(tuple(found))


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
