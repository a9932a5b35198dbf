"""A compromised app: a process with its own user, which acts while a run of backupd is stopped."""

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from support.command import borrowed_fork_server
from support.fork_server import CommandResult, environment
from support.processes import state_of, wait_until

# Runs a program of the attacker for each line of its input, and answers each; it is the app's user from the start.
_SHELL = """
import glob, os, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1])); os.chdir(sys.argv[3])
program = compile(sys.argv[4], "attack", "exec")
for line in sys.stdin:
    try:
        exec(program)
        print("done", flush=True)
    except OSError as error:
        print(f"refused: {error}", flush=True)
"""


class Attacker:
    """The app's user, in a directory of the app; each call runs its program once more."""

    def __init__(self, program: str, directory: Path, uid: int, gid: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SHELL, str(uid), str(gid), str(directory), program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self) -> str:
        """Run the program, and return how that went."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("now\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.communicate()


def attacked(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    scratch: Path,
    at: int,
    attack: Callable[[], object],
    reads: str = "",
) -> CommandResult:
    """Run `backupd ARGUMENTS`, stop it (SIGSTOP) before its step `at`, `attack`, and continue it.

    Files that it only reads are steps as well, where `reads` is in their name.
    """
    with borrowed_fork_server() as fork_server:
        run = fork_server.start(arguments, environment(environ), scratch, at=at, send=signal.SIGSTOP, reads=reads)
        try:
            wait_until(lambda: run.poll() is not None or _stands_still(run.pid))
            if run.returncode is None:
                attack()
        finally:
            run.send_signal(signal.SIGCONT)
            answer = fork_server.result(run)
    return answer


def _stands_still(pid: int) -> bool:
    with suppress(OSError):
        return state_of(pid) == "T"
    return False


def journal_that_removes(victim: Path, pages: int) -> bytes:
    """Return a hot journal of a database of `pages` pages, which has SQLite remove `victim` as its super-journal."""
    magic = bytes.fromhex("d9d505f920a163d7")
    header = magic + struct.pack(">IIIII", 0, 1234, pages, 512, 4096)
    name = os.fsencode(victim)
    checksum = sum(byte - 256 if byte > 127 else byte for byte in name) % (1 << 32)
    return header.ljust(512, b"\0") + struct.pack(f">I{len(name)}sII", 0x40001, name, len(name), checksum) + magic


@contextmanager
def unchanged(*paths: Path) -> Iterator[None]:
    """Assert that the block changes nothing of the files and directories at `paths`, nor what is in them."""
    before = [_facts(path) for path in paths]
    yield
    assert [_facts(path) for path in paths] == before


def _facts(path: Path) -> object:
    state = path.lstat()
    inside = {each.name: _facts(each) for each in path.iterdir()} if path.is_dir() else path.read_bytes()
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return state.st_ino, state.st_mode, state.st_uid, state.st_gid, state.st_nlink, attributes, inside
