"""Signals that end a process early: through all cleanup, as any other exit."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT
_AGAIN_S = 0.01
ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM)
_STOPS = ENDS[:3]


class TimeLimitReached(SystemExit):
    """Raised by SIGALRM, which the daemon sends to a run that takes too long."""


def exit_on_signals() -> None:
    """Let signals end the main thread, once, by an exception.

    SIGTERM and a lost terminal raise SystemExit, Ctrl-C KeyboardInterrupt, and SIGALRM TimeLimitReached. A signal that
    came while it was blocked does so now; any other that came to a first process (PID 1), the kernel has dropped.
    """
    for end in ENDS:
        # nohup and background jobs of a shell set the other two to be ignored
        if end == signal.SIGTERM or signal.getsignal(end) is not signal.SIG_IGN:
            signal.signal(end, _unwind)
    sys.unraisablehook = _raise_again
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)


def ignore_signals() -> None:
    """Ignore these signals from now on: this process is ending."""
    for end in ENDS:
        signal.signal(end, lambda *_: None)  # unlike SIG_IGN, children do not inherit it
    signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer these signals to the end of the block, which is short and cannot be undone.

    If the block succeeds they are ignored, so that its result is reported; otherwise the first one ends this process.
    """
    held = [end for end in ENDS if signal.getsignal(end) is _unwind]
    came: list[int] = []
    for end in held:
        signal.signal(end, lambda number, _frame: came.append(number))
    try:
        yield
    except BaseException:
        for end in held:
            signal.signal(end, _unwind)
        if came:
            signal.raise_signal(came[0])
        raise
    if held:
        ignore_signals()


@contextmanager
def delay_signals() -> Iterator[None]:
    """Let these signals wait for the end of the block, such as an import: half of one would make later ones fail."""
    here = threading.current_thread() is threading.main_thread()  # where alone Python runs handlers
    held = [end for end in ENDS if signal.getsignal(end) is _unwind] if here else []
    came: list[int] = []
    for end in held:
        signal.signal(end, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for end in held:
            signal.signal(end, _unwind)
        if came:
            signal.raise_signal(came[0])


class StopSignals:
    """SIGTERM, SIGHUP and SIGINT, noticed by a thread: it sets the event `stop`, and exits 1 after so many seconds.

    A handler runs inside whatever the main thread is doing, such as the wait for `stop`, whose lock it may hold: a
    handler that took that lock would wait for ever. The interpreter writes each signal that has a handler to a pipe as
    it arrives (signal.set_wakeup_fd), which the thread reads.
    """

    def __init__(self, exit_within_s: float) -> None:
        self.stop = threading.Event()
        self.came: list[int] = []
        self._exit_within_s = exit_within_s
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()

    def take_over(self) -> None:
        """Let the signals no longer end the main thread by an exception; `came` has each before it goes on."""
        for end in _STOPS:
            if signal.getsignal(end) is not signal.SIG_IGN:  # inherited: see `exit_on_signals`
                signal.signal(end, lambda number, _frame: self.came.append(number))

    def _watch(self, reader: int) -> None:
        while os.read(reader, 1)[0] not in _STOPS:
            pass
        self.stop.set()
        time.sleep(self._exit_within_s)
        os._exit(1)


def _unwind(number: int, _frame: FrameType | None) -> None:
    """End this process by the first signal; later ones must not interrupt its cleanup."""
    ignore_signals()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGALRM:
        raise TimeLimitReached(1)
    sys.exit(TERMINATED)


def _raise_again(dropped: "sys.UnraisableHookArgs") -> None:
    """End this process a moment later where Python dropped the exception, as it does in destructors and callbacks."""
    if not isinstance(dropped.exc_value, (SystemExit, KeyboardInterrupt)):
        sys.__unraisablehook__(dropped)
    elif threading.current_thread() is threading.main_thread():
        number = _number_of(dropped.exc_value)
        signal.signal(signal.SIGALRM, lambda _alarm, frame: _unwind(number, frame))
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)


def _number_of(error: BaseException) -> signal.Signals:
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    return signal.SIGALRM if isinstance(error, TimeLimitReached) else signal.SIGTERM
