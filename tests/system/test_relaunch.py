"""A command that restarts in its own process: what it keeps, what it drops, and its signals."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.command import Backupd
from support.daemon import children_of, free_port, wait_until

pytestmark = pytest.mark.no_cover
TOKEN = "t0ken-0f-the-page-7f3a91"
PENDING = """
import os, pickle, signal, sys
from backupd.config import load_config
from backupd.system.relaunch import relaunch
config = load_config(None, os.environ)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.kill(os.getpid(), signal.SIGTERM)
sys.argv = ["backupd", "list"]
relaunch(pickle.dumps(config), {"PATH": os.environ["PATH"]})
"""
KEPT = """
import os, sys
from backupd.system.relaunch import take_handed_over
assert take_handed_over() is None
copy = os.memfd_create("handed-over", 0)
os.write(copy, b"secret")
os.lseek(copy, 0, os.SEEK_SET)
os.environ["_BACKUPD_HANDED_OVER"] = str(os.dup(copy))
print(take_handed_over(), take_handed_over(), os.fstat(copy).st_size, "_BACKUPD_HANDED_OVER" in os.environ)
"""


def run(program: str, backupd: Backupd) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program],
        env=backupd.environment(),
        cwd=backupd.cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_signal_during_relaunch_ends_command_afterwards(backupd: Backupd) -> None:
    done = run(PENDING, backupd)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "")
    assert done.stderr == "terminated; partial work was removed\n"


def test_secrets_handed_over_are_read_once_and_in_no_descriptor_afterwards(backupd: Backupd) -> None:
    done = run(KEPT, backupd)
    assert done.stdout == "b'secret' None 0 False\n", done.stderr


@contextmanager
def first_process(backupd: Backupd) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Run `backupd serve` as the first process of a container; yield its process and that of unshare."""
    listen = f"127.0.0.1:{free_port()}"
    unshare = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-m", "backupd", "serve"],
        env=backupd.environment(BACKUPD_HTTP__LISTEN=listen, BACKUPD_HTTP__TOKEN=TOKEN),
        cwd=backupd.cwd,
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: children_of(unshare.pid), "the first process")
        yield children_of(unshare.pid)[0], unshare
    finally:
        unshare.kill()
        unshare.wait()


@pytest.mark.root
@pytest.mark.skipif(not os.access("/usr/bin/tini", os.X_OK), reason="needs tini, as the image has it")
def test_first_process_becomes_tini_without_secrets_and_forwards_stop_signal(backupd: Backupd) -> None:
    with first_process(backupd) as (first, unshare):
        place = Path(f"/proc/{first}")
        wait_until(lambda: place.joinpath("comm").read_text() == "tini\n", "tini")
        wait_until(lambda: len(children_of(first)) == 1, "the daemon below it")
        (daemon,) = children_of(first)
        wait_until(lambda: "serve" in Path(f"/proc/{daemon}/cmdline").read_text(), "the daemon")
        for process in (first, daemon):
            assert TOKEN.encode() not in Path(f"/proc/{process}/environ").read_bytes()
        assert (place / "status").read_text().split("NSpid:")[1].split()[1] == "1"
        os.kill(first, signal.SIGTERM)
        assert unshare.wait(20) in (0, 128 + signal.SIGTERM)
