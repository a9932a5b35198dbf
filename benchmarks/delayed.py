"""A delayed connection to a local server: a TCP proxy, in a process of its own, without loss or limit.

`python -m benchmarks.delayed PORT ROUND_TRIP_MS` prints the port where it listens, and runs until it is ended.
"""

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

_READ_BYTES = 1 << 20


@contextlib.contextmanager
def delayed(port: int, round_trip_ms: int) -> Iterator[int]:
    """Yield a port that forwards to `port` with the delay."""
    command = [sys.executable, "-m", "benchmarks.delayed", str(port), str(round_trip_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def _carry(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    """Move bytes one way, each `delay_s` after it came; the end of the stream is delayed too."""
    under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_deliver, args=(under_way, sink), daemon=True).start()
    data = b"more"
    while data:
        try:
            data = source.recv(_READ_BYTES)
        except OSError:
            data = b""
        under_way.put((time.monotonic() + delay_s, data))


def _deliver(under_way: "queue.SimpleQueue[tuple[float, bytes]]", sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            due, data = under_way.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)


def main(port: int, round_trip_ms: int) -> None:
    """Serve until the process ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=_carry, args=(source, sink, round_trip_ms / 2000), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
