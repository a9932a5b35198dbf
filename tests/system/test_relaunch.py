"""A command that restarts in its own process: what it keeps, what it drops, and its signals."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.command import Backupd
from support.daemon import children_of, free_port, wait_until
from support.documents import ROOT

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


def entrypoint() -> list[str]:
    """Return the entry point of the image, with this Python."""
    (words,) = re.findall("^ENTRYPOINT (.+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    *before, program = json.loads(words)
    return [*before, sys.executable, "-m", program]


@contextmanager
def below_unshare(backupd: Backupd, **environ: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `backupd serve` as the first process of a container, the child of the process that is yielded."""
    listen = f"127.0.0.1:{free_port()}"
    unshare = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *entrypoint(), "serve"],
        env=backupd.environment(BACKUPD_HTTP__LISTEN=listen, BACKUPD_HTTP__TOKEN=TOKEN, **environ),
        cwd=backupd.cwd,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield unshare
    finally:
        unshare.kill()
        unshare.wait()


@pytest.mark.root
@pytest.mark.skipif(not os.access("/usr/bin/tini", os.X_OK), reason="needs tini, as the image has it")
def test_first_process_becomes_tini_without_secrets_and_forwards_stop_signal(backupd: Backupd) -> None:
    with below_unshare(backupd) as unshare:
        wait_until(lambda: children_of(unshare.pid), "the first process")
        (first,) = children_of(unshare.pid)
        place = Path(f"/proc/{first}")
        wait_until(lambda: place.joinpath("comm").read_text() == "tini\n", "tini")
        wait_until(lambda: len(children_of(first)) == 1, "the daemon below it")
        (daemon,) = children_of(first)
        wait_until(lambda: "serve" in Path(f"/proc/{daemon}/cmdline").read_text(), "the daemon")
        for process in (first, daemon):
            assert TOKEN.encode() not in Path(f"/proc/{process}/environ").read_bytes()
        assert (place / "status").read_text().split("NSpid:")[1].split()[1] == "1"
        wait_until(lambda: blocked_signals(daemon) == 0, "its handlers")
        os.kill(first, signal.SIGTERM)
        assert unshare.wait(20) in (0, 128 + signal.SIGTERM)


def blocked_signals(process: int) -> int:
    """Return the mask of signals that the main thread of `process` blocks, and its children inherit."""
    return int(Path(f"/proc/{process}/status").read_text().split("SigBlk:")[1].split()[0], 16)


@pytest.mark.root
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)], ids=["TERM", "INT", "HUP"]
)
@pytest.mark.parametrize("when", ["before-tini", "below-tini"])
def test_signal_to_first_process_before_it_has_handlers_is_not_lost(
    backupd: Backupd, tmp_path: Path, number: signal.Signals, code: int, when: str
) -> None:
    its_turn = "==" if when == "before-tini" else "!="
    at_start = f"import os\nif os.getpid() {its_turn} 1: os.kill(1, {int(number)})\n"
    (tmp_path / "sitecustomize.py").write_text(at_start)
    with below_unshare(backupd, PYTHONPATH=str(tmp_path)) as unshare:
        assert unshare.wait(30) == code
