"""Accounts of this machine that tests log in to, made by root and removed afterwards."""

import fcntl
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCKED = "/usr/sbin/nologin"


@contextmanager
def account(home: Path, shell: str = LOCKED, password: str | None = None) -> Iterator[str]:
    """Make a system account (its home is not made) and return its name; without a password none lets in.

    `useradd` alone would leave a `!` there, and sshd takes such an account for locked, whatever key is shown.
    """
    name = f"backupd-t{uuid.uuid4().hex[:8]}"
    _change("useradd", "--system", "--user-group", "--home-dir", home, "--shell", shell, "--password", "*", name)
    try:
        if password is not None:
            _change("chpasswd", said=f"{name}:{password}\n")
        yield name
    finally:
        _change("userdel", "--force", name)  # a process that was just killed counts as being logged in


def _change(*command: str | Path, said: str = "") -> None:
    """Change /etc/passwd as one at a time: the commands themselves give up where another is at it."""
    with Path(tempfile.gettempdir(), "backupd-accounts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command, input=said, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
