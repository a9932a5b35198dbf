"""One connection each: it has ten seconds and 64 KiB in all, and there are never more than so many of them.

When there are too many, one has to go: of strangers rather than of this host (which asks /livez, to decide whether we
live), with no whole request yet rather than one that waits for its answer, and then the oldest. So neither clients that
send nothing nor a flood of them can keep a probe from being answered.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from backupd.service.web.access import is_loopback

LIFETIME_S = 10.0
MOST_CONNECTIONS = 64
MOST_BYTES = 64 << 10


class Connection(H11Protocol):
    """uvicorn's protocol, with limits on its life, on what it listens to, and on the number of its kind."""

    _end: asyncio.TimerHandle
    _began = 0.0
    _is_local = False
    _heard_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin; end the connection that is worth least if there are too many."""
        super().connection_made(transport)
        self._began = self.loop.time()
        self._is_local = self.client is not None and is_loopback(self.client[0])
        self._end = self.loop.call_later(LIFETIME_S, transport.abort)
        if len(self.connections) > MOST_CONNECTIONS:
            least: Any = max(self.connections, key=lambda connection: connection.dispensability())  # type: ignore[union-attr]  # all are ours
            self.connections.discard(least)  # abort() takes effect in the next round of the loop only
            least.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._end.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handle what came; end the connection where it is too much."""
        self._heard_bytes += len(data)
        if self._heard_bytes > MOST_BYTES:
            self.transport.abort()
        else:
            super().data_received(data)

    def dispensability(self) -> tuple[bool, bool, float]:
        """Return a key: the connection with the greatest one is worth least."""
        return (not self._is_local, self.cycle is None, -self._began)
