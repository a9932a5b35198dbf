"""The SSH handshake: algorithms, the host key of a server, and errors where no algorithm is common."""

import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from paramiko import PKey, SSHException
from paramiko.ssh_exception import IncompatiblePeer

from backupd.errors import ReplicaUnreachable, ServerIncompatible, ServerTooOld
from backupd.formatting import one_line
from backupd.stores.sftp.host_keys import ALGORITHMS
from backupd.stores.sftp.paramiko_internals import ObservedTransport
from backupd.stores.sftp.url import host_and_port

EVERY_ALGORITHM: Final = tuple(algorithm for algorithms in ALGORITHMS.values() for algorithm in algorithms)
# Measured (docs/performance.md): AES-GCM runs in hardware and needs no separate checksum. CBC is left out.
_CIPHERS: Final = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr", "aes192-ctr")
_NO_BANNER: Final = "Error reading SSH protocol banner"  # paramiko, for silence and for a lost connection
_TRY_AGAIN: Final = "check the host, its port and the network between, then try again"
_MAX_LISTED: Final = 12
_NOT_AN_ALGORITHM: Final = re.compile(r"ext-info-.*|kex-strict-.*|")


@dataclass(frozen=True, slots=True)
class OfferedHostKeys:
    """The host keys that a server presented, the preferred types first."""

    keys: tuple[PKey, ...]
    missing: tuple[str, ...] = ()
    """Types that could not be asked for, because of `problem`."""
    problem: ReplicaUnreachable | None = None


def shake_hands(transport: ObservedTransport, host: str, port: int, timeout_s: float) -> PKey:
    """Negotiate within `timeout_s` seconds and return the server's host key, which the caller has to check.

    Raises ReplicaUnreachable, and ServerIncompatible where no safe algorithm is common to both.
    """
    where = host_and_port(host, port)
    transport.get_security_options().ciphers = _CIPHERS
    transport.banner_timeout = transport.handshake_timeout = timeout_s
    give_up_at = time.monotonic() + timeout_s
    problem = ""
    try:
        transport.start_client(timeout=timeout_s)
        if transport.initial_kex_done:  # paramiko returns at the timeout as if all were well
            return transport.get_remote_server_key()
    except IncompatiblePeer:
        raise _no_common_algorithm(where, transport) from None
    except (SSHException, EOFError, OSError) as error:
        if not isinstance(error, ConnectionError) and not str(error).startswith(_NO_BANNER):
            problem = one_line(str(error))
    if time.monotonic() >= give_up_at:
        raise ReplicaUnreachable(f"{where} did not negotiate within {timeout_s:g} s", _TRY_AGAIN)
    if not problem:
        raise ReplicaUnreachable(f"{where} closed the connection before it sent a host key", _TRY_AGAIN)
    raise ReplicaUnreachable(f"{where} answers, but not as an SSH server: {problem}", _TRY_AGAIN)


def fetch_host_keys(host: str, port: int, timeout_s: float) -> OfferedHostKeys:
    """Ask a server for each of its host keys, one connection per key, without logging in.

    Nothing verifies that it is the right server. Returns the keys received before a later connection failed. Raises
    ReplicaUnreachable when there is no key within `timeout_s` seconds (name resolution not included),
    ServerIncompatible.
    """
    deadline = time.monotonic() + timeout_s
    found: list[PKey] = []
    wanted: Sequence[str] = EVERY_ALGORITHM
    while wanted:
        try:
            key = _fetch_host_key(host, port, wanted, max(0.1, deadline - time.monotonic()))
        except ServerIncompatible:
            if found:  # the server has no keys of the remaining types
                break
            raise
        except ReplicaUnreachable as problem:  # it may refuse many connections at once (MaxStartups, fail2ban)
            if found:
                types = tuple(kind for kind, algorithms in ALGORITHMS.items() if set(algorithms).intersection(wanted))
                return OfferedHostKeys(tuple(found), types, problem)
            raise
        remaining = tuple(algorithm for algorithm in wanted if algorithm not in ALGORITHMS.get(key.get_name(), ()))
        if remaining == wanted:
            where = host_and_port(host, port)
            raise ReplicaUnreachable(f"{where} sent a host key of another type than the agreed one", _TRY_AGAIN)
        found.append(key)
        wanted = remaining
    return OfferedHostKeys(tuple(found))


def _fetch_host_key(host: str, port: int, algorithms: Sequence[str], timeout_s: float) -> PKey:
    deadline = time.monotonic() + timeout_s
    try:
        connection = socket.create_connection((host, port), timeout=timeout_s)
    except OSError as error:
        why = f"no connection within {timeout_s:g} s" if isinstance(error, TimeoutError) else error.strerror or error
        raise ReplicaUnreachable(f"{host_and_port(host, port)} cannot be reached: {why}", _TRY_AGAIN) from error
    with connection:
        transport = ObservedTransport(connection)
        try:
            transport.get_security_options().key_types = algorithms
            return shake_hands(transport, host, port, max(0.1, deadline - time.monotonic()))
        finally:
            transport.close()


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of algorithm."""

    name: str
    fields: tuple[str, ...]  # of KEXINIT that list it (RFC 4253 §7.1)
    unsafe: re.Pattern[str]  # the names that can be broken or forged today
    directive: str  # of sshd_config


_KINDS: Final = (
    _Kind("key exchange", ("kex_algo_list",), re.compile(r".*-sha1(?:-.*)?"), "KexAlgorithms"),
    _Kind("host key", ("server_key_algo_list",), re.compile(r"ssh-(?:rsa|dss)(?:-cert-.*)?"), "HostKeyAlgorithms"),
    _Kind(
        "cipher",
        ("client_encrypt_algo_list", "server_encrypt_algo_list"),
        re.compile(r".*-cbc(?:@.*)?|arcfour.*|3des-.*|blowfish-.*|cast128-.*|des.*|none"),
        "Ciphers",
    ),
    _Kind(
        "MAC",
        ("client_mac_algo_list", "server_mac_algo_list"),
        re.compile(r"hmac-(?:md5|sha1|ripemd160).*|umac-64.*|none"),
        "MACs",
    ),
)


def _no_common_algorithm(where: str, transport: ObservedTransport) -> ServerIncompatible:
    """Return the error for a failed negotiation: ServerTooOld where all that the server offers is unsafe."""
    options = transport.get_security_options()
    supported = dict(zip(_KINDS, (options.kex, options.key_types, options.ciphers, options.digests), strict=True))
    for kind in _KINDS:
        for field in kind.fields:
            offered = [name for name in transport.offered.get(field, ()) if not _NOT_AN_ALGORITHM.fullmatch(name)]
            if not set(offered).intersection(supported[kind]):
                return _incompatible(where, kind, offered, supported[kind])
    return ServerIncompatible(f"{where} and backupd have no algorithm in common", "see the server's log")


def _incompatible(where: str, kind: _Kind, offered: Sequence[str], supported: Sequence[str]) -> ServerIncompatible:
    lists = f"it offers {_listed(offered)}; backupd supports {_listed(supported)}"
    if offered and all(kind.unsafe.fullmatch(name) for name in offered):
        hint = "update the server" + (
            ", or make an ed25519 host key (`ssh-keygen -A`)" if kind.name == "host key" else ""
        )
        return ServerTooOld(f"{where} offers no safe {kind.name} algorithm: {lists}", hint)
    hint = f"allow one that backupd supports on the server ({kind.directive} in sshd_config)"
    if kind.name == "host key":
        hint += ", or make such a host key (`ssh-keygen -A`)"
    return ServerIncompatible(f"{where} offers no {kind.name} algorithm that backupd supports: {lists}", hint)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return one_line(", ".join(names[:_MAX_LISTED]) or "none") + more
