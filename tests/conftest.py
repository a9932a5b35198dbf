"""Fixtures that all tests share."""

import os
import shutil
import signal
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
from coverage import CoverageData
from coverage.config import CoverageConfig
from coverage.exceptions import DataError

pytest.register_assert_rewrite("support.faults")

from backupd.log import open_log  # noqa: E402
from backupd.stores.local import DirectoryStore  # noqa: E402
from backupd.tasks.context import TaskContext  # noqa: E402
from backupd.tasks.requests import BackupRequest  # noqa: E402
from support.bank import make_bank  # noqa: E402
from support.command import Backupd, end_fork_servers  # noqa: E402
from support.fork_server import COVERAGE_CONFIG, FORK_COVERAGE_CONFIG  # noqa: E402
from support.sshd import Sshd, running_sshd  # noqa: E402
from support.unmeasured import unmeasured  # noqa: E402

# A shell that works in the background ignores these for what it starts, and children would inherit that.
for _number in (signal.SIGINT, signal.SIGQUIT):
    signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

_PACKAGE = Path(__file__).parents[1] / "backupd"
_SLOW = {"e2e": "waits", "deploy": "computes", "faults": "computes"}
# Folders whose tests start processes that no other tests cover; elsewhere only this process and forks are measured.
_COVERED_TIERS = frozenset({"gate", "notifications", "pings", "sqlite", "status", "system", "web", "tests"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need root where there is none; in CI that is a failure (see pytest_runtest_makereport).

    Tests in tests/faults and tests/e2e are not covered: their processes run code that other tests cover. On another day
    (`scripts/test --day`), tests that compare Python's clock with that of files or containers are left out.
    """
    if "TEST_CLOCK_OFFSET_S" in os.environ:
        items[:] = [one for one in items if not one.get_closest_marker("real_clock") and one.path.parent.name != "e2e"]
    for item in items:
        if item.path.parent.name in {"faults", "e2e"}:
            item.add_marker(pytest.mark.no_cover)
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
        items[:] = _slow_ones_first(items, int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Measure nothing while tests are imported: fork servers import the same modules, and are measured."""
    with unmeasured():
        return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Hand what children have measured to coverage, which adds it up next; not what one was killed while it wrote."""
    directory = _data_of_children()
    try:
        return (yield)
    finally:
        end_fork_servers()
        for path in directory.iterdir():
            with suppress(DataError, FileNotFoundError), closing(CoverageData(str(path))) as measured:
                measured.read()
                shutil.move(path, session.config.rootpath)
        shutil.rmtree(directory, ignore_errors=True)  # one that cannot be killed may still write there


def _slow_ones_first(items: Sequence[pytest.Item], processes: int) -> Iterator[pytest.Item]:
    """Yield `items` so that each of so many processes, which get equal parts of them, begins with slow ones.

    What is left at the end, when there is nothing to share any more, is then short. A third of the processes get those
    that mainly wait for containers, since each needs its images and volumes first; the others get those that compute.
    """
    kinds = defaultdict(list)
    for item in items:
        kinds[_SLOW.get(item.path.parent.name)].append(item)
    waiting, computing, others = kinds["waits"], kinds["computes"], iter(kinds[None])
    few = max(1, processes // 3)
    many = max(1, processes - few)
    for own in (*(waiting[n::few] for n in range(few)), *(computing[n::many] for n in range(many))):
        yield from own
        yield from islice(others, max(0, len(items) // processes - len(own)))
    yield from others


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Start processes without coverage where other tests cover them: loading it takes a child longer than its work.

    A `no_cover` test is not measured at all; of a `cover_processes` test every process is. Of a test with several
    parameters the first set is measured in all processes, and the others in this one alone.
    """
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(os, "_exit", os._exit)  # wrapped once more each time that pytest-cov starts coverage again
        if item.get_closest_marker("no_cover"):
            patch.delenv(COVERAGE_CONFIG, raising=False)
            stack.enter_context(unmeasured())
        elif COVERAGE_CONFIG in os.environ:
            config = _of_files_that_run(os.environ[COVERAGE_CONFIG])
            patch.setenv(COVERAGE_CONFIG, config)
            if item.get_closest_marker("cover_processes"):
                pass
            elif _is_variant(item):
                patch.delenv(COVERAGE_CONFIG)
            else:
                patch.setenv(FORK_COVERAGE_CONFIG, config)
                if item.path.parent.name not in _COVERED_TIERS:
                    patch.delenv(COVERAGE_CONFIG)
        return (yield)


def _is_variant(item: pytest.Item) -> bool:
    """Tell whether a test was run with other parameters before, which covers nearly the same lines."""
    callspec = getattr(item, "callspec", None)
    return callspec is not None and any(callspec.indices.values())


@cache
def _data_of_children() -> Path:
    """Make the directory for what children measure, in which every user may write: some have become another one."""
    directory = Path(tempfile.mkdtemp(prefix="measured-"))
    directory.chmod(0o1777)
    return directory


@cache
def _of_files_that_run(config: str) -> str:
    """Return the configuration of coverage for children: at its end each would look for files that it did not run.

    This process looks for them, and names them in its own data.
    """
    of_children = CoverageConfig.deserialize(config)
    of_children.source, of_children.run_include = None, [f"{_PACKAGE}/*"]
    of_children.data_file = str(_data_of_children() / Path(of_children.data_file).name)
    return of_children.serialize()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:  # noqa: ARG001
    """Report a skipped test as failed in CI, where every tier must run."""
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
    """The directory of backups; it does not exist yet."""
    return tmp_path / "backups"


@pytest.fixture
def backupd(database: Path, backups: Path, tmp_path: Path) -> Backupd:
    """The command with one database, without reserved space so that it works on small file systems."""
    environ = {
        "BACKUPD_DATABASE": str(database),
        "BACKUPD_BACKUPS_DIR": str(backups),
        "BACKUPD_SPACE__RESERVE": "0",
    }
    return Backupd(environ, tmp_path)


@pytest.fixture
def context(backups: Path) -> Iterator[TaskContext]:
    """A prepared local store with a log, to run tasks in this process."""
    store = DirectoryStore("local", backups)
    store.prepare()
    log = open_log(backups / "backup.log")
    yield TaskContext(store, log, lock_timeout_s=5)
    log.close()


@pytest.fixture
def order(database: Path) -> BackupRequest:
    """The request for a backup of the bank."""
    return BackupRequest("tasks", database, reserve_bytes=0)


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An OpenSSH server for the user who runs the tests, shared by all tests of this process."""
    with running_sshd(tmp_path_factory.mktemp("sshd") / "server") as server:
        yield server
