"""`backupd gate`: builds the gates, runs them, and stops them."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, NoReturn
from zoneinfo import ZoneInfo

from backupd import __version__
from backupd.bootstrap.notifications import channels
from backupd.bootstrap.tasks import deferred_log
from backupd.config import Config
from backupd.errors import BackupdError, ConfigError, LockHeld
from backupd.gate.app_tests import end_leftovers
from backupd.gate.delivery import MAX_BODY_BYTES
from backupd.gate.engine import Engine
from backupd.gate.history import History
from backupd.gate.messages import DeployMessenger, compose_deploy
from backupd.gate.model import Deploy, Gate
from backupd.gate.outcome import deployed_before
from backupd.gate.reports import Reports
from backupd.gate.routes import PageContext, make_app
from backupd.gate.settings import gates_of
from backupd.gate.steps import GateSteps
from backupd.log import Event, EventLog
from backupd.system.file_lock import directory_lock
from backupd.system.signals import StopSignals
from backupd.web.server import HttpServer

_EXIT_S: Final = 7.5
_HTTP_STOP_S: Final = 1.0
_ENGINES_STOP_S: Final = 4.0
_REPORTS_STOP_S: Final = 1.5
_OTHER_GATE_S: Final = 30.0


def serve(config: Config) -> NoReturn:
    """Serve the gates until SIGTERM, SIGHUP or SIGINT, and exit 0; what is under way goes on when they start again.

    Raises ConfigError, LockHeld where another gate uses the same directory, StoreUnusable, ListenFailed, OSError.
    """
    signals = StopSignals(_EXIT_S)
    gates = gates_of(config)
    require_root(gates)
    config.gate_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(config.gate_dir):
        log = deferred_log(config, sys.stdout, directory=config.gate_dir)
        context = PageContext(gates_name(config), ZoneInfo(config.schedule.timezone), config.docs_url, _now)
        messenger = DeployMessenger(channels(config), log)
        running = {gate.name: _RunningGate(gate, config.gate_dir, context, messenger, log) for gate in gates}
        token = config.http.token.get_secret_value() if config.http.token else None
        pairs = {name: (one.gate, one.engine) for name, one in running.items()}
        server = HttpServer(
            config.http.listen,
            make_app(pairs, token, context, log),
            partial(log.error, Event.HTTP_FAILED),
            most_body_bytes=MAX_BODY_BYTES,
        )
        _end_tests(gates)
        signals.take_over()
        server.start()
        messenger.start()
        for one in running.values():
            one.start()
        what = f"backupd {__version__} guards the deploys of {', '.join(running)}"
        log.info(Event.GATE_STARTED, f"{what} as user {os.geteuid()}; it answers on {config.http.listen}")
        signals.stop.wait()
        server.stop(_HTTP_STOP_S)
        _stop(list(running.values()))
        messenger.stop()
        log.info(Event.GATE_STOPPED, "stopped")
        log.close()
        sys.stdout.flush()
        os._exit(0)  # a thread may wait for a server


class _RunningGate:
    """One gate with what it works with."""

    def __init__(
        self, gate: Gate, gate_dir: Path, context: PageContext, messenger: DeployMessenger, log: EventLog
    ) -> None:
        self.gate = gate
        history = History.open(gate_dir, gate.name)
        for problem in history.unreadable:
            log.warning(Event.DEPLOY_RECORD_FAILED, f"{gate.name}: {problem}; it is left as it is", gate=gate.name)
        self._reports = Reports(gate, partial(_notify, gate, history, context, messenger), log)
        steps = GateSteps(gate, history, self._reports, context.clock)
        self.engine = Engine(gate.name, history, steps, log, context.clock)

    def start(self) -> None:
        self._reports.start()
        self.engine.start()

    def stop_soon(self) -> None:
        self.engine.stop()

    def stop(self, engine_s: float, reports_s: float) -> None:
        self.engine.join(engine_s)
        self._reports.stop(reports_s)


def require_root(gates: tuple[Gate, ...]) -> None:
    """Raise ConfigError where tests are to run as another user, and this process may not become one."""
    for gate in gates:
        if gate.tests is not None and os.geteuid() != 0:
            raise ConfigError(
                f"the tests of {gate.name} run as user {gate.tests.user}, and only root can become another user: this "
                f"process runs as user {os.geteuid()}",
                "start the container as root (no --user, no user:); or remove test_command, and wait for the status of "
                "another CI (wait_for_status)",
            )


def _end_tests(gates: tuple[Gate, ...]) -> None:
    """End what tests have left, and remove their copies of databases, where a gate was killed while they ran."""
    for gate in gates:
        if gate.tests is not None:
            with suppress(BackupdError):  # which the next tests report
                end_leftovers(gate.tests.user)


def gates_name(config: Config) -> str:
    """Return the name of these gates in messages and on their page."""
    return config.notify.name or ", ".join(config.gate)


def _notify(gate: Gate, history: History, context: PageContext, messenger: DeployMessenger, deploy: Deploy) -> None:
    """Send the message on a deploy that has ended."""
    before = deployed_before(deploy, history.deploys())
    output = history.output(deploy.id)
    messenger.send(
        compose_deploy(
            deploy,
            gate,
            context.name,
            context.zone,
            context.clock(),
            output=output,
            before=before,
            docs_url=context.docs_url,
        )
    )


def _stop(running: list[_RunningGate]) -> None:
    for one in running:
        one.stop_soon()
    give_up = time.monotonic() + _ENGINES_STOP_S
    for one in running:
        one.stop(max(0.0, give_up - time.monotonic()), _REPORTS_STOP_S / len(running))


@contextmanager
def _alone(gate_dir: Path) -> Iterator[None]:
    """Be the only gate of this directory, for which another one that is ending is waited for. Raises LockHeld."""
    with directory_lock(gate_dir, timeout_s=_OTHER_GATE_S) as held:
        if not held:
            what = f"another gate uses {gate_dir}"
            raise LockHeld(what, "stop the other one, or give each its own directory (BACKUPD_GATE_DIR)")
        yield


def _now() -> datetime:
    return datetime.now(UTC)
