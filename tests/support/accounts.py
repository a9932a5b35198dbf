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

    `useradd` alone would leave a `!` for it, and sshd takes such an account for locked, whatever key is shown.
    """
    with removed_account() as name:
        _run("useradd", "--system", "--user-group", "--home-dir", home, "--shell", shell, "--password", "*", name)
        if password is not None:
            _run("chpasswd", said=f"{name}:{password}\n")
        yield name


@contextmanager
def removed_account() -> Iterator[str]:
    """Lend a name for an account that the block makes; it is removed afterwards."""
    name = f"backupd-t{uuid.uuid4().hex[:8]}"
    try:
        yield name
    finally:
        if subprocess.run(["id", name], capture_output=True, check=False).returncode == 0:
            _run("userdel", "--force", name)  # a process that was just killed counts as a login


@contextmanager
def changing_accounts() -> Iterator[None]:
    """Lock /etc/passwd: useradd and similar programs fail while another one changes it."""
    with Path(tempfile.gettempdir(), "backupd-accounts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str | Path, said: str = "") -> None:
    with changing_accounts():
        done = subprocess.run(command, input=said, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
