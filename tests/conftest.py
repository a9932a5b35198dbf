"""Fixtures that all tests share."""

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support.faults")

from backupd.log import open_log  # noqa: E402
from backupd.stores.local import DirectoryStore  # noqa: E402
from backupd.tasks.context import TaskContext  # noqa: E402
from backupd.tasks.options import BackupRequest  # noqa: E402
from support.bank import make_bank  # noqa: E402
from support.command import Backupd  # noqa: E402
from support.sshd import Sshd, running_sshd  # noqa: E402
from support.template import COVERED, COVERED_FORKS  # noqa: E402

# A shell that works in the background ignores these for what it starts, and children would inherit that.
for _number in (signal.SIGINT, signal.SIGQUIT):
    signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

# What starts processes that no others have been in; elsewhere only this one and forks of the template are measured.
_COVERED_TIERS = frozenset({"service", "sqlite", "told", "tests"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that need root be skipped elsewhere; in CI that is a failure (see pytest_runtest_logreport).

    The processes of whole tiers go where those of other tests have been. On another day (`scripts/test --day`) what
    compares the clock of Python with one that stays as it is, of files or of containers, is left out.
    """
    if "TEST_CLOCK_OFFSET_S" in os.environ:
        items[:] = [one for one in items if not one.get_closest_marker("real_clock") and one.path.parent.name != "e2e"]
    for item in items:
        if item.path.parent.name in {"faults", "e2e"}:
            item.add_marker(pytest.mark.no_cover)
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Start processes without coverage where others have been: to load it takes a child of ours longer than its work.

    A `no_cover` test is not measured at all, of a `cover_processes` test every process is.
    """
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("no_cover"):
            patch.delenv(COVERED, raising=False)
        elif COVERED in os.environ and not item.get_closest_marker("cover_processes"):
            patch.setenv(COVERED_FORKS, os.environ[COVERED])
            if item.path.parent.name not in _COVERED_TIERS:
                patch.delenv(COVERED)
        return (yield)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:  # noqa: ARG001
    """In CI a skipped test is a failed one: a tier that nobody ran proves nothing."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("CI"):
        report.outcome, report.longrepr = "failed", f"skipped in CI: {report.longrepr}"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A bank of 1,000 accounts in WAL mode, closed, in a directory of its own."""
    directory = tmp_path / "data"
    directory.mkdir()
    make_bank(directory / "tasks.db")
    return directory / "tasks.db"


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    """Where backups go; not made yet."""
    return tmp_path / "backups"


@pytest.fixture
def backupd(database: Path, backups: Path, tmp_path: Path) -> Backupd:
    """The command for the one-database case, with no reserve so that small file systems do."""
    environ = {
        "BACKUPD_DATABASE": str(database),
        "BACKUPD_BACKUPS_DIR": str(backups),
        "BACKUPD_SPACE__RESERVE": "0",
    }
    return Backupd(environ, tmp_path)


@pytest.fixture
def context(backups: Path) -> Iterator[TaskContext]:
    """A prepared local store with a log, to run jobs in this process."""
    store = DirectoryStore("local", backups)
    store.prepare()
    log = open_log(backups / "backup.log")
    yield TaskContext(store, log, lock_timeout_s=5)
    log.close()


@pytest.fixture
def order(database: Path) -> BackupRequest:
    """What a backup of the bank is asked to do."""
    return BackupRequest("tasks", database, reserve_bytes=0)


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An OpenSSH server for whoever runs the tests, for all of them in this process."""
    with running_sshd(tmp_path_factory.mktemp("sshd") / "server") as server:
        yield server
