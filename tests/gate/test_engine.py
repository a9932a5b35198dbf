"""One deploy at a time, the newest push first, on after a restart; steps are those of the test."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.errors import Cancelled, DeliveryUnknown, GateStepFailed
from backupd.gate.engine import DELIVERS_AGAIN_WITHIN, Engine
from backupd.gate.history import _CODEC, History, Received
from backupd.gate.model import STEPS, Deploy, DeployState, Push, StepName
from backupd.log import open_log
from support.daemon import wait_until
from support.pushes import commit


def push(number: int) -> Push:
    """Return the push after which the branch is at commit `number`."""
    return Push(f"d-{number}", "me/tasks", "refs/heads/main", commit(number), commit(number - 1), "ana")


@dataclass
class ScriptedSteps:
    """Steps that note what they did, block where a test wants it, or fail."""

    names: tuple[StepName, ...] = STEPS
    taken: list[tuple[StepName, str]] = field(default_factory=list)
    blocked: set[StepName] = field(default_factory=set)
    errors: dict[StepName, Exception] = field(default_factory=dict)
    live: str = "v0"
    reported: list[tuple[str, DeployState]] = field(default_factory=list)
    together: int = 0
    work: set[Path] = field(default_factory=set)

    def take(self, name: StepName, deploy: Deploy, work: Path, cancelled: Callable[[], bool]) -> tuple[Deploy, str]:
        self.together += 1
        assert self.together == 1
        try:
            self.taken.append((name, deploy.push.commit))
            self.work.add(work)
            (work / name).mkdir()
            while name in self.blocked:
                if cancelled():
                    raise Cancelled(f"{name} was cancelled")
                time.sleep(0.01)
            if name in self.errors:
                raise self.errors[name]
        finally:
            self.together -= 1
        if name == "backup":
            deploy = replace(deploy, generations=(f"tasks-{deploy.push.commit[:4]}",))
        if name == "deliver":
            self.live = deploy.push.commit
        return deploy, f"{name} is done"

    def before_delivery(self, deploy: Deploy) -> Deploy:
        return replace(deploy, version_before=self.live)

    def arrived(self, deploy: Deploy) -> str:
        return "the app reports it" if self.live == deploy.push.commit else ""

    def report(self, deploy: Deploy) -> None:
        self.reported.append((deploy.push.commit, deploy.state))


@dataclass
class Bench:
    """One gate in this process, on disk in `directory`; a restart opens it again."""

    directory: Path
    steps: ScriptedSteps = field(default_factory=ScriptedSteps)
    now: datetime | None = None

    @contextmanager
    def running(self) -> Iterator[Engine]:
        log = open_log(self.directory / "backup.log")
        engine = Engine(
            "tasks", History.open(self.directory, "tasks"), self.steps, log, lambda: self.now or datetime.now(UTC)
        )
        engine.start()
        try:
            yield engine
        finally:
            engine.stop()
            engine.join(10)
            assert not engine.alive
            log.close()

    def on_disk(self, number: int) -> Deploy:
        """Return the newest deploy of that push, as a restart would find it."""
        paths = sorted((self.directory / "deploys" / "tasks").glob("2*.json"), reverse=True)
        deploys = [_CODEC.validate_json(path.read_bytes()).deploy for path in paths]
        return next(one for one in deploys if one.push.commit == commit(number))

    def wait_for(self, number: int, state: DeployState) -> Deploy:
        wait_until(lambda: self.on_disk(number).state == state, f"{state} ({self.on_disk(number)})")
        return self.on_disk(number)

    def wait_in(self, name: StepName) -> None:
        wait_until(lambda: self.steps.taken[-1:] and self.steps.taken[-1][0] == name, f"step {name}")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def accept(engine: Engine, number: int, delivery: str = "") -> Received:
    one = push(number) if not delivery else replace(push(number), delivery=delivery)
    found = engine.receive(one, f"digest {number}")
    assert isinstance(found, Received)
    return found


def test_push_goes_through_every_step(bench: Bench) -> None:
    with bench.running() as engine:
        accept(engine, 1)
        deploy = bench.wait_for(1, "deployed")
    assert [(one.name, one.state, one.detail) for one in deploy.steps] == [
        (name, "passed", f"{name} is done") for name in STEPS
    ]
    assert (deploy.generations, deploy.version_before) == ((f"tasks-{commit(1)[:4]}",), "v0")
    assert bench.steps.reported == [(commit(1), "running"), (commit(1), "deployed")]
    assert not any(path.exists() for path in bench.steps.work)


def test_each_step_is_logged_when_it_begins_and_ends(bench: Bench) -> None:
    with bench.running() as engine:
        accept(engine, 1)
        bench.wait_for(1, "deployed")
    text = (bench.directory / "backup.log").read_text()
    assert [text.count(f'"step.{what}"') for what in ("started", "ended")] == [len(STEPS)] * 2
    assert [text.count(f'"{what}"') for what in ("push.received", "deploy.started", "deploy.ended")] == [1, 1, 1]


@pytest.mark.parametrize("name", STEPS)
def test_failed_step_stops_deploy(bench: Bench, name: StepName) -> None:
    bench.steps.errors[name] = GateStepFailed("no such\x1b thing", "mend it")
    with bench.running() as engine:
        accept(engine, 1)
        deploy = bench.wait_for(1, "unhealthy" if name == "health" else "stopped")
        bench.steps.errors.clear()
        accept(engine, 2)
        bench.wait_for(2, "deployed")
    assert [one.name for one in deploy.steps] == list(STEPS[: STEPS.index(name) + 1])
    assert deploy.failure is not None
    assert (deploy.failure.detail, deploy.failure.hint) == ("no such\\x1b thing", "mend it")


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError(28, "No space left on device", "/x")])
def test_unforeseen_error_stops_one_deploy_only(bench: Bench, error: Exception) -> None:
    bench.steps.errors["tests"] = error
    with bench.running() as engine:
        accept(engine, 1)
        deploy = bench.wait_for(1, "stopped")
        assert engine.alive
    assert deploy.failure is not None
    assert deploy.failure.hint


def test_delivery_that_is_not_confirmed_is_decided_by_app(bench: Bench) -> None:
    bench.steps.errors["deliver"] = DeliveryUnknown("sent, and not confirmed", "look there")
    with bench.running() as engine:
        accept(engine, 1)
        deploy = bench.wait_for(1, "deployed")
    assert [(one.name, one.state) for one in deploy.steps][-2:] == [("deliver", "passed"), ("health", "passed")]


def test_delivery_that_is_not_confirmed_is_left_to_operator_where_no_app_is_watched(bench: Bench) -> None:
    bench.steps.errors["deliver"] = DeliveryUnknown("sent, and not confirmed", "look there")
    bench.steps.names = STEPS[:-1]
    with bench.running() as engine:
        accept(engine, 1)
        deploy = bench.wait_for(1, "interrupted")
    assert deploy.failure is not None
    assert deploy.failure.hint == "look there"


def test_same_delivery_is_deployed_once(bench: Bench) -> None:
    with bench.running() as engine:
        first = accept(engine, 1)
        bench.wait_for(1, "deployed")
        again = accept(engine, 1)
    assert (again.deploy.id, again.new) == (first.deploy.id, False)
    assert [name for name, _ in bench.steps.taken] == list(STEPS)


# --- The newest push wins ---


@pytest.mark.parametrize("name", STEPS[:-1])
def test_newer_push_cancels_deploy_before_its_delivery(bench: Bench, name: StepName) -> None:
    bench.steps.blocked = {name}
    with bench.running() as engine:
        accept(engine, 1)
        bench.wait_in(name)
        accept(engine, 2)
        old = bench.wait_for(1, "superseded")
        bench.steps.blocked.clear()
        bench.wait_for(2, "deployed")
    assert all(one.state == "passed" for one in old.steps)
    assert ("deliver", commit(1)) not in bench.steps.taken or name == "deliver"
    assert bench.steps.live == commit(2)


def test_delivered_deploy_is_watched_to_its_end(bench: Bench) -> None:
    bench.steps.blocked = {"health"}
    with bench.running() as engine:
        accept(engine, 1)
        bench.wait_in("health")
        accept(engine, 2)
        accept(engine, 3)
        bench.steps.blocked.clear()
        bench.wait_for(3, "deployed")
    assert [bench.on_disk(number).state for number in (1, 2, 3)] == ["deployed", "superseded", "deployed"]
    assert ("backup", commit(2)) not in bench.steps.taken


def test_many_pushes_at_once_deploy_newest(bench: Bench) -> None:
    with bench.running() as engine:
        threads = [threading.Thread(target=accept, args=(engine, number)) for number in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        newest = engine.history.deploys()
        wait_until(lambda: all(one.ended for one in engine.history.deploys()), "the end")
    newest_live = next(one for one in newest if one.state != "superseded")
    assert bench.steps.live == newest_live.push.commit


# --- Restarts ---


@pytest.mark.parametrize("name", STEPS)
def test_restart_goes_on_at_interrupted_step(bench: Bench, name: StepName) -> None:
    bench.steps.blocked = {name}
    with bench.running() as engine:
        accept(engine, 1)
        bench.wait_in(name)
    assert bench.on_disk(1).state == "running"
    bench.steps.blocked.clear()
    bench.steps.taken.clear()
    with bench.running():
        deploy = bench.wait_for(1, "deployed")
    expected = list(STEPS[STEPS.index(name) :])
    if name in ("status", "tests", "deliver"):
        expected.insert(0, "fetch")  # the tree is not kept
    assert [step for step, _ in bench.steps.taken] == expected
    assert [one.name for one in deploy.steps if one.name != "fetch"] == [one for one in STEPS if one != "fetch"]
    assert bench.steps.live == commit(1)


def test_restart_watches_app_from_same_beginning(bench: Bench) -> None:
    bench.steps.blocked = {"health"}
    with bench.running() as engine:
        accept(engine, 1)
        bench.wait_in("health")
    began_at = bench.on_disk(1).steps[-1].began_at
    bench.steps.blocked.clear()
    with bench.running():
        assert bench.wait_for(1, "deployed").steps[-1].began_at == began_at


def test_push_that_waited_is_deployed_after_restart(bench: Bench) -> None:
    bench.steps.blocked = {"health"}
    with bench.running() as engine:
        accept(engine, 1)
        bench.wait_in("health")
        accept(engine, 2)
    bench.steps.blocked.clear()
    with bench.running():
        bench.wait_for(2, "deployed")
    assert bench.on_disk(1).state == "deployed"


def cut_off_delivery(bench: Bench, ago: timedelta) -> None:
    """Leave what a killed gate leaves: a delivery that began, and of which nothing more is known."""
    began_at = datetime.now(UTC) - ago
    history = History.open(bench.directory, "tasks")
    found = history.receive("tasks", push(1), "digest 1", began_at)
    assert isinstance(found, Received)
    bench.steps.blocked = {"deliver"}
    bench.now = began_at
    with bench.running():
        bench.wait_in("deliver")
        running = bench.on_disk(1)
    history.save(running)
    bench.steps.blocked.clear()
    bench.steps.taken.clear()
    bench.now = None


def test_delivery_that_was_cut_off_and_arrived_is_not_repeated(bench: Bench) -> None:
    cut_off_delivery(bench, timedelta(hours=1))
    bench.steps.live = commit(1)
    with bench.running():
        deploy = bench.wait_for(1, "deployed")
    assert [name for name, _ in bench.steps.taken] == ["health"]
    assert any("cut off" in one.detail for one in deploy.steps)


def test_delivery_that_was_just_cut_off_is_repeated(bench: Bench) -> None:
    bench.steps.names = ("deliver", "health")
    cut_off_delivery(bench, DELIVERS_AGAIN_WITHIN / 2)
    with bench.running():
        bench.wait_for(1, "deployed")
    assert [name for name, _ in bench.steps.taken] == ["deliver", "health"]


def test_delivery_that_was_cut_off_long_ago_is_left_to_operator(bench: Bench) -> None:
    cut_off_delivery(bench, DELIVERS_AGAIN_WITHIN * 2)
    with bench.running():
        deploy = bench.wait_for(1, "interrupted")
    assert bench.steps.taken == []
    assert deploy.failure is not None
    assert "CapRover" in deploy.failure.hint


def test_delivery_that_was_cut_off_is_not_forgotten_by_second_restart(bench: Bench) -> None:
    bench.steps.names = ("fetch", "deliver", "health")
    cut_off_delivery(bench, timedelta(hours=1))
    bench.now = datetime.now(UTC) - timedelta(minutes=59)
    bench.steps.blocked = {"fetch"}
    with bench.running():
        bench.wait_in("fetch")
    bench.steps.blocked.clear()
    bench.now = None
    with bench.running():
        bench.wait_for(1, "interrupted")
    assert ("deliver", commit(1)) not in bench.steps.taken


def test_failure_after_delivery_that_was_cut_off_does_not_count_as_stopped(bench: Bench) -> None:
    bench.steps.names = ("fetch", "deliver", "health")
    cut_off_delivery(bench, timedelta(minutes=1))
    bench.steps.errors["fetch"] = GateStepFailed("no such commit", "push again")
    with bench.running():
        bench.wait_for(1, "interrupted")


def test_delivery_that_was_cut_off_is_not_repeated_before_newer_push(bench: Bench) -> None:
    cut_off_delivery(bench, timedelta(minutes=1))
    History.open(bench.directory, "tasks").receive("tasks", push(2), "digest 2", datetime.now(UTC))
    with bench.running():
        bench.wait_for(2, "deployed")
    assert bench.on_disk(1).state == "interrupted"
    assert ("deliver", commit(1)) not in bench.steps.taken


# --- The disk ---


def test_step_that_cannot_be_recorded_is_not_taken(bench: Bench) -> None:
    bench.steps.blocked = {"status"}
    directory, aside = bench.directory / "deploys" / "tasks", bench.directory / "aside"
    with bench.running() as engine:
        accept(engine, 1)
        bench.wait_in("status")
        directory.rename(aside)
        bench.steps.blocked.clear()
        wait_until(lambda: engine.history.deploys()[0].ended, "the end")
        assert engine.history.deploys()[0].state == "stopped"
        aside.rename(directory)
    assert ("deliver", commit(1)) not in bench.steps.taken
    assert "deploy.record_failed" in (bench.directory / "backup.log").read_text()
