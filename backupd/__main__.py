"""`python -m backupd` and the `backupd` command."""

import gc
import io
import os
import sys
from contextlib import suppress
from typing import NoReturn

from backupd.system.signals import INTERRUPTED, TERMINATED, exit_on_signals


def main() -> None:
    """Run the command line; SIGTERM and a lost terminal exit through all cleanup, as Ctrl-C does."""
    gc.disable()  # loading modules makes no garbage, and collecting takes a tenth of the start; `cli` enables it again
    open_standard_streams()
    try:
        exit_on_signals()  # first: the image starts this with signals blocked
        _run()
    except KeyboardInterrupt:
        _print_error("interrupted; partial work was removed")
        sys.exit(INTERRUPTED)
    except SystemExit as ended:
        if ended.code == TERMINATED:
            _print_error("terminated; partial work was removed")
        raise


def _run() -> NoReturn:
    import click

    from backupd.cli import cli

    try:
        sys.exit(cli(prog_name="backupd", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        raise KeyboardInterrupt from None


def open_standard_streams() -> None:
    """Open each standard stream that is closed (`backupd backup 2>&-`) on /dev/null, and escape what cannot be encoded.

    Otherwise Python sets it to None, and the next file that is opened, such as a database, gets its descriptor.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
            os.set_inheritable(opened, True)  # noqa: FBT003 - the standard library's signature
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as Python does for standard error
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process runs
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process runs


def _print_error(message: str) -> None:
    with suppress(OSError):  # the terminal is closed
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    main()
