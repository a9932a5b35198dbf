"""`python -m backupd` and the `backupd` command."""

import gc
import sys
from contextlib import suppress

from backupd.system.signals import INTERRUPTED, TERMINATED, unwind_on_signals
from backupd.system.stdio import open_standard_streams


def main() -> None:
    """Run the command line; SIGTERM and a lost terminal unwind like any exit, so that nothing half-made stays."""
    gc.disable()  # modules are no garbage to look for: a tenth of the start or more; `cli` turns it on again
    open_standard_streams()
    import click

    from backupd.cli import cli

    unwind_on_signals()
    try:
        sys.exit(cli(prog_name="backupd", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted: nothing half-made stays")
        sys.exit(INTERRUPTED)
    except SystemExit as ended:
        if ended.code == TERMINATED:
            _say("terminated: nothing half-made stays")
        raise


def _say(what: str) -> None:
    with suppress(OSError):  # the terminal is gone
        sys.stderr.write(f"{what}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    main()
