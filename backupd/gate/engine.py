"""Takes the deploys of one gate through their steps: one at a time, the newest push first, on after a restart.

What a step has done is durable before the next one begins. A push that a newer one follows is given up before its
delivery, and never after it. A step that was interrupted is taken again, since all but the delivery can be; for that
see `_settle_delivery`.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from backupd.errors import Cancelled, DeliveryUnknown, UnexpectedError
from backupd.formatting import human_duration, printable
from backupd.gate.delivery import Ignored
from backupd.gate.history import History, Received
from backupd.gate.model import Deploy, DeployState, Push, Step, StepName
from backupd.gate.waiting import IsCancelled, require_wanted
from backupd.log import Event, EventLog
from backupd.system.os_errors import foreseen_error, os_error_hint, os_error_text

# A gate that comes back after this time does not deliver again: an operator may have gone back to another version.
DELIVERS_AGAIN_WITHIN: Final = timedelta(minutes=15)
_NEEDS_TREE: Final[frozenset[StepName]] = frozenset({"tests", "deliver"})
_LONGEST_TEXT: Final = 1000
_DEFECT: Final = "report this with the log of the gate"
_AGAIN: Final = "look in CapRover (Deployment) which version was built last; to deploy this one, redeliver its push"
_WORDS: Final[dict[DeployState, str]] = {
    "deployed": "deployed",
    "stopped": "stopped: production is unchanged",
    "unhealthy": "delivered, and the app did not come up",
    "superseded": "superseded by a newer push",
    "interrupted": "interrupted",
}


class Steps(Protocol):
    """What is done for the deploys of one gate."""

    names: tuple[StepName, ...]

    def take(self, name: StepName, deploy: Deploy, work: Path, cancelled: IsCancelled) -> tuple[Deploy, str]:
        """Take one step with files in the directory `work`; return the deploy with what it added, and a sentence.

        Raises BackupdError, OSError; and Cancelled, which a delivery raises only before it is sent.
        """

    def before_delivery(self, deploy: Deploy) -> Deploy:
        """Return the deploy with what must be known of production before it changes."""

    def arrived(self, deploy: Deploy) -> str:
        """Return in a sentence that production has this version already; empty where that is not so, or not known."""

    def report(self, deploy: Deploy) -> None:
        """Tell others how the deploy stands; what fails is logged."""


class Engine:
    """The thread of one gate."""

    def __init__(
        self, gate: str, history: History, steps: Steps, log: EventLog, clock: Callable[[], datetime] | None = None
    ) -> None:
        self.gate, self.history = gate, history
        self._steps, self._log = steps, log
        self._clock = clock or (lambda: datetime.now(UTC))
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"gate-{gate}", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin with what was left of the last time."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end soon; what is under way goes on when the gate starts again."""
        self._stopping.set()
        self._wake.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread, at most so long."""
        self._thread.join(timeout_s)

    def receive(self, push: Push, digest: str) -> Received | Ignored:
        """Accept a push, durably, and return its deploy at once. Raises OSError."""
        found = self.history.receive(self.gate, push, digest, self._clock())
        if isinstance(found, Received) and found.new:
            what = f"{self.gate}: {push.version} was pushed to {push.ref} by {push.pusher or 'an unknown user'}"
            fate = ", before the one that is being deployed" if found.deploy.ended else ""
            self._log.info(Event.PUSH_RECEIVED, what + fate, **_fields(found.deploy))
            self._wake.set()
        return found

    def _run(self) -> None:
        while not self._stopping.is_set():
            deploy = None
            try:
                deploy = self._next()
                if deploy is None:
                    self._wake.wait()
                    self._wake.clear()
                else:
                    self._deploy(deploy)
            except Cancelled:
                continue
            except Exception as error:  # noqa: BLE001 - the thread must survive any defect
                what = f"{self.gate}: {UnexpectedError.of(error, _DEFECT).message}"
                self._log.error(Event.RUN_FAILED, what, hint=_DEFECT)
                if deploy is not None:
                    self._end(self.history.get(deploy.id), "interrupted")

    def _next(self) -> Deploy | None:
        """Return what to do: first the rest of a delivery, then the newest push; older ones are superseded."""
        pending = [one for one in self.history.deploys() if not one.ended]
        begun = [one for one in pending if _step(one, "deliver")]
        if begun:
            return begun[-1]
        for older in pending[1:]:
            self._end(older, "superseded")
        return pending[0] if pending else None

    def _deploy(self, deploy: Deploy) -> None:
        """Take the steps that are left. Raises Cancelled when the gate ends."""
        again, interrupted = deploy.state == "running", _running(deploy)
        cut_off = interrupted if interrupted is not None and interrupted.name == "deliver" else None
        what = f"{self.gate}: deploy of {deploy.push.version} {'goes on' if again else 'begins'}"
        self._log.info(Event.DEPLOY_RESUMED if again else Event.DEPLOY_STARTED, what, **_fields(deploy))
        deploy = replace(deploy, state="running")
        self._steps.report(deploy)
        if cut_off is not None:
            deploy = self._settle_delivery(deploy, cut_off)
        left = self._left(deploy) if deploy.failure is None else ()
        kept = tuple(one for one in deploy.steps if one.name not in left or one == cut_off)
        deploy = self._saved(replace(deploy, steps=kept))
        began_at = interrupted.began_at if interrupted is not None and interrupted.name == "health" else None
        try:
            if left:
                deploy = self._take_all(left, deploy, began_at)
        except _Superseded:
            deploy = self.history.get(deploy.id)
            self._end(deploy, "interrupted" if _is_cut_off(deploy) else "superseded")
        else:
            self._end(deploy, _outcome(deploy))

    def _left(self, deploy: Deploy) -> tuple[StepName, ...]:
        """Return which steps are to be taken; the tree that another one needs is fetched again."""
        passed = {one.name for one in deploy.steps if one.state == "passed"}
        left = {name for name in self._steps.names if name not in passed}
        again = set() if _NEEDS_TREE.isdisjoint(left) else {"fetch"}
        return tuple(name for name in self._steps.names if name in left | again)

    def _settle_delivery(self, deploy: Deploy, step: Step) -> Deploy:
        """Return the deploy after a delivery that was cut off: passed, failed as interrupted, or to be taken again.

        To deliver the same files again does no harm, unless an operator has meanwhile gone back to another version.
        """
        if arrived := self._steps.arrived(deploy):
            return self._ended_step(deploy, replace(step, state="passed", detail=f"it was cut off, and {arrived}"))
        since = self._clock() - step.began_at
        if since <= DELIVERS_AGAIN_WITHIN and not self._is_overtaken(deploy):
            return deploy
        gone_back = "an operator may have gone back to another version since"
        why = "a newer push has come" if self._is_overtaken(deploy) else gone_back
        what = f"the gate ended while it delivered, {human_duration(since.total_seconds())} ago"
        failed = replace(step, state="failed", detail=f"{what}; it is not delivered again: {why}", hint=_AGAIN)
        return replace(self._ended_step(deploy, failed), state="interrupted")

    def _take_all(self, names: tuple[StepName, ...], deploy: Deploy, health_began_at: datetime | None) -> Deploy:
        """Take steps until one fails. Raises _Superseded, and Cancelled at the end."""
        try:
            work = self.history.make_work()
        except OSError as error:
            return self._failed_step(deploy, Step(names[0], "running", self._clock()), error)
        try:
            for name in names:
                began_at = health_began_at if name == "health" else None
                deploy = self._take(Step(name, "running", began_at or self._clock()), deploy, work)
                if deploy.failure:
                    break
        finally:
            self._remove_work(deploy)
        return deploy

    def _take(self, step: Step, deploy: Deploy, work: Path) -> Deploy:
        """Take one step; return the deploy with what came of it. Raises _Superseded, and Cancelled at the end."""

        def cancelled() -> bool:
            return self._stopping.is_set() or (step.name != "health" and self._is_overtaken(deploy))

        try:
            require_wanted(cancelled)
            if step.name == "deliver" and deploy.version_before is None:
                deploy = self._steps.before_delivery(deploy)
            deploy = deploy.with_step(step)
            self.history.save(deploy)
            what = f"{self.gate}: {deploy.push.version}: {step.name} begins"
            self._log.info(Event.STEP_STARTED, what, **_fields(deploy, step))
            deploy, detail = self._steps.take(step.name, deploy, work, cancelled)
        except Cancelled:
            if step.name == "deliver":  # nothing was delivered: see `Steps.take`
                self._saved(_without_running(deploy))
            if self._stopping.is_set():
                raise
            raise _Superseded from None
        except DeliveryUnknown as error:
            return self._unconfirmed(deploy, step, error)
        except Exception as error:  # noqa: BLE001 - a defect of one step stops this deploy, and no other
            return self._failed_step(deploy, step, error)
        return self._ended_step(deploy, replace(step, state="passed", detail=detail))

    def _unconfirmed(self, deploy: Deploy, step: Step, error: DeliveryUnknown) -> Deploy:
        """Return the deploy after a delivery of which the app has to tell whether it arrived, if it is watched."""
        if "health" in self._steps.names:
            return self._ended_step(deploy, replace(step, state="passed", detail=error.message, hint=error.hint))
        return replace(self._failed_step(deploy, step, error), state="interrupted")

    def _failed_step(self, deploy: Deploy, step: Step, error: Exception) -> Deploy:
        found = foreseen_error(error) or UnexpectedError.of(error, _DEFECT)
        return self._ended_step(deploy, replace(step, state="failed", detail=found.message, hint=found.hint))

    def _ended_step(self, deploy: Deploy, step: Step) -> Deploy:
        """Return the deploy with the result of a step, saved and logged."""
        step = replace(step, ended_at=self._clock(), detail=self._shown(step.detail), hint=self._shown(step.hint))
        seconds = _seconds(step.began_at, step.ended_at)
        what = f"{self.gate}: {deploy.push.version}: {step.name} {step.state} in {human_duration(seconds)}"
        log = self._log.error if step.state == "failed" else self._log.info
        text = f"{what}: {step.detail}" if step.detail else what
        fields = _fields(deploy, step)
        log(Event.STEP_ENDED, text, outcome=step.state, duration_s=round(seconds, 1), hint=step.hint or None, **fields)
        return self._saved(deploy.with_step(step))

    def _end(self, deploy: Deploy, state: DeployState) -> None:
        deploy = self._saved(replace(_without_running(deploy), state=state, ended_at=self._clock()))
        log = {"deployed": self._log.info, "superseded": self._log.info, "stopped": self._log.warning}.get(
            state, self._log.error
        )
        seconds = _seconds(deploy.received_at, deploy.ended_at)
        what = f"{self.gate}: deploy of {deploy.push.version} {_WORDS[state]}, after {human_duration(seconds)}"
        log(Event.DEPLOY_ENDED, what, outcome=state, duration_s=round(seconds, 1), **_fields(deploy))
        self._steps.report(deploy)

    def _saved(self, deploy: Deploy) -> Deploy:
        """Save `deploy` as far as possible, and return it: what has happened is not undone by a full disk."""
        try:
            self.history.save(deploy)
        except OSError as error:
            found = foreseen_error(error)
            what = f"{self.gate}: the record of {deploy.id} cannot be written: {found.message if found else error}"
            self._log.error(Event.DEPLOY_RECORD_FAILED, what, hint=found.hint if found else None)
        return deploy

    def _remove_work(self, deploy: Deploy) -> None:
        try:
            self.history.remove_work()
        except OSError as error:
            what = f"{self.gate}: files of {deploy.id} cannot be removed: {os_error_text(error)}"
            self._log.warning(Event.DEPLOY_RECORD_FAILED, what, hint=os_error_hint(error))

    def _is_overtaken(self, deploy: Deploy) -> bool:
        """Tell whether a newer push waits."""
        return any(not one.ended and one.received_at > deploy.received_at for one in self.history.deploys())

    def _shown(self, text: str) -> str:
        return self._log.mask(printable(text))[:_LONGEST_TEXT]


class _Superseded(Exception):
    """A newer push has come before the delivery."""


def _outcome(deploy: Deploy) -> DeployState:
    failed = deploy.failure
    if failed is None:
        return "deployed"
    if deploy.state == "interrupted" or _is_cut_off(deploy):
        return "interrupted"
    return "unhealthy" if failed.name == "health" else "stopped"


def _step(deploy: Deploy, name: StepName) -> Step | None:
    return next((one for one in deploy.steps if one.name == name), None)


def _is_cut_off(deploy: Deploy) -> bool:
    """Return whether a delivery began of which nothing more is known."""
    return any(one.name == "deliver" and one.state == "running" for one in deploy.steps)


def _running(deploy: Deploy) -> Step | None:
    return next((one for one in deploy.steps if one.state == "running"), None)


def _without_running(deploy: Deploy) -> Deploy:
    return replace(deploy, steps=tuple(one for one in deploy.steps if one.state != "running"))


def _seconds(began_at: datetime, ended_at: datetime | None) -> float:
    return max(0.0, (ended_at - began_at).total_seconds()) if ended_at else 0.0


def _fields(deploy: Deploy, step: Step | None = None) -> dict[str, object]:
    push, name = deploy.push, step.name if step else None
    return {"gate": deploy.gate, "deploy": deploy.id, "ref": push.ref, "commit": push.commit, "step": name}
