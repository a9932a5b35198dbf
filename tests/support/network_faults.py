"""A TCP proxy in front of a local server that cuts, stalls, slows and delays connections.

    with running_proxy(server.port) as proxy:
        proxy.faults = NetworkFaults(cut_up=1 << 20)  # from now on, also for open connections

Run as `python network_faults.py PORT DELAY_MS` for benchmarks: prints its port, ends when its stdin is closed.
"""

import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Queue

UP, DOWN = 0, 1  # from the client to the server, and back
_PIECE_BYTES = 64 << 10
_LOOK_S = 0.05  # how soon changed faults take effect where no byte moves
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing discards unsent data and sends a reset
_NEVER = float("inf")


@dataclass(frozen=True)
class NetworkFaults:
    """Faults of a connection; bytes, turns and seconds count from its beginning.

    A *turn* is what a client sends until the server sends something: without pipelining, one request. After `times`
    connections were cut or stalled, the others have no faults.
    """

    cut_up: float = _NEVER  # ends the connection after this many bytes
    cut_down: float = _NEVER
    cut_at_turn: float = _NEVER  # nothing of this turn, counted from 1, gets through
    cut_after_s: float = _NEVER
    reset: bool = False  # cuts by a reset
    stall_up: float = _NEVER  # after this many bytes nothing more is forwarded, and the connection stays open
    stall_down: float = _NEVER
    times: float = _NEVER
    rate: float = _NEVER  # bytes/s each way
    delay_s: float = 0  # each way, for new connections; does not limit throughput, up to 64 MiB in flight


class FaultyProxy:
    """The proxy; it listens on `port`, and counts bytes, connections and faults."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.faults = NetworkFaults()
        self.passed = [0, 0]  # bytes that arrived, up and down
        self.connections = 0
        self.disturbed = 0  # connections that were cut or stalled
        self.lock = threading.Lock()
        self._open: list[_Connection] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accept()

    def accept(self) -> None:
        """Accept connections, at the start and after `refuse`."""
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
        self._acceptor = self.spawn(self._serve, self._listener)

    def refuse(self) -> None:
        """Refuse new connections; open ones stay."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._acceptor.join()
        self._listener.close()

    def cut(self) -> None:
        """End all open connections."""
        for connection in [*self._open]:
            connection.close(reset=self.faults.reset)

    def close(self) -> None:
        """Refuse and cut connections, and wait until all threads end."""
        self.refuse()
        self.cut()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), thread.name

    def spawn(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        """Run `work(*arguments)` in a thread that `close` waits for."""
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=10)
            except OSError:
                client.close()
                continue
            self.connections += 1
            connection = _Connection(self, client, server)
            self._open.append(connection)  # before its first byte, so that who got an answer can cut it
            connection.start()


class _Connection:
    """Two threads for each direction: one receives pieces, the other forwards each when it is due."""

    def __init__(self, proxy: FaultyProxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self.began = time.monotonic()
        self.closed = threading.Event()
        self.passed = [0, 0]
        self.turn = 0
        self.speaks = DOWN
        self.ended = 0
        self.is_disturbed = False
        self.sockets = (client, server)
        for end in self.sockets:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        """Begin to forward."""
        delay_s = self.proxy.faults.delay_s
        pieces = 1024 if delay_s else 2  # few, so that a sender blocks when the receiver does not read
        for direction in (UP, DOWN):
            queue: Queue[tuple[float, bytes]] = Queue(pieces)
            self.proxy.spawn(self._receive, direction, queue, delay_s)
            self.proxy.spawn(self._forward, direction, queue)

    def close(self, *, reset: bool) -> None:
        """Close both sides."""
        if not self.closed.is_set():
            self.closed.set()
            for end in self.sockets:
                with suppress(OSError):
                    if reset:
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    else:
                        end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _receive(self, direction: int, queue: "Queue[tuple[float, bytes]]", delay_s: float) -> None:
        source, piece = self.sockets[direction], b"?"
        while piece:
            piece = b""
            with suppress(OSError, ValueError):  # closed by another thread
                while not select.select([source], [], [], _LOOK_S)[0]:
                    if self._is_late() and self._may_disturb():
                        self._cut()
                piece = source.recv(_PIECE_BYTES)
            queue.put((time.monotonic() + delay_s, piece))

    def _forward(self, direction: int, queue: "Queue[tuple[float, bytes]]") -> None:
        """Send each piece when it is due, until the end of the stream; discard pieces of a closed connection."""
        sink = self.sockets[1 - direction]
        piece = b"?"
        while piece:
            due, piece = queue.get()
            self._wait(due - time.monotonic())
            with suppress(OSError, ValueError):
                if piece:
                    self._send(direction, sink, memoryview(piece))
                else:
                    self._end(sink)

    def _send(self, direction: int, sink: socket.socket, piece: memoryview) -> None:
        if self.speaks != direction:
            self.speaks = direction
            self.turn += direction == UP
        while piece and not self.closed.is_set():
            faults, passed = self.proxy.faults, self.passed[direction]
            cut = (faults.cut_up, faults.cut_down)[direction] - passed
            stall = (faults.stall_up, faults.stall_down)[direction] - passed
            at_turn = direction == UP and self.turn >= faults.cut_at_turn
            if (cut <= 0 or at_turn or self._is_late()) and self._may_disturb():
                self._cut()
            elif stall <= 0 and self._may_disturb():
                self._wait(_LOOK_S)
            elif select.select([], [sink], [], _LOOK_S)[1]:
                limits = [limit for limit in (cut, stall) if limit > 0]
                sent = sink.send(piece[: int(min(*limits, faults.rate * _LOOK_S + 1, len(piece)))])
                piece = piece[sent:]
                with self.proxy.lock:
                    self.passed[direction] += sent
                    self.proxy.passed[direction] += sent
                self._wait(sent / faults.rate)

    def _is_late(self) -> bool:
        return time.monotonic() - self.began > self.proxy.faults.cut_after_s

    def _cut(self) -> None:
        self.close(reset=self.proxy.faults.reset)

    def _may_disturb(self) -> bool:
        """Tell whether this connection may be cut or stalled, and count it."""
        with self.proxy.lock:
            if not self.is_disturbed and self.proxy.disturbed < self.proxy.faults.times:
                self.is_disturbed = True
                self.proxy.disturbed += 1
            return self.is_disturbed

    def _end(self, sink: socket.socket) -> None:
        with self.proxy.lock:
            self.ended += 1
        if self.ended == len(self.sockets):
            self.close(reset=False)
        elif not self.closed.is_set():
            sink.shutdown(socket.SHUT_WR)

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self.closed.wait(seconds)


@contextmanager
def running_proxy(target: int, faults: NetworkFaults | None = None) -> Iterator[FaultyProxy]:
    """Run a proxy in front of the port `target` while the block runs."""
    proxy = FaultyProxy(target)
    proxy.faults = faults or proxy.faults
    try:
        yield proxy
    finally:
        proxy.close()


if __name__ == "__main__":
    with running_proxy(int(sys.argv[1]), NetworkFaults(delay_s=float(sys.argv[2]) / 1000)) as running:
        print(running.port, flush=True)
        sys.stdin.read()
