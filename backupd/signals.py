"""How a process of ours ends early: like any other exit, so that nothing half-made stays."""

import signal
import sys
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT
_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def unwind_on_signals() -> None:
    """Let SIGTERM and a lost terminal raise SystemExit, and Ctrl-C KeyboardInterrupt, in the main thread, once."""
    for end in _ENDS:
        # nohup and a shell that works in the background ignore the other two for us
        if end == signal.SIGTERM or signal.getsignal(end) is not signal.SIG_IGN:
            signal.signal(end, _unwind)


def unwind_no_more() -> None:
    """Take no more notice of these signals: this process is ending by itself."""
    for end in _ENDS:
        signal.signal(end, lambda *_: None)  # unlike SIG_IGN it is not handed on to children


def _unwind(number: int, _frame: FrameType | None) -> None:
    """End this process by the first signal; the next ones must not break off the cleanup that it began."""
    unwind_no_more()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(TERMINATED)
