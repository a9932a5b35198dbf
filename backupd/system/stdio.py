"""The standard streams of a process that was started without some of them (`backupd backup 2>&-`)."""

import io
import os
import sys


def open_standard_streams() -> None:
    """Open what is closed of the standard streams on /dev/null.

    Else Python has None for them, and the next file that is opened, such as a database, becomes where errors go.
    What standard output cannot encode is escaped.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free, which is this one
            os.set_inheritable(opened, True)  # noqa: FBT003 - the standard library's signature
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # others' text may not fit its encoding; errors' does so anyway
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - as above
