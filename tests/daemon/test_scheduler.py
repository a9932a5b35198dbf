"""What fires: at start, every minute, and again after the scheduler got stuck in any of the ways that are known."""

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
def ticker(ticks: Ticks) -> Iterator[Scheduler]:
    ticker = Scheduler(ticks, ticks.errors.append, stalled_s=STALLED_S)
    wait_until(lambda: datetime.now(UTC).second < 50, "a moment that is not about to fire by itself")
    ticker.start()
    wait_until(lambda: ticks.count == 1, "the first tick")
    yield ticker
    ticks.free.set()
    ticker.stop()


def wait_until_stalled(ticker: Scheduler) -> None:
    wait_until(lambda: ticker.age_s() > STALLED_S, "a stall")


def test_it_fires_at_start_and_then_at_the_next_full_minute(ticker: Scheduler) -> None:
    job = ticker._scheduler.get_job("tick")
    now = datetime.now(UTC)
    assert now < job.next_run_time <= now + timedelta(minutes=1)
    assert job.next_run_time.second == 0
    assert (job.coalesce, job.max_instances, job.misfire_grace_time) == (True, 1, None)


def test_told_to_hurry_it_fires_at_once_and_goes_on_as_before(ticker: Scheduler, ticks: Ticks) -> None:
    ticker.hurry()
    wait_until(lambda: ticks.count == 2, "another tick", 20)
    assert ticker._scheduler.get_job("tick").next_run_time.second == 0


def test_told_to_hurry_before_its_start_or_after_its_end_it_does_nothing(ticks: Ticks) -> None:
    ticker = Scheduler(ticks, ticks.errors.append)
    ticker.hurry()
    ticker.start()
    wait_until(lambda: ticks.count == 1, "the first tick")
    ticker.stop()
    ticker.hurry()
    assert ticks.count == 1


def test_it_is_not_mended_while_it_is_well(ticker: Scheduler) -> None:
    assert ticker.age_s() < 30
    assert not Scheduler(lambda: None, lambda _: None).mend()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_scheduler_whose_thread_died_unnoticed_is_replaced(ticker: Scheduler, ticks: Ticks) -> None:
    scheduler = ticker._scheduler
    scheduler.modify_job("tick", next_run_time=datetime.now(UTC) + timedelta(seconds=0.2))
    scheduler._jobstores["default"].update_job = broken  # what "database is locked" does to a store on disk
    wait_until(lambda: not scheduler._thread.is_alive(), "the death of the thread")
    assert scheduler.running, "APScheduler notices by itself: this test and `mend` have had their day"
    wait_until_stalled(ticker)
    fired = ticks.count
    assert ticker.mend()
    wait_until(lambda: ticks.count > fired, "a tick of the new scheduler")


def broken(_job: object) -> None:
    raise OSError("no more")


def test_a_clock_that_was_set_back_does_not_silence_it(ticker: Scheduler, ticks: Ticks) -> None:
    # what is left behind when the clock goes back a day: the next minute lies a day ahead
    ticker._scheduler.modify_job("tick", next_run_time=datetime.now(UTC) + timedelta(days=1))
    wait_until_stalled(ticker)
    assert ticker.mend()
    wait_until(lambda: ticks.count == 2, "a tick of the new scheduler")
    assert ticker.age_s() < 30


def test_a_tick_that_fails_is_told_and_the_next_one_comes(ticker: Scheduler, ticks: Ticks) -> None:
    ticks.fails = True
    ticker._scheduler.modify_job("tick", next_run_time=datetime.now(UTC))
    wait_until(lambda: ticks.errors, "the error")
    ticks.fails = False
    ticker._scheduler.modify_job("tick", next_run_time=datetime.now(UTC))
    wait_until(lambda: ticks.count == 3, "the next tick")
    assert [str(error) for error in ticks.errors] == ["the volume went away"]


def test_a_tick_that_hangs_is_seen_and_no_reason_to_pile_up_schedulers(ticker: Scheduler, ticks: Ticks) -> None:
    ticks.free.clear()
    ticker._scheduler.modify_job("tick", next_run_time=datetime.now(UTC))
    wait_until(lambda: ticks.count == 2, "a tick that hangs")
    wait_until_stalled(ticker)
    before = threading.active_count()
    assert not any(ticker.mend() for _ in range(20))
    assert threading.active_count() == before
    ticks.free.set()
    wait_until(lambda: ticker.age_s() < STALLED_S, "the end of that tick")
