"""Several databases that are pinned together: how far apart their copies are, and what is left alone."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.errors import SourceReplaced
from backupd.sqlite.pinned import Pinnable, PinnedSource, pinned_together
from backupd.sqlite.snapshot import Snapshot
from backupd.sqlite.source import Source
from backupd.sqlite.worker.protocol import SnapshotSettings
from backupd.system.directory import Directory
from support.app import running_app
from support.backup_runs import APP
from support.bank import is_balanced, make_bank
from support.cipher import WHOLE, encrypted
from support.processes import children_of, command_line, die_in_a_transaction, is_gone, wait_until
from support.snapshots import SHORT_WAITS, Take
from support.taking_turns import apart_ns, last_turn, make_turns, taking_turns, turns

ROUNDS = 25  # in either mixture of journal modes
PATIENT = SHORT_WAITS._replace(writer_budget_s=20)


@contextmanager
def pinned(
    tmp_path: Path, paths: Sequence[Path], settings: SnapshotSettings = PATIENT
) -> Iterator[list[PinnedSource | None]]:
    """Pin the databases at `paths` during the block."""
    number = len([*tmp_path.glob("pinned-*")])
    staging = tmp_path / f"pinned-{number}"
    staging.mkdir()
    wanted = [Pinnable(Source.inspect(path), settings) for path in paths]
    with Directory.open(staging) as directory, pinned_together(wanted, directory) as found:
        yield found


def copy(one: PinnedSource | None) -> Snapshot | None:
    assert one is not None
    return one.copy(time.monotonic() + 30, lambda _done, _total: None, lambda _event, _message: None)


def make_two(tmp_path: Path, *modes: str) -> list[Path]:
    paths = [tmp_path / f"{number}.db" for number in range(len(modes))]
    for path, mode in zip(paths, modes, strict=True):
        make_bank(path, mode, rows=10)
    return paths


@pytest.mark.real_clock
@pytest.mark.no_cover
@pytest.mark.parametrize("modes", [("wal",) * 4, ("wal", "delete", "wal", "delete")], ids=["WAL", "mixed"])
def test_copies_of_databases_written_in_turn_are_never_further_apart_than_their_spread(
    tmp_path: Path, modes: Sequence[str]
) -> None:
    paths = [tmp_path / f"{number}.db" for number in range(len(modes))]
    make_turns(paths, modes)
    rounds = list[tuple[list[int], timedelta]]()
    with taking_turns(paths):
        while len(rounds) < ROUNDS:
            with pinned(tmp_path, paths) as found:
                together = [one for one in found if one is not None]
                if len(together) < len(paths):  # a machine this busy kept one from being pinned in time
                    continue
                spread = max(one.until for one in together) - min(one.since for one in together)
                copies = [
                    made for one in sorted(together, key=lambda one: not one.holds_writers) if (made := copy(one))
                ]
                if None not in copies:
                    rounds.append(([last_turn(made.file.path) for made in copies if made], spread))
    at = {number: time_ns for path in paths for number, time_ns in turns(path).items()}
    assert len({tuple(last) for last, _ in rounds}) == ROUNDS
    for last, spread in rounds:
        assert apart_ns(last, at) <= spread / timedelta(microseconds=1) * 1000
    assert sorted(spread for _, spread in rounds)[ROUNDS // 2] < timedelta(seconds=1)


def test_writers_of_wal_databases_go_on_and_those_of_others_wait_until_their_copy(tmp_path: Path) -> None:
    wal, rollback = make_two(tmp_path, "wal", "delete")
    with pinned(tmp_path, [wal, rollback]) as found, running_app(wal) as app, running_app(rollback) as waiting:
        assert [one.holds_writers for one in found if one] == [False, True]
        app.sql("UPDATE account SET balance = 0")
        waiting.sql("PRAGMA busy_timeout=0")
        with pytest.raises(AssertionError, match="locked"):
            waiting.sql("UPDATE account SET balance = 0")
        second = copy(found[1])
        assert second is not None
        assert 0 < second.writers_held_s < 20
        waiting.sql("UPDATE account SET balance = 0")
        first = copy(found[0])
    assert first is not None
    assert is_balanced(first.file.path, 10)
    assert first.since <= first.until < second.until + timedelta(seconds=20)
    assert not list(tmp_path.glob("*-wal"))


def test_source_alone_is_not_pinned_ahead(tmp_path: Path) -> None:
    with pinned(tmp_path, make_two(tmp_path, "wal")) as found:
        assert found == [None]
        assert not [pid for pid in children_of(os.getpid()) if b"pinned_sources" in command_line(pid)]


@pytest.fixture
def left_alone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A database that cannot be pinned with others."""
    path = tmp_path / "alone.db"
    if request.param == "encrypted":
        with encrypted(path, WHOLE, "delete"):
            yield path
        return
    make_bank(path, "delete")
    if request.param == "hot journal":
        die_in_a_transaction(path)
    with running_app(path) as app:
        if request.param == "locked":
            app.sql("BEGIN EXCLUSIVE")
            app.sql("UPDATE account SET balance = 0")
        yield path


@pytest.mark.parametrize("left_alone", ["encrypted", "hot journal", "locked"], indirect=True)
def test_what_cannot_be_pinned_is_left_alone_and_others_are_pinned(tmp_path: Path, left_alone: Path) -> None:
    wal, rollback = make_two(tmp_path, "wal", "delete")
    settings = SHORT_WAITS._replace(writer_budget_s=3)
    began = time.monotonic()
    with pinned(tmp_path, [left_alone, rollback, wal], settings) as found:
        held_s = time.monotonic() - began
        assert [one is not None for one in found] == [False, True, True]
        assert [made is not None for made in map(copy, found[1:])] == [True, True]
    assert held_s < 30


def test_writers_that_accept_less_than_the_copy_takes_are_not_held(tmp_path: Path) -> None:
    paths = make_two(tmp_path, "delete", "wal", "wal")
    with pinned(tmp_path, paths, SHORT_WAITS._replace(writer_budget_s=1e-6)) as found:
        assert [one is not None for one in found] == [False, True, True]


def test_small_databases_are_held_together_only_while_their_copies_fit_the_budget(tmp_path: Path) -> None:
    paths = make_two(tmp_path, *["delete"] * 4)
    size = paths[0].stat().st_size
    with pinned(tmp_path, paths, SHORT_WAITS._replace(writer_budget_s=2.5 * size / 200e6)) as found:
        assert sum(one is not None for one in found) <= 2


def test_pin_that_holds_writers_for_longer_than_they_accept_is_released(tmp_path: Path) -> None:
    paths = make_two(tmp_path, "delete", "wal")
    with pinned(tmp_path, paths, SHORT_WAITS._replace(writer_budget_s=0.5)) as found, running_app(paths[0]) as app:
        app.sql("PRAGMA busy_timeout=20000")
        app.sql("UPDATE account SET balance = 0")
        assert copy(found[0]) is None
        assert copy(found[1]) is not None
    assert not list((tmp_path / "pinned-0").glob("0.*"))


def test_pin_is_released_when_disk_of_app_fills_up(tmp_path: Path) -> None:
    paths = make_two(tmp_path, "wal", "wal")
    settings = SHORT_WAITS._replace(reserve_bytes=1 << 60)
    with pinned(tmp_path, paths, settings) as found, running_app(paths[0]) as app:
        app.sql("PRAGMA busy_timeout=0")
        app.sql("UPDATE account SET balance = 0")
        wait_until(lambda: app.sql("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0)
        assert copy(found[0]) is None


def test_pins_are_released_with_their_process(tmp_path: Path) -> None:
    paths = make_two(tmp_path, "delete", "wal", "wal")
    with pinned(tmp_path, paths) as found, running_app(paths[0]) as app:
        (worker,) = [pid for pid in children_of(os.getpid()) if b"pinned_sources" in command_line(pid)]
        assert copy(found[1]) is not None
        os.kill(worker, signal.SIGKILL)
        app.sql("UPDATE account SET balance = 0")
        assert [copy(found[0]), copy(found[2])] == [None, None]
    assert is_gone(worker)


def test_process_that_hangs_does_not_hold_writers_for_longer_than_they_accept(tmp_path: Path) -> None:
    paths = make_two(tmp_path, "delete", "wal")
    with pinned(tmp_path, paths, SHORT_WAITS._replace(writer_budget_s=1)) as found, running_app(paths[0]) as app:
        (worker,) = [pid for pid in children_of(os.getpid()) if b"pinned_sources" in command_line(pid)]
        os.kill(worker, signal.SIGSTOP)
        assert copy(found[0]) is None
        app.sql("UPDATE account SET balance = 0")
        assert copy(found[1]) is None


def test_database_replaced_while_it_is_pinned_is_not_copied(tmp_path: Path) -> None:
    paths = make_two(tmp_path, "wal", "wal")
    make_bank(tmp_path / "new.db", rows=10)
    with pinned(tmp_path, paths) as found:
        (tmp_path / "new.db").rename(paths[0])
        with pytest.raises(SourceReplaced):
            copy(found[0])
        assert copy(found[1]) is not None


@pytest.mark.root
def test_databases_of_two_owners_are_pinned_by_their_owners(data: Path, tmp_path: Path) -> None:
    make_bank(data / "roots.db", rows=10)
    make_bank(data / "other.db", rows=10)
    os.chown(data / "other.db", APP, APP)
    with pinned(tmp_path, [data / "tasks.db", data / "roots.db", data / "other.db"]) as found:
        assert None not in found
        assert len([pid for pid in children_of(os.getpid()) if b"pinned_sources" in command_line(pid)]) == 2
        assert None not in [copy(one) for one in found]
    owners = {path.name: path.stat().st_uid for path in data.glob("*-shm")}
    assert owners == {"tasks.db-shm": APP, "roots.db-shm": 0, "other.db-shm": APP}


def test_two_names_of_one_file_are_not_pinned_together(tmp_path: Path) -> None:
    one, other = make_two(tmp_path, "wal", "wal")
    (tmp_path / "link.db").hardlink_to(one)
    wanted = [Pinnable(Source.inspect(path, allow_links=True), PATIENT) for path in (one, tmp_path / "link.db", other)]
    (tmp_path / "staging").mkdir()
    with Directory.open(tmp_path / "staging") as staging, pinned_together(wanted, staging) as found:
        assert [pin is not None for pin in found] == [True, False, True]


@pytest.mark.real_clock
@pytest.mark.parametrize(("mode", "rows"), [("delete", 120_000), ("wal", 40_000)], ids=["unpinned", "pinned"])
def test_instant_of_copy_is_at_its_end_if_unpinned_and_else_at_its_beginning(
    tmp_path: Path, take: Take, asleep: Callable[[int], None], mode: str, rows: int
) -> None:
    path = tmp_path / "large.db"
    make_bank(path, mode, rows=rows)
    asleep(1500)
    began = time.time()
    made = take(path)
    slept = timedelta(seconds=2)  # as `asleep` says
    assert made.writers_held_s == 0
    if mode == "wal":
        assert datetime.fromtimestamp(began, UTC) <= made.since <= made.until <= datetime.now(UTC) - slept
    else:
        assert datetime.fromtimestamp(began, UTC) + slept <= made.since <= made.until <= datetime.now(UTC)


@pytest.mark.real_clock
@pytest.mark.parametrize("left_alone", ["encrypted", "hot journal"], indirect=True)
def test_instant_of_copy_made_under_a_lock_is_within_it(left_alone: Path, take: Take) -> None:
    began = time.time()
    made = take(left_alone)
    assert began <= made.since.timestamp() <= made.until.timestamp() <= time.time()
