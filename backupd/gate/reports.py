"""Tells others how a deploy stands: the server of the repository, and people by the channels of [notify].

In a thread of its own: no deploy waits for that, or fails by it.
"""

import queue
import threading
from collections.abc import Callable
from typing import Final

from backupd.errors import BackupdError
from backupd.gate.forgejo import State, set_status
from backupd.gate.model import Deploy, DeployState, Gate
from backupd.log import Event, EventLog

_STATES: Final[dict[DeployState, State]] = {
    "waiting": "pending",
    "running": "pending",
    "deployed": "success",
    "stopped": "failure",
    "unhealthy": "failure",
    "superseded": "warning",
    "interrupted": "error",
}


class Reports:
    """The reports on deploys of one gate, in their order; `notify` is called with each deploy that has ended."""

    def __init__(self, gate: Gate, notify: Callable[[Deploy], None], log: EventLog) -> None:
        self._gate, self._notify, self._log = gate, notify, log
        self._queue = queue.SimpleQueue[Deploy | None]()
        self._thread = threading.Thread(target=self._run, name=f"reports-{gate.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Let what has been put be reported, in so many seconds."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def put(self, deploy: Deploy) -> None:
        """Report how `deploy` stands, soon."""
        self._queue.put(deploy)

    def _run(self) -> None:
        while (deploy := self._queue.get()) is not None:
            try:
                if deploy.ended:
                    self._notify(deploy)
                self._set_status(deploy)
            except BackupdError as error:
                what = f"{deploy.gate}: the status of commit {deploy.push.commit[:10]} was not set: {error.message}"
                self._log.warning(Event.COMMIT_STATUS_FAILED, what, hint=error.hint or None)
            except Exception as error:  # noqa: BLE001 - the thread must survive any defect
                what = f"{deploy.gate}: a report failed: {type(error).__name__}: {error}"
                self._log.error(Event.NOTIFICATION_FAILED, what, hint="report this with the log of the gate")

    def _set_status(self, deploy: Deploy) -> None:
        """Set the status of the commit. Raises GateStepFailed."""
        forgejo = self._gate.forgejo
        if forgejo is not None and forgejo.token is not None:
            said = description(deploy)
            set_status(forgejo, deploy.push.commit, _STATES[deploy.state], said, self._gate.page_url)


def description(deploy: Deploy) -> str:
    """Return in a few words how a deploy stands, without details, which others may read."""
    failed = deploy.failure
    if failed is not None:
        return f"{deploy.state} at {failed.name}"
    last = deploy.steps[-1].detail if deploy.steps else ""
    return f"deployed: {last}" if deploy.state == "deployed" and last else deploy.state
