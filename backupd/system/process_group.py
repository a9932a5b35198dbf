"""A process that runs a command, and kills its process group when its own standard input closes.

Run as `python -m backupd.system.process_group COMMAND...`. It prints on standard output how the command ended; what
the command started runs on until standard input closes, also because the parent was killed. The output of the command
goes to standard error.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress


def main(command: list[str]) -> None:
    """Run `command`, and print `exit N`, N negative for a signal, or `error WHY` where it cannot be run."""
    try:
        process = subprocess.Popen(  # noqa: S603 - what the operator's configuration asks for
            command, stdin=subprocess.DEVNULL, stdout=sys.stderr, stderr=sys.stderr, start_new_session=True
        )
    except (OSError, ValueError) as error:
        print(f"error {getattr(error, 'strerror', None) or error}", flush=True)  # noqa: T201 - the answer to the parent
        return
    waiting = threading.Thread(target=_report_end, args=(process.pid,), daemon=True)
    try:
        waiting.start()
        os.read(0, 1)
    except RuntimeError as error:  # no thread can be started
        print(f"error {error}", flush=True)  # noqa: T201 - the answer to the parent
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _report_end(process: int) -> None:
    """Wait for the end of the command, and leave it a zombie, so that the id of its group is not used again."""
    ended = None
    with suppress(ChildProcessError):  # standard input has closed, and `main` is ending with all that it started
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    if ended is not None:
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        print(f"exit {status}", flush=True)  # noqa: T201 - the answer to the parent


if __name__ == "__main__":
    main(sys.argv[1:])
