"""A compromised app renames directories and plants links in its set of files while root restores it."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from backupd.errors import BackupdError
from backupd.files.restoration import RUNNING
from support.attackers import unchanged
from support.put_back import MemoryContents, entries_of, put_back
from support.steps import count_steps

NOW = datetime(2026, 11, 30, 4, tzinfo=UTC)
ATTACKER = 12345


class Set:
    """A set of files to be restored exactly, and a directory of root beside it with the same names in it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.contents = directory, MemoryContents()
        self.outside, self.template = directory / "outside", directory / "template"
        for root in (self.outside, self.template):
            (root / "stays" / "deep").mkdir(parents=True)
            for name in ("stays/deep/missing", "stays/differs", "stays/deep/equal"):
                (root / name).write_bytes(name.encode())
        self.entries = entries_of(self.template, self.contents)
        (self.template / "stays" / "deep" / "missing").unlink()
        (self.template / "stays" / "differs").write_bytes(b"other")
        (self.template / "stays" / "deep" / "extra").write_bytes(b"extra")
        (self.template / "stays" / "deep").chmod(0o777)
        for path in (self.template, *self.template.rglob("*")):
            os.chown(path, ATTACKER, ATTACKER)
        self.entries = [entry._replace(uid=ATTACKER, gid=ATTACKER) for entry in self.entries]

    def restore(self, root: Path) -> None:
        with suppress(BackupdError, OSError):
            put_back(root, self.entries, self.contents, NOW, exact=True)


@pytest.fixture
def files() -> Iterator[Set]:
    if os.geteuid() != 0:
        pytest.skip("only root has what the app of another user has not")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Set(Path(name))


def swap_directory(root: Path, outside: Path) -> None:
    (root / "stays").rename(root / "moved")
    (root / "stays").symlink_to(outside / "stays")


def swap_deep_directory(root: Path, outside: Path) -> None:
    (root / "stays" / "deep").rename(root / "moved")
    (root / "stays" / "deep").symlink_to(outside / "stays" / "deep")


def swap_file_for_link(root: Path, outside: Path) -> None:
    for name in ("differs", "deep/missing", "deep/extra"):
        (root / "stays" / name).unlink(missing_ok=True)
        (root / "stays" / name).symlink_to(outside / "stays" / "differs")


def swap_file_for_hard_link(root: Path, outside: Path) -> None:
    for name in ("differs", "deep/missing", "deep/extra"):
        (root / "stays" / name).unlink(missing_ok=True)
        os.link(outside / "stays" / "differs", root / "stays" / name)


def swap_hidden_directory(root: Path, outside: Path) -> None:
    for path in root.glob(f"{RUNNING}*"):
        path.rename(root / "taken")
        path.symlink_to(outside)


ATTACKS = (swap_directory, swap_deep_directory, swap_file_for_link, swap_file_for_hard_link, swap_hidden_directory)


@pytest.mark.parametrize("attack", ATTACKS)
def test_swap_at_any_step_of_restore_changes_nothing_outside(files: Set, attack: Callable[[Path, Path], None]) -> None:
    for number in range(ATTACKS.index(attack), 1000, len(ATTACKS)):  # every fifth step, another one in each test
        root = files.directory / f"attacked-{number}"
        shutil.copytree(files.template, root, symlinks=True)
        with unchanged(files.outside):
            is_reached = attacked_at(number, partial(files.restore, root), partial(attack, root, files.outside))
            shutil.rmtree(root)
        if not is_reached:
            assert number > 20
            return


def attacked_at(number: int, act: Callable[[], None], attack: Callable[[], None]) -> bool:
    """Call `act` in a fork that stops before its step `number`, and `attack` then; return whether it had that many."""
    child = os.fork()
    if child == 0:
        journal = os.open(os.devnull, os.O_WRONLY)
        count_steps(journal, {"at": number, "again": False, "signal": signal.SIGSTOP, "reads": ""})
        try:
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        return False
    with suppress(OSError):
        attack()
    os.kill(child, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return True
