"""An end in time: a signal ends the process even where its main thread hangs in a disk and cannot hear it."""

import os
import signal
import threading
import time

_ENDS = (signal.SIGTERM, signal.SIGINT)


def end_within(seconds: float) -> None:
    """Let this process end at most so long after SIGTERM or SIGINT, with exit code 1 where it did not end by itself.

    The signals must have handlers: the interpreter tells a pipe of each as it arrives (signal.set_wakeup_fd), whatever
    the main thread is doing.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_wait, args=(reader, seconds), name="ending", daemon=True).start()


def _wait(reader: int, seconds: float) -> None:
    while os.read(reader, 1)[0] not in _ENDS:
        pass
    time.sleep(seconds)
    os._exit(1)
