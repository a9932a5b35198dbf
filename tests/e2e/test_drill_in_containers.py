"""A drill as it is deployed: the copy from the replica, a second app really started on it, and its health asked."""

import json
from pathlib import PurePath

import pytest
import yaml

from support.command import CommandResult
from support.containers import HARDENED, ROOT, ContainerLab, wait_until

PAGE = (ROOT / "docs" / "drill.md").read_text()
HEALTH = "http://127.0.0.1:8080/health"
# The second instance of docs/drill.md, as it stands there.
WHILE_THERE = yaml.safe_load(PAGE.split("```yaml\n")[1].split("```")[0])["services"]["app-drill"]
FLIP = """
import pathlib
path = max(pathlib.Path("copies").glob("tasks-*.gz"), key=lambda path: path.stat().st_mtime)
data = bytearray(path.read_bytes())
data[len(data) // 2] ^= 1
path.write_bytes(data)
"""
UNBALANCE = "import sqlite3; c = sqlite3.connect('tasks.db'); c.execute('UPDATE ledger SET amount = 2'); c.commit()"


class Drilled:
    """The app's volume with its sidecar, a replica, and a second instance of the app that waits for a copy."""

    def __init__(self, lab: ContainerLab, volume: str) -> None:
        self.lab, self.volume = lab, volume
        self.place, self.replica = lab.volume(), lab.volume()
        for name in (self.place, self.replica):
            lab.shell(name, "chown 1000:1000 .")
        on_network = f"--network={lab.network()}"
        self.second = lab.start(
            lab.app_image,
            "-c",
            WHILE_THERE["command"][0].replace("$$", "$"),
            options=("--entrypoint=sh", "--no-healthcheck", f"--volume={self.place}:/drill", on_network),
            environ=WHILE_THERE["environment"],
        )
        self.sidecar = lab.sidecar(
            volume,
            options=(*HARDENED, f"--volume={self.place}:/drill", f"--volume={self.replica}:/replica", on_network),
            BACKUPD_REPLICAS__OFFSITE__URL="file:/replica/copies",
            BACKUPD_DRILL__PLACE_AT="/drill/tasks.db",
            BACKUPD_DRILL__HEALTH_URL=f"http://{self.second.name}:8000/health",
            BACKUPD_DRILL__USER_VERSION="1",
        )

    def drill(self, **asked: str) -> CommandResult:
        """Drill by hand; keyword arguments are keys of [drill]."""
        options = [f"--env=BACKUPD_DRILL__{name}={value}" for name, value in asked.items()]
        return self.sidecar.exec("backupd", "drill", "--json", options=options)

    def left(self) -> set[str]:
        """Return what lies at the place."""
        return set(self.lab.files(self.place)) - {"."}


@pytest.fixture
def drilled(lab: ContainerLab, volume: str) -> Drilled:
    return Drilled(lab, volume)


def failure(answer: CommandResult) -> str:
    """Return why a drill failed."""
    (report,) = answer.json
    assert (answer.code, report["outcome"]) == (1, "failed")
    return str(report["error"])


def test_daemon_drills_replica_with_app_and_reports_failure(
    drilled: Drilled,
) -> None:
    sidecar = drilled.sidecar
    sidecar.said("drill of tasks: done", 120)
    sidecar.answers(HEALTH)
    status = json.loads(sidecar.exec("backupd", "status", "--json").out)
    (figures,) = [task for task in status["tasks"] if task["task"] == "drill"]
    assert figures["drill"]["proven"] == ["digests", "integrity_check", "contents", "health", "migrations"]
    assert {"connect", "fetch", "unpack", "check", "place", "health", "migrations"} <= set(figures["stages"])
    wait_until(lambda: not drilled.left(), "a free place")
    assert "a restore would lose everything since then" in failure(drilled.drill(MAX_AGE_S="0.001"))
    again = drilled.drill()
    assert again.code == 0, again.err
    drilled.lab.shell(drilled.volume, f'python -c "{UNBALANCE}" && chown 1000:1000 tasks.db*')
    for command in ("backup", "replicate"):
        assert sidecar.exec("backupd", command).code == 0
    why = failure(drilled.drill(TIMEOUT_S="5"))
    assert "did not answer 200 within 5 s: it answered 503" in why
    wait_until(lambda: not drilled.left(), "a free place")
    drilled.lab.shell(drilled.replica, f"python -c '{FLIP}'")
    newest = PurePath(sidecar.exec("sh", "-c", "ls -t /replica/copies/*.gz | head -1").out.strip()).name
    why = failure(drilled.drill())
    assert newest.removesuffix(".sqlite3.gz") in why
    wait_until(lambda: not drilled.left(), "a free place")
