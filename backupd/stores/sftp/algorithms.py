"""Which algorithms a server offers, which this client has, and what it means where none is common to both."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backupd.errors import ServerIncompatible, ServerTooOld
from backupd.formatting import one_line
from backupd.stores.sftp.paramiko_internals import ObservedTransport

# Measured (docs/performance.md): AES-GCM runs in hardware and needs no separate checksum. CBC is left out.
CIPHERS: Final = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr", "aes192-ctr")
_SHOWN: Final = 12
_NO_ALGORITHM: Final = re.compile(r"ext-info-.*|kex-strict-.*|")


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of algorithm: how it is called, the fields of KEXINIT that list it (RFC 4253 §7.1), and what is unsafe.

    `unsafe` matches the names that can be broken or forged today; `directive` is sshd_config's.
    """

    name: str
    fields: tuple[str, ...]
    unsafe: re.Pattern[str]
    directive: str


_KINDS: Final = (
    _Kind("key exchange", ("kex_algo_list",), re.compile(r".*-sha1(?:-.*)?"), "KexAlgorithms"),
    _Kind(
        "host key",
        ("server_key_algo_list",),
        re.compile(r"ssh-(?:rsa|dss)(?:-cert-.*)?"),
        "HostKeyAlgorithms",
    ),
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


def nothing_in_common(where: str, transport: ObservedTransport) -> ServerIncompatible:
    """Return what to raise where the negotiation with the server at `where` found no common algorithm.

    ServerTooOld where it offers nothing but what is unsafe, else ServerIncompatible: it may well be newer.
    """
    options = transport.get_security_options()
    ours = dict(zip(_KINDS, (options.kex, options.key_types, options.ciphers, options.digests), strict=True))
    for kind in _KINDS:
        for field in kind.fields:
            offered = [name for name in transport.offered.get(field, ()) if not _NO_ALGORITHM.fullmatch(name)]
            if not set(offered).intersection(ours[kind]):
                return _refusal(where, kind, offered, ours[kind])
    return ServerIncompatible(f"{where} and backupd have no algorithm in common", "look at the server's log")


def _refusal(where: str, kind: _Kind, offered: Sequence[str], ours: Sequence[str]) -> ServerIncompatible:
    has = f"it offers {_listed(offered)}; backupd has {_listed(ours)}"
    if offered and all(kind.unsafe.fullmatch(name) for name in offered):
        hint = "update the server" + (
            ", or make an ed25519 host key there (`ssh-keygen -A`)" if kind.name == "host key" else ""
        )
        return ServerTooOld(f"{where} has no {kind.name} algorithm that is still safe: {has}", hint)
    hint = f"allow one that backupd has there, beside the others ({kind.directive} in sshd_config)"
    if kind.name == "host key":
        hint += ", or make such a host key (`ssh-keygen -A`)"
    return ServerIncompatible(f"{where} has no {kind.name} algorithm that backupd has: {has}", hint)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return one_line(", ".join(names[:_SHOWN]) or "none") + more
