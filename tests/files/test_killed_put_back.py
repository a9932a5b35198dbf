"""A restore of files killed before each of its steps: all is as it was or all as in the copy, and nothing is lost."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.files.restoration import KEPT, RUNNING
from backupd.log import null_log
from backupd.masking import Mask
from backupd.stores.local import DirectoryStore
from backupd.tasks.context import TaskContext
from backupd.tasks.restore.recovery import recover_files
from support.put_back import MemoryContents, entries_of, facts, go_back, put_back
from support.steps import count_steps

NOW = datetime(2026, 11, 30, 4, tzinfo=UTC)


class Place:
    """A set of files that differs from its copy in all ways, to be copied for each kill."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.contents = directory, MemoryContents()
        self.template = directory / "template"
        (self.template / "stays" / "deep").mkdir(parents=True)
        (self.template / "gone").mkdir()
        for name in ("differs", "stays/deep/missing", "gone/file", "stays/equal"):
            (self.template / name).write_bytes(name.encode())
        (self.template / "link").symlink_to("differs")
        self.entries = entries_of(self.template, self.contents)
        self.good = facts(self.template)
        (self.template / "differs").write_bytes(b"other")
        (self.template / "stays" / "deep" / "missing").unlink()
        shutil.rmtree(self.template / "gone")
        (self.template / "link").unlink()
        (self.template / "link").mkdir()
        (self.template / "link" / "inside").write_bytes(b"inside")
        (self.template / "extra").mkdir()
        (self.template / "extra" / "file").write_bytes(b"extra")
        (self.template / "stays" / "deep").chmod(0o700)
        self.bad = facts(self.template)

    def copy(self, number: int) -> Path:
        """Make a copy of the tree, with its times."""
        target = self.directory / f"killed-{number}" / "uploads"
        shutil.copytree(self.template, target, symlinks=True)
        return target

    def restore(self, root: Path) -> None:
        put_back(root, self.entries, self.contents, NOW, exact=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place in memory where there is such a file system: each kill would wait for what others write to the disk."""
    with tempfile.TemporaryDirectory(dir=next((d for d in ("/dev/shm",) if os.access(d, os.W_OK)), tmp_path)) as name:
        yield Place(Path(name))


def kills(place: Place, act: Callable[[Path], None], prepare: Callable[[Path], None]) -> Iterator[Path]:
    """Yield what each kill of `act` leaves, one for each of its steps, until it is no longer killed."""
    for number in range(1000):
        root = place.copy(number)
        prepare(root)
        if killed_at(number, act, root):
            yield root
            shutil.rmtree(root.parent)
        else:
            assert number > 20
            return


def killed_at(number: int, act: Callable[[Path], None], root: Path) -> bool:
    """Call `act` in a fork, which is killed before its step `number`; return whether it had that many."""
    child = os.fork()
    if child == 0:
        journal = os.open(os.devnull, os.O_WRONLY)
        count_steps(journal, {"at": number, "again": False, "signal": signal.SIGKILL, "reads": ""})
        try:
            act(root)
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, -signal.SIGKILL}
    return status != 0


def recovered(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Have the next run recover, which leaves nothing that is half done; return what is there."""
    context = TaskContext(DirectoryStore("local", root.parent / "backups"), null_log(Mask([])))
    recover_files(root, context)
    assert not list(root.glob(f"{RUNNING}*"))
    return facts(root)


def test_killed_restore_is_whole_and_may_be_repeated(place: Place) -> None:
    seen = set()
    for root in kills(place, place.restore, lambda _root: None):
        now = recovered(root)
        assert now in (place.good, place.bad)
        seen.add(now == place.good)
        if now == place.good:
            (kept,) = root.glob(f"{KEPT}*")
            assert (kept / "old" / "extra" / "file").read_bytes() == b"extra"
            assert (kept / "old" / "differs").read_bytes() == b"other"
        place.restore(root)
        assert facts(root) == place.good
    assert seen == {True, False}


def test_killed_undo_is_whole_and_may_be_repeated(place: Place) -> None:
    seen = set()
    for root in kills(place, go_back, place.restore):
        now = recovered(root)
        assert now in (place.good, place.bad)
        seen.add(now == place.bad)
        if now == place.good:
            go_back(root)
        assert facts(root) == place.bad
    assert seen == {True, False}


def test_killed_recovery_goes_on(place: Place) -> None:
    """The recovery of a restore that was killed in the middle of its moves is killed as well."""
    killed = enumerate(kills(place, place.restore, lambda _root: None))
    middle = next(number for number, root in killed if list(root.glob(f"{RUNNING}*/old/link")))
    for root in kills(
        place, lambda root: void(recovered(root)), lambda root: void(killed_at(middle, place.restore, root))
    ):
        assert recovered(root) == place.good


def void(_value: object) -> None:
    """Take a value for nothing."""
