"""What each step of a deploy does, by the modules that do it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from backupd.errors import GateStepFailed
from backupd.formatting import one_line
from backupd.gate.app_tests import run_tests
from backupd.gate.backup_step import fetch_copy, take_backup
from backupd.gate.caprover import deliver, forward, require_definition
from backupd.gate.forgejo import await_status, fetch_commit
from backupd.gate.history import History
from backupd.gate.live_app import await_version, is_version, version_now
from backupd.gate.model import STEPS, CapRover, Deploy, Gate, StepName
from backupd.gate.reports import Reports
from backupd.gate.waiting import IsCancelled

_TREE: Final = "commit.tar"
_COPY: Final = "copy.sqlite3"
_SHORTEST_S: Final = 1.0


def steps_of(gate: Gate) -> tuple[StepName, ...]:
    """Return the steps that are set up for `gate`, in their order."""
    is_set = {
        "backup": gate.sidecar is not None,
        "fetch": gate.tests is not None or isinstance(gate.target, CapRover),
        "status": gate.status is not None,
        "tests": gate.tests is not None,
        "deliver": True,
        "health": gate.app is not None,
    }
    return tuple(name for name in STEPS if is_set[name])


class GateSteps:
    """The steps of one gate (see `engine.Steps`)."""

    def __init__(self, gate: Gate, history: History, reports: Reports, clock: Callable[[], datetime]) -> None:
        self.names = steps_of(gate)
        self._gate, self._history, self._reports, self._clock = gate, history, reports, clock

    def take(self, name: StepName, deploy: Deploy, work: Path, cancelled: IsCancelled) -> tuple[Deploy, str]:
        """Take one step. Raises BackupdError, OSError."""
        gate, push = self._gate, deploy.push
        if name == "backup" and gate.sidecar is not None:
            taken = take_backup(gate.sidecar, push, deploy.id, cancelled)
            return replace(deploy, generations=taken.generations), taken.detail
        if name == "fetch" and gate.forgejo is not None:
            said = fetch_commit(gate.forgejo, push, work / _TREE, cancelled)
            if isinstance(gate.target, CapRover):
                require_definition(work / _TREE)  # before tests that may take long
            return deploy, said
        if name == "status" and gate.forgejo is not None and gate.status is not None:
            return deploy, await_status(gate.forgejo, gate.status, push.commit, cancelled)
        if name == "tests":
            return deploy, self._test(deploy, work, cancelled)
        if name == "deliver":
            return deploy, self._deliver(deploy, work, cancelled)
        return deploy, self._watch(deploy, cancelled)

    def before_delivery(self, deploy: Deploy) -> Deploy:
        """Return the deploy with the version that the app reports now."""
        return replace(deploy, version_before=version_now(self._gate.app)) if self._gate.app else deploy

    def arrived(self, deploy: Deploy) -> str:
        """Return that the app reports the version of `deploy`; empty where it does not, or reports none."""
        version = version_now(self._gate.app) if self._gate.app else None
        return f"the app reports {one_line(version or '')}" if is_version(version, deploy.push) else ""

    def report(self, deploy: Deploy) -> None:
        """Report how the deploy stands."""
        self._reports.put(deploy)

    def _test(self, deploy: Deploy, work: Path, cancelled: IsCancelled) -> str:
        tests, access = self._gate.tests, self._gate.sidecar
        if tests is None:
            return ""
        database = None
        if tests.rehearse and access is not None:
            if len(deploy.generations) != 1:
                what = f"a rehearsal needs the backup of one database, and there are {len(deploy.generations)}"
                raise GateStepFailed(what, "name the one to rehearse with in sources")
            database = work / _COPY
            fetch_copy(access, deploy.generations[0], database, cancelled)
        result = run_tests(tests, work / _TREE, database, self._history.new_output(deploy.id), cancelled)
        if not result.passed:
            raise GateStepFailed(str(result), result.hint)
        return f"{result}, with {deploy.generations[0]}" if database else str(result)

    def _deliver(self, deploy: Deploy, work: Path, cancelled: IsCancelled) -> str:
        target = self._gate.target
        if isinstance(target, CapRover):
            return deliver(target, work / _TREE, deploy.push, cancelled)
        return forward(target, deploy.push, cancelled)

    def _watch(self, deploy: Deploy, cancelled: IsCancelled) -> str:
        """Watch the app for what is left of its time, which began with the step, also before a restart."""
        app = self._gate.app
        if app is None:
            return ""
        passed_s = (self._clock() - deploy.steps[-1].began_at).total_seconds()
        left_s = min(app.timeout_s, max(_SHORTEST_S, app.timeout_s - passed_s))
        return await_version(replace(app, timeout_s=left_s), deploy.push, deploy.version_before, cancelled)
