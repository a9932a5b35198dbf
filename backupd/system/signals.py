"""Signals that end a process early: through all cleanup, as any other exit."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT
_AGAIN_S = 0.01
ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM)


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
