"""The scheduler fires at start and every minute, and again after each known way to stall."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from backupd.daemon.scheduler import Scheduler
from support.daemon import wait_until

STALLED_S = 0.3


class Ticks:
    """Counts ticks; the next one hangs, or fails, when told so."""

    def __init__(self) -> None:
        self.count = 0
        self.errors: list[Exception] = []
        self.fails = False
        self.free = threading.Event()
        self.free.set()

    def __call__(self) -> None:
        self.count += 1
        self.free.wait(30)
        if self.fails:
            raise OSError("the volume went away")


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def scheduler(ticks: Ticks) -> Iterator[Scheduler]:
    scheduler = Scheduler(ticks, ticks.errors.append, stalled_s=STALLED_S)
    wait_until(lambda: datetime.now(UTC).second < 50, "a moment that is not about to fire by itself")
    scheduler.start()
    wait_until(lambda: ticks.count == 1, "the first tick")
    yield scheduler
    ticks.free.set()
    scheduler.stop()


def wait_until_stalled(scheduler: Scheduler) -> None:
    wait_until(lambda: scheduler.age_s() > STALLED_S, "a stall")


def test_scheduler_fires_at_start_and_at_the_next_full_minute(scheduler: Scheduler) -> None:
    job = scheduler._scheduler.get_job("tick")
    now = datetime.now(UTC)
    assert now < job.next_run_time <= now + timedelta(minutes=1)
    assert job.next_run_time.second == 0
    assert (job.coalesce, job.max_instances, job.misfire_grace_time) == (True, 1, None)


def test_fire_soon_fires_at_once_and_keeps_the_minutes(scheduler: Scheduler, ticks: Ticks) -> None:
    scheduler.fire_soon()
    wait_until(lambda: ticks.count == 2, "another tick", 20)
    assert scheduler._scheduler.get_job("tick").next_run_time.second == 0


def test_fire_soon_before_start_or_after_stop_does_nothing(ticks: Ticks) -> None:
    scheduler = Scheduler(ticks, ticks.errors.append)
    scheduler.fire_soon()
    scheduler.start()
    wait_until(lambda: ticks.count == 1, "the first tick")
    scheduler.stop()
    scheduler.fire_soon()
    assert ticks.count == 1


def test_working_scheduler_is_not_replaced(scheduler: Scheduler) -> None:
    assert scheduler.age_s() < 30
    assert not Scheduler(lambda: None, lambda _: None).replace_if_stalled()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_scheduler_whose_thread_died_is_replaced(scheduler: Scheduler, ticks: Ticks) -> None:
    inner = scheduler._scheduler
    inner.modify_job("tick", next_run_time=datetime.now(UTC) + timedelta(seconds=0.2))
    inner._jobstores["default"].update_job = broken  # what "database is locked" does to a store on disk
    wait_until(lambda: not inner._thread.is_alive(), "the death of the thread")
    assert inner.running, "APScheduler notices by itself: `replace_if_stalled` is no longer needed"
    wait_until_stalled(scheduler)
    fired = ticks.count
    assert scheduler.replace_if_stalled()
    wait_until(lambda: ticks.count > fired, "a tick of the new scheduler")


def broken(_job: object) -> None:
    raise OSError("no more")


def test_scheduler_fires_after_the_clock_was_set_back(scheduler: Scheduler, ticks: Ticks) -> None:
    # what is left behind when the clock goes back a day: the next minute lies a day ahead
    scheduler._scheduler.modify_job("tick", next_run_time=datetime.now(UTC) + timedelta(days=1))
    wait_until_stalled(scheduler)
    assert scheduler.replace_if_stalled()
    wait_until(lambda: ticks.count == 2, "a tick of the new scheduler")
    assert scheduler.age_s() < 30


def test_failed_tick_is_reported_and_the_next_one_comes(scheduler: Scheduler, ticks: Ticks) -> None:
    ticks.fails = True
    scheduler._scheduler.modify_job("tick", next_run_time=datetime.now(UTC))
    wait_until(lambda: ticks.errors, "the error")
    ticks.fails = False
    scheduler._scheduler.modify_job("tick", next_run_time=datetime.now(UTC))
    wait_until(lambda: ticks.count == 3, "the next tick")
    assert [str(error) for error in ticks.errors] == ["the volume went away"]


def test_hanging_tick_is_noticed_and_does_not_multiply_schedulers(scheduler: Scheduler, ticks: Ticks) -> None:
    ticks.free.clear()
    scheduler._scheduler.modify_job("tick", next_run_time=datetime.now(UTC))
    wait_until(lambda: ticks.count == 2, "a tick that hangs")
    wait_until_stalled(scheduler)
    before = threading.active_count()
    assert not any(scheduler.replace_if_stalled() for _ in range(20))
    assert threading.active_count() == before
    ticks.free.set()
    wait_until(lambda: scheduler.age_s() < STALLED_S, "the end of that tick")
