"""`python -m backupd` and the `backupd` command."""

import gc
import signal
import sys
from types import FrameType

_TERMINATED = 128 + signal.SIGTERM
_INTERRUPTED = 128 + signal.SIGINT
_ENDS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def main() -> None:
    """Run the command line; SIGTERM and a lost terminal unwind like any exit, so that nothing half-made stays."""
    gc.disable()  # modules are no garbage to look for: a third of the start; `cli` turns it on again
    import click

    from backupd.cli import cli

    for end in _ENDS:
        # nohup and a shell that works in the background ignore the other two for us
        if end == signal.SIGTERM or signal.getsignal(end) is not signal.SIG_IGN:
            signal.signal(end, _unwind)
    try:
        sys.exit(cli(prog_name="backupd", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(_INTERRUPTED)


def _unwind(number: int, _frame: FrameType | None) -> None:
    """End this process by the first signal; the next ones must not break off the cleanup that it began."""
    for end in _ENDS:
        signal.signal(end, lambda *_: None)  # unlike SIG_IGN it is not handed on to children
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(_TERMINATED)


if __name__ == "__main__":
    main()
