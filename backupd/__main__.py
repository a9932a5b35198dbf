"""`python -m backupd` and the `backupd` command."""

import gc
import sys

from backupd.signals import INTERRUPTED, unwind_on_signals
from backupd.streams import open_standard_streams


def main() -> None:
    """Run the command line; SIGTERM and a lost terminal unwind like any exit, so that nothing half-made stays."""
    gc.disable()  # modules are no garbage to look for: a third of the start; `cli` turns it on again
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
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
