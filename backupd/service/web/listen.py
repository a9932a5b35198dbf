"""Sockets that listen, or a clear word why there are none."""

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from backupd.errors import BackupdError

_Address = tuple[Any, ...]

_HINTS = {
    errno.EADDRINUSE: "another program, or another backupd, has that port: choose another with BACKUPD_HTTP__LISTEN",
    errno.EADDRNOTAVAIL: "this host has no such address: BACKUPD_HTTP__LISTEN=0.0.0.0:8080 listens on all there are",
    errno.EACCES: "ports below 1024 are for root: choose another with BACKUPD_HTTP__LISTEN",
}
_HINT = "check BACKUPD_HTTP__LISTEN (HOST:PORT)"


def listening_sockets(listen: str, backlog: int) -> list[socket.socket]:
    """Listen on every address that the host of `listen` (HOST:PORT) has, on one port. Raises BackupdError."""
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or None,
            int(port),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV,
        )
    except (OSError, ValueError) as error:
        raise BackupdError(f"cannot listen on {listen}: {error}", _HINT) from None
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    try:
        return _all_listening(addresses, backlog)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise BackupdError(f"cannot listen on {listen}: {reason}", _HINTS.get(error.errno or 0, _HINT)) from None


def _all_listening(addresses: Sequence[tuple[socket.AddressFamily, _Address]], backlog: int) -> list[socket.socket]:
    with ExitStack() as on_error:
        sockets: list[socket.socket] = []
        for family, address in addresses:
            chosen = sockets[0].getsockname()[1] if sockets else address[1]
            one = on_error.enter_context(socket.socket(family, socket.SOCK_STREAM))
            _listen(one, (address[0], chosen, *address[2:]), backlog, alone=len(addresses) == 1)
            sockets.append(one)
        on_error.pop_all()
        return sockets


def _listen(one: socket.socket, address: _Address, backlog: int, *, alone: bool) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was ours a moment ago is free
    if one.family == socket.AF_INET6:
        # [::] alone means IPv4 as well, whatever net.ipv6.bindv6only says; beside 0.0.0.0 it must not.
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not alone)
    one.bind(address)
    one.setblocking(False)  # noqa: FBT003 - it takes no keyword
    one.listen(backlog)
