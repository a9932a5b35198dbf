"""Commands of the documentation, each page's in order, with a database, an SFTP host and monitors of the test."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import dropwhile
from pathlib import Path

import pytest

from support.bank import is_balanced
from support.command import Backupd
from support.daemon import running_daemon
from support.documents import CommandBlock, blocks_run_by, renamed, run_commands
from support.recording_server import CannedResponse, RecordingServer, recording_server
from support.sshd import Sshd

pytestmark = [pytest.mark.no_cover, pytest.mark.real_clock]  # doctor compares the clock with that of the SFTP host

ASSIGNMENT = re.compile(r"[A-Z_]+=")
TOMORROW = f"{datetime.now(UTC) + timedelta(days=1):%F}"
DOWNLOAD_TOKEN = "fetched-by-the-tests"
TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Desk:
    """An operator with a healthy backupd, in its directory of backups."""

    backupd: Backupd
    backups: Path
    names: Mapping[str, str]
    environ: dict[str, str] = field(default_factory=dict)

    def run(self, page: str, section: str = "", **names: str) -> list[str]:
        """Run the blocks of a section in order; return what each wrote to standard output."""
        return [self.run_block(block, **names) for block in blocks_run_by(__file__, page, section)]

    def run_block(self, block: CommandBlock, **names: str) -> str:
        """Run a block line by line: `backupd` in a fork, since a new interpreter takes longer than its work."""
        said, environ = "", dict(self.environ)
        for line in renamed(block.commands, {**self.names, **names}).splitlines():
            words = [word for word in shlex.split(line, comments=True) if word != "export"]
            command = list(dropwhile(ASSIGNMENT.match, words))
            settings = dict(word.split("=", 1) for word in words[: len(words) - len(command)])
            if not command:
                environ |= settings
            elif command[0] == "backupd":
                answer = self.backupd(*command[1:], **environ, **settings)
                assert answer.code == 0, f"{line}\n{answer.code}: {answer.out}{answer.err}"
                said += answer.out
            else:
                said += run_commands(line, {**os.environ, **environ}, self.backups).out
        return said


@pytest.fixture
def monitors() -> Iterator[RecordingServer]:
    with recording_server(CannedResponse(200, b'{"ok":true}')) as server:
        yield server


@pytest.fixture
def desk(backupd: Backupd, backups: Path, sshd: Sshd, monitors: RecordingServer, tmp_path: Path) -> Desk:
    replica = {
        "BACKUPD_REPLICAS__OFFSITE__URL": f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{tmp_path}/offsite",
        "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": sshd.host_key(),
        "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE": str(sshd.key),
    }
    desk = Backupd({**backupd.environ, **replica}, tmp_path)
    made = desk("backup", "--json").json
    for task in ("replicate", "drill"):
        assert (answer := desk(task)).code == 0, answer.err
    names = {
        "tasks-20261123-0400": made["generation"],
        "2026-11-20": TOMORROW,  # the example is a day before the backup
        "/tmp/tasks.db": str(tmp_path / "tasks.db"),
        "tgram://BOT_TOKEN/CHAT_ID": monitors.url("/", "json"),
        "https://kuma.example": monitors.url(),
    }
    return Desk(desk, backups, names)


def test_commands_by_hand_of_readme_succeed(desk: Desk) -> None:
    (said,) = desk.run("README.md", "Deploy")
    assert "healthy\n" in said


def test_commands_for_replica_of_readme_succeed(desk: Desk, sshd: Sshd) -> None:
    (said,) = desk.run("README.md", "Another host")
    assert f"offsite is 127.0.0.1:{sshd.port}; its host keys:" in said
    assert "there was nothing to adopt" in said


def test_commands_for_notifications_of_readme_reach_service_and_monitor(desk: Desk, monitors: RecordingServer) -> None:
    desk.run("README.md", "Notifications")
    assert {request.path for request in monitors.requests} == {"/", "/api/push/TOKEN"}


def test_commands_for_restores_of_readme_succeed(desk: Desk, database: Path, tmp_path: Path) -> None:
    desk.run("README.md", "Restore")
    assert is_balanced(database)
    assert is_balanced(tmp_path / "tasks.db")
    assert is_balanced(desk.backups / "tasks.db")


@pytest.mark.parametrize("page", ["docs/drill.md", "docs/log-events.md", "docs/trust.md", "docs/upgrading.md"])
def test_commands_of_page_succeed(desk: Desk, page: str) -> None:
    assert desk.run(page)


def test_commands_for_notifications_succeed(desk: Desk, monitors: RecordingServer) -> None:
    desk.environ["BACKUPD_NOTIFY__URLS"] = monitors.url("/", "json")
    desk.run("docs/messages.md")
    assert [request.path for request in monitors.requests] == ["/", "/"]


def test_commands_for_monitoring_show_status_metrics_and_page(desk: Desk) -> None:
    with running_daemon(desk.backupd, BACKUPD_HTTP__TOKEN=TOKEN) as daemon:
        daemon.wait_until_alive()
        desk.environ["TOKEN"] = TOKEN
        status, page = desk.run("docs/monitoring.md", **{"http://backupd:8080": f"http://127.0.0.1:{daemon.port}"})
    assert status.startswith("healthy\n")
    assert "backupd_healthy 1" in page
    assert "</html>" in page


def test_commands_for_requests_back_up_and_download(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    tokens = {"BACKUPD_HTTP__BACKUP_TOKEN": TOKEN, "BACKUPD_HTTP__DOWNLOAD_TOKEN": DOWNLOAD_TOKEN}
    environ = {**os.environ, "TOKEN": TOKEN, "DOWNLOAD_TOKEN": DOWNLOAD_TOKEN}
    with running_daemon(desk.backupd, BACKUPD_HTTP__ACTIONS="true", **tokens) as daemon:
        daemon.wait_for("is due: ")  # from then on it owns its sources
        names = {
            **desk.names,
            "http://backupd:8080": f"http://127.0.0.1:{daemon.port}",
            "/run/secrets/backup_token": str(tmp_path / "token"),
        }
        by_command, *by_curl = blocks_run_by(__file__, "docs/api.md")
        assert desk.run_block(by_command, **names).startswith("tasks: unchanged tasks-")
        asked, download = (run_commands(renamed(one.commands, names), environ, tmp_path).out for one in by_curl)
    assert asked.startswith("true\ntasks: unchanged tasks-")
    assert download == "copy.sqlite3.gz: OK\n"
    assert is_balanced(tmp_path / "copy.sqlite3")


def test_commands_for_replicas_succeed(desk: Desk, database: Path, tmp_path: Path) -> None:
    assert desk.backupd("backup", BACKUPD_BACKUPS_DIR=str(tmp_path / "old")).code == 0
    *here, on_new_machine = blocks_run_by(__file__, "docs/replicas.md")
    for block in here:
        desk.run_block(block)
    desk.environ["BACKUPD_BACKUPS_DIR"] = str(tmp_path / "new")
    desk.run_block(on_new_machine, **{"/mnt/old/backups": f"{tmp_path}/old"})
    assert is_balanced(database)
    assert is_balanced(tmp_path / "tasks.db")
