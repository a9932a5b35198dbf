"""A process that runs a command, and kills all of it when its own standard input closes.

Run as `python -m backupd.system.process_group COMMAND...`. It says on standard output how the command ended, and lets
what that started live on until standard input closes, be it because the holder was killed. What the command says goes
to standard error.
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
        print(f"error {getattr(error, 'strerror', None) or error}", flush=True)  # noqa: T201 - our answer
        return
    waiting = threading.Thread(target=_tell_end, args=(process.pid,), daemon=True)
    try:
        waiting.start()
        os.read(0, 1)
    except RuntimeError as error:  # no thread to be had
        print(f"error {error}", flush=True)  # noqa: T201 - our answer
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _tell_end(process: int) -> None:
    """Wait for the end of the command, and leave it a zombie: nobody else can get the number of its group then."""
    ended = None
    with suppress(ChildProcessError):  # standard input has closed, and `main` is ending with all that it started
        ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    if ended is not None:
        status = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        print(f"exit {status}", flush=True)  # noqa: T201 - our answer


if __name__ == "__main__":
    main(sys.argv[1:])
