"""`backupd gate` as a container runs it, between the servers that it works with."""

import http.client
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backupd.gate.history import _CODEC
from backupd.gate.model import Deploy, DeployState, StepName
from support.caprover_server import CapRoverServer, LiveVersion, caprover_server, live_version
from support.command import Backupd
from support.daemon import Daemon, running_daemon, wait_until
from support.forgejo_server import ForgejoServer, forgejo_server, send_webhook
from support.pushes import SECRET

DEFINITION = {"captain-definition": '{"schemaVersion": 2, "dockerfileLines": ["FROM scratch"]}'}


@dataclass
class Deployment:
    """A repository, CapRover and an app, the gate's configuration between them, and its state in `directory`."""

    directory: Path
    forgejo: ForgejoServer
    caprover: CapRoverServer
    live: LiveVersion
    environ: dict[str, str] = field(default_factory=dict)

    def commit(self, name: str = "file", **files: str) -> str:
        """Commit a change to `main`, and return its id."""
        return self.forgejo.repository.commit({**DEFINITION, name: name, **files})

    def push(self, gate: Daemon, after: str, ref: str = "refs/heads/main", **more: Any) -> tuple[int, bytes]:
        """Report a push to the gate as Forgejo does; return status and body of its answer."""
        payload = self.forgejo.push_payload(ref, after, more.pop("before", "0" * 40))
        return send_webhook(f"http://127.0.0.1:{gate.port}/hooks/tasks", payload, SECRET, **more)

    def backupd(self, **keys: str) -> Backupd:
        """Return the command with the configuration; `keys` are of the gate, or whole names of variables."""
        named = {
            name if name.startswith(("BACKUPD_", "PUID")) else f"BACKUPD_GATE__TASKS__{name}": value
            for name, value in {**self.environ, **keys}.items()
        }
        return Backupd({"BACKUPD_GATE_DIR": str(self.directory / "state"), **named}, self.directory)

    @contextmanager
    def running(self, **keys: str) -> Iterator[Daemon]:
        """Run the gate; see `backupd`."""
        with running_daemon(self.backupd(**keys), command="gate") as gate:
            gate.wait_until_alive()
            yield gate

    def deploys(self) -> tuple[Deploy, ...]:
        """Return the deploys on disk, newest first."""
        paths = sorted((self.directory / "state" / "deploys" / "tasks").glob("2*.json"), reverse=True)
        return tuple(_CODEC.validate_json(path.read_bytes()).deploy for path in paths)

    def wait_in(self, step: StepName) -> None:
        """Wait until the newest deploy is in `step`."""
        wait_until(lambda: [one.name for one in self.deploys()[0].steps if one.state == "running"] == [step], step)

    def wait_for(self, state: DeployState, timeout_s: float = 60) -> Deploy:
        """Wait until the newest deploy is in `state`, and return it."""
        wait_until(lambda: any(one.state == state or one.ended for one in self.deploys()[:1]), state, timeout_s)
        deploy = self.deploys()[0]
        assert deploy.state == state, deploy
        return deploy


@contextmanager
def deployment(directory: Path) -> Iterator[Deployment]:
    """Serve what a gate works with while the block runs."""
    with ExitStack() as stack:
        forgejo = stack.enter_context(forgejo_server(directory / "forgejo"))
        live = stack.enter_context(live_version())
        caprover = stack.enter_context(caprover_server(live=live))
        environ = {
            "SECRET": SECRET,
            "REPOSITORY": forgejo.name,
            "REFS": "refs/heads/main refs/tags/v*",
            "FORGEJO_URL": forgejo.url,
            "FORGEJO_TOKEN": forgejo.token,
            "CAPROVER_URL": caprover.url,
            "CAPROVER_APP": caprover.app,
            "CAPROVER_TOKEN": caprover.token or "",
            "HEALTH_URL": live.health_url,
            "DEPLOY_TIMEOUT_S": "20",
            "TEST_USER": str(100_000 + os.getpid() % 100_000),  # all its processes are ended: not those of other tests
        }
        yield Deployment(directory, forgejo, caprover, live, environ)


def request(
    port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Send one request; return status and text of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
