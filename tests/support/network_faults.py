"""A network in front of a server of this machine: a TCP proxy that cuts, stalls, slows and delays.

    with running_wire(server.port) as wire:
        wire.weather = Weather(cut_up=1 << 20)  # from now on, also for connections that there are

As `python wire.py PORT DELAY_MS` it is a process of its own, for benchmarks; prints its port, ends with its stdin.
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
_LOOK_S = 0.05  # how soon a changed weather is felt where no byte moves
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing throws away what was not sent, and says so
_NEVER = float("inf")


@dataclass(frozen=True)
class NetworkFaults:
    """What happens to bytes on their way; bytes, turns and seconds count from the beginning of each connection.

    A *turn* is all that a client says until the server says something: where nothing is pipelined, a request. After
    `times` connections were cut or stalled, others are spared.
    """

    cut_up: float = _NEVER  # ends the connection after this many bytes
    cut_down: float = _NEVER
    cut_at_turn: float = _NEVER  # nothing of this turn, counted from 1, gets through
    cut_after_s: float = _NEVER
    reset: bool = False  # cuts by a reset
    stall_up: float = _NEVER  # after this many bytes nothing more gets through, and nobody is told
    stall_down: float = _NEVER
    times: float = _NEVER
    rate: float = _NEVER  # bytes/s each way
    delay_s: float = 0  # each way, for connections to come; throughput is as without, up to 64 MiB under way


class Wire:
    """The proxy; it listens on `port`, and has counted what it did."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.weather = NetworkFaults()
        self.passed = [0, 0]  # bytes that arrived, up and down
        self.connections = 0
        self.harmed = 0  # connections that were cut or stalled
        self.lock = threading.Lock()
        self._open: list[_Connection] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.accept()

    def accept(self) -> None:
        """Take connections, as from the beginning, so after `refuse`."""
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port))
        self._acceptor = self.spawn(self._serve, self._listener)

    def refuse(self) -> None:
        """Refuse connections from now on; those that there are stay."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._acceptor.join()
        self._listener.close()

    def cut(self) -> None:
        """End all connections that there are."""
        for connection in [*self._open]:
            connection.close(reset=self.weather.reset)

    def close(self) -> None:
        """Refuse, cut, and wait for the end of all threads."""
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
            self._open.append(_Connection(self, client, server))


class _Connection:
    """Two threads for each direction: one takes pieces in, the other lets them out when they are due."""

    def __init__(self, wire: Wire, client: socket.socket, server: socket.socket) -> None:
        self.wire = wire
        self.began = time.monotonic()
        self.closed = threading.Event()
        self.passed = [0, 0]
        self.turn = 0
        self.speaks = DOWN
        self.ended = 0
        self.is_harmed = False
        self.sockets = (client, server)
        for end in self.sockets:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pieces = 1024 if wire.weather.delay_s else 2  # few, so that a peer feels it when the other does not read
        for direction in (UP, DOWN):
            queue: Queue[tuple[float, bytes]] = Queue(pieces)
            wire.spawn(self._take_in, direction, queue, wire.weather.delay_s)
            wire.spawn(self._let_out, direction, queue)

    def close(self, *, reset: bool) -> None:
        """End it for both sides."""
        if not self.closed.is_set():
            self.closed.set()
            for end in self.sockets:
                with suppress(OSError):
                    if reset:
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    else:
                        end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _take_in(self, direction: int, queue: "Queue[tuple[float, bytes]]", delay_s: float) -> None:
        source, piece = self.sockets[direction], b"?"
        while piece:
            piece = b""
            with suppress(OSError, ValueError):  # closed meanwhile
                while not select.select([source], [], [], _LOOK_S)[0]:
                    if self._is_late() and self._may_harm():
                        self._cut()
                piece = source.recv(_PIECE_BYTES)
            queue.put((time.monotonic() + delay_s, piece))

    def _let_out(self, direction: int, queue: "Queue[tuple[float, bytes]]") -> None:
        """Send what is due, until the end of the stream; of a closed connection, throw it away."""
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
            weather, passed = self.wire.weather, self.passed[direction]
            cut = (weather.cut_up, weather.cut_down)[direction] - passed
            stall = (weather.stall_up, weather.stall_down)[direction] - passed
            turned = direction == UP and self.turn >= weather.cut_at_turn
            if (cut <= 0 or turned or self._is_late()) and self._may_harm():
                self._cut()
            elif stall <= 0 and self._may_harm():
                self._wait(_LOOK_S)
            elif select.select([], [sink], [], _LOOK_S)[1]:
                limits = [limit for limit in (cut, stall) if limit > 0]
                sent = sink.send(piece[: int(min(*limits, weather.rate * _LOOK_S + 1, len(piece)))])
                piece = piece[sent:]
                with self.wire.lock:
                    self.passed[direction] += sent
                    self.wire.passed[direction] += sent
                self._wait(sent / weather.rate)

    def _is_late(self) -> bool:
        return time.monotonic() - self.began > self.wire.weather.cut_after_s

    def _cut(self) -> None:
        self.close(reset=self.wire.weather.reset)

    def _may_harm(self) -> bool:
        """Return whether this one may be cut or stalled, and count it."""
        with self.wire.lock:
            if not self.is_harmed and self.wire.harmed < self.wire.weather.times:
                self.is_harmed = True
                self.wire.harmed += 1
            return self.is_harmed

    def _end(self, sink: socket.socket) -> None:
        with self.wire.lock:
            self.ended += 1
        if self.ended == len(self.sockets):
            self.close(reset=False)
        elif not self.closed.is_set():
            sink.shutdown(socket.SHUT_WR)

    def _wait(self, seconds: float) -> None:
        if seconds > 0:
            self.closed.wait(seconds)


@contextmanager
def running_wire(target: int, weather: NetworkFaults | None = None) -> Iterator[Wire]:
    """Run a proxy in front of the port `target` while the block runs."""
    wire = Wire(target)
    wire.weather = weather or wire.weather
    try:
        yield wire
    finally:
        wire.close()


if __name__ == "__main__":
    with running_wire(int(sys.argv[1]), NetworkFaults(delay_s=float(sys.argv[2]) / 1000)) as running:
        print(running.port, flush=True)
        sys.stdin.read()
