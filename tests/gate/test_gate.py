"""`backupd gate` between real servers: from a signed request to a version that is up."""

import json
import os
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backupd.config import load_config
from backupd.errors import ConfigError
from backupd.gate.main import require_root
from backupd.gate.model import STEPS, StepName
from backupd.gate.settings import gates_of
from backupd.remote.run import RemoteRun, RemoteSource, run_facts
from support.caprover_server import never_comes_up, rolls_back
from support.command import Backupd
from support.daemon import running_daemon, wait_until
from support.gate import Deployment, deployment, request
from support.recording_server import HANG, CannedResponse, RecordingServer, recording_server


@pytest.fixture
def deploying(tmp_path: Path) -> Iterator[Deployment]:
    with deployment(tmp_path) as made:
        yield made


@pytest.fixture
def unwatched(deploying: Deployment) -> Deployment:
    """A gate that does not wait until the app is up."""
    deploying.environ["HEALTH_URL"] = ""
    return deploying


def test_push_is_fetched_delivered_and_watched(deploying: Deployment) -> None:
    commit = deploying.commit(hello="world")
    with deploying.running() as gate:
        status, body = deploying.push(gate, commit)
        deploy = deploying.wait_for("deployed")
    assert (status, body.decode()) == (202, f"{deploy.id}: waiting\n")
    (build,) = deploying.caprover.builds
    assert (build.git_hash, build.files()) == (commit, deploying.forgejo.repository.files_of(commit))
    assert [step.name for step in deploy.steps] == ["fetch", "deliver", "health"]
    assert deploy.version_before == "old"
    said = deploying.forgejo.latest(commit)["backupd"]
    assert said["status"] == "success"
    assert not (deploying.directory / "state" / "deploys" / "tasks" / "work").exists()


def test_annotated_tag_is_deployed_and_reported_at_its_commit(unwatched: Deployment) -> None:
    commit = unwatched.commit()
    tag = unwatched.forgejo.repository.tag("v1.2.0", commit)
    assert tag != commit
    with unwatched.running() as gate:
        unwatched.push(gate, tag, "refs/tags/v1.2.0")
        deploy = unwatched.wait_for("deployed")
    assert (deploy.push.commit, deploy.push.version) == (commit, "v1.2.0")
    assert unwatched.forgejo.latest(commit)["backupd"]["status"] == "success"


@pytest.mark.root
def test_migrations_are_rehearsed_on_backup_of_real_sidecar(
    deploying: Deployment, backupd: Backupd, database: Path
) -> None:
    tokens = {"BACKUP_TOKEN": "token for backups", "DOWNLOAD_TOKEN": "token for downloads"}
    door = {f"BACKUPD_HTTP__{name}": token for name, token in tokens.items()} | {"BACKUPD_HTTP__ACTIONS": "true"}
    script = "import os, sqlite3; db = sqlite3.connect(os.environ['BACKUPD_RESTORED_DATABASE'])\n"
    script += "print(db.execute('SELECT count(*) FROM account').fetchone()[0]); db.execute('DROP TABLE account')\n"
    commit = deploying.commit(migrate=script)
    with running_daemon(backupd, **door) as sidecar:
        sidecar.wait_until_alive()
        keys = {
            "SIDECAR_URL": f"http://127.0.0.1:{sidecar.port}",
            "TEST_COMMAND": "python3 migrate",
            "REHEARSE": "true",
        }
        with deploying.running(**keys, **tokens, HEALTH_URL="") as gate:
            deploying.push(gate, commit)
            deploy = deploying.wait_for("deployed")
            facts = json.loads(request(gate.port, "GET", "/api/deploys")[1])["gates"][0]["deploys"][0]
    (generation,) = deploy.generations
    assert facts["test_output"] == ["1000"]
    shown = backupd("show", generation, "--json").json
    assert (shown["pinned"], shown["label"]) == (True, f"deploy {commit}"), shown
    with closing(sqlite3.connect(database)) as live:
        assert live.execute("SELECT count(*) FROM account").fetchone() == (1000,)


def test_commit_that_caprover_cannot_build_stops_before_its_tests(deploying: Deployment) -> None:
    repository = deploying.forgejo.repository
    repository.commit({"captain-definition": "{}", "hello": "world"})
    commit = repository.commit({"captain-definition": None})
    with deploying.running() as gate:
        deploying.push(gate, commit)
        deploy = deploying.wait_for("stopped")
    assert deploy.failure is not None
    assert (deploy.failure.name, deploying.caprover.builds) == ("fetch", [])
    assert "neither captain-definition nor Dockerfile" in deploy.failure.detail


@pytest.mark.root
def test_failed_tests_stop_deploy(deploying: Deployment) -> None:
    commit = deploying.commit(test="echo looking; exit 3")
    with deploying.running(TEST_COMMAND="sh test") as gate:
        deploying.push(gate, commit)
        deploy = deploying.wait_for("stopped")
        status, page = request(gate.port, "GET", "/api/deploys")
    assert deploying.caprover.builds == []
    assert deploy.failure is not None
    assert (deploy.failure.name, "exit code 3" in deploy.failure.detail) == ("tests", True)
    assert (status, json.loads(page)["gates"][0]["deploys"][0]["test_output"]) == (200, ["looking"])
    assert deploying.forgejo.latest(commit)["backupd"]["status"] == "failure"


def test_silent_rollback_is_noticed(deploying: Deployment) -> None:
    deploying.live.then = rolls_back
    with deploying.running(DEPLOY_TIMEOUT_S="3") as gate:
        deploying.push(gate, deploying.commit())
        deploy = deploying.wait_for("unhealthy")
    assert deploy.failure is not None
    assert deploy.failure.name == "health"


def test_without_optional_parts_push_is_forwarded(deploying: Deployment) -> None:
    keys = dict.fromkeys(("CAPROVER_URL", "CAPROVER_APP", "CAPROVER_TOKEN", "FORGEJO_URL", "FORGEJO_TOKEN"), "")
    keys |= {"HEALTH_URL": "", "REFS": "refs/heads/main", "CAPROVER_WEBHOOK": deploying.caprover.webhook_url}
    with deploying.running(**keys) as gate:
        deploying.push(gate, deploying.commit())
        deploy = deploying.wait_for("deployed")
    assert [build.branch for build in deploying.caprover.builds] == ["main"]
    assert [step.name for step in deploy.steps] == ["deliver"]
    assert deploying.caprover.webhook_token not in Path(gate.output).read_text()


def test_page_metrics_and_facts_ask_for_token_and_webhook_does_not(deploying: Deployment) -> None:
    token = "a token of the page"
    with deploying.running(BACKUPD_HTTP__TOKEN=token) as gate:
        paths = ("/", "/metrics", "/api/deploys")
        assert [request(gate.port, "GET", path)[0] for path in paths] == [401] * 3
        bearer = {"Authorization": f"Bearer {token}", "Accept": "text/html"}
        assert [request(gate.port, "GET", path, headers=bearer)[0] for path in paths] == [200] * 3
        assert request(gate.port, "GET", "/livez")[0] == 200
        assert deploying.push(gate, deploying.commit())[0] == 202


# --- Restarts ---


RUN = RemoteRun(
    id="1",
    requested_at=datetime(2026, 11, 30, tzinfo=UTC),
    ended_at=datetime(2026, 11, 30, tzinfo=UTC),
    sources=(RemoteSource(source="tasks", state="ended", outcome="published", generation="tasks-20261130-120000"),),
)


@dataclass
class Obstacles:
    """Lets each step of a deploy of `commit` pass, but for the one that is held."""

    deploying: Deployment
    commit: str
    sidecar: RecordingServer
    directory: Path

    def hold(self, step: StepName | None) -> None:
        run = CannedResponse(200, json.dumps(run_facts(RUN)).encode())
        self.sidecar.answering = lambda _asked: HANG if step == "backup" else run
        self.deploying.forgejo.before_answer = lambda asked: (
            HANG if step == "fetch" and "/archive/" in asked.path else None
        )
        self.deploying.forgejo.set_status(self.commit, "ci", "pending" if step == "status" else "success")
        if step != "tests":
            (self.directory / "may-end").touch()
        self.deploying.caprover.before_answer = lambda _asked: HANG if step == "deliver" else None
        self.deploying.live.then = never_comes_up if step == "health" else None
        if self.deploying.caprover.builds:
            self.deploying.live.version, self.deploying.live.healthy = self.commit, True

    @property
    def keys(self) -> dict[str, str]:
        command = f"sh -c 'until [ -e {self.directory / 'may-end'} ]; do sleep 0.1; done'"
        door = {"SIDECAR_URL": self.sidecar.url(), "BACKUP_TOKEN": "token for backups"}
        return {"WAIT_FOR_STATUS": "true", "TEST_COMMAND": command, "DEPLOY_TIMEOUT_S": "60", **door}


@pytest.mark.root
@pytest.mark.parametrize("step", STEPS)
def test_gate_that_is_killed_in_a_step_goes_on_there(deploying: Deployment, step: StepName) -> None:
    if step != "health":
        deploying.environ["HEALTH_URL"] = ""  # an app that is up is watched for ten seconds
    with recording_server() as sidecar, tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)
        commit = deploying.commit()
        obstacles = Obstacles(deploying, commit, sidecar, Path(public))
        obstacles.hold(step)
        with deploying.running(**obstacles.keys) as gate:
            deploying.push(gate, commit)
            deploying.wait_in(step)
            gate.stop(signal.SIGKILL)
        obstacles.hold(None)
        with deploying.running(**obstacles.keys):
            deploy = deploying.wait_for("deployed")
        keys = {one.header("Idempotency-Key") for one in sidecar.requests if one.method == "POST"}
    assert deploy.generations == RUN.generations
    assert keys == {deploy.id}
    assert [build.git_hash for build in deploying.caprover.builds] == [commit]


@pytest.mark.root
def test_sigterm_ends_gate_in_time_and_kills_tests(deploying: Deployment) -> None:
    marker = f"sleep {os.getpid()}.5"
    with deploying.running(TEST_COMMAND=marker) as gate:
        deploying.push(gate, deploying.commit())
        wait_until(lambda: marker in running_commands(), "the tests")
        took_s = gate.stop(signal.SIGTERM)
        assert gate.process.returncode == 0
    assert took_s < 8
    assert marker not in running_commands()
    assert deploying.deploys()[0].state == "running"


def running_commands() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
        except OSError:
            continue
    return found


def test_forwarded_request_is_unchanged_after_restart(deploying: Deployment) -> None:
    keys = dict.fromkeys(("CAPROVER_URL", "CAPROVER_APP", "CAPROVER_TOKEN", "HEALTH_URL"), "")
    keys |= {"REFS": "refs/heads/main", "CAPROVER_WEBHOOK": deploying.caprover.webhook_url}
    deploying.caprover.before_answer = lambda _asked: HANG
    with deploying.running(**keys) as gate:
        deploying.push(gate, deploying.commit())
        deploying.caprover.server.wait_for(1)
        gate.stop(signal.SIGKILL)
    deploying.caprover.before_answer = lambda _asked: None
    with deploying.running(**keys):
        deploying.wait_for("deployed")
    first, second = deploying.caprover.requests
    assert first.body == second.body != b""
    assert first.header("X-GitHub-Event") == second.header("X-GitHub-Event") == "push"


def test_sigterm_ends_gate_in_time_while_nobody_answers(unwatched: Deployment) -> None:
    with recording_server(HANG) as silent, unwatched.running(BACKUPD_NOTIFY__URLS=silent.url("/hook", "json")) as gate:
        unwatched.caprover.token = None
        unwatched.push(gate, unwatched.commit())
        silent.wait_for(1)
        unwatched.caprover.before_answer = lambda _asked: HANG
        unwatched.push(gate, unwatched.commit("second"), before=unwatched.deploys()[0].push.commit)
        unwatched.wait_in("deliver")
        assert gate.stop(signal.SIGTERM) < 8
        assert gate.process.returncode == 0


def test_gate_that_replaces_another_takes_over_its_deploy(unwatched: Deployment) -> None:
    unwatched.forgejo.before_answer = lambda asked: HANG if "/archive/" in asked.path else None
    with unwatched.running() as first:
        unwatched.push(first, unwatched.commit())
        wait_until(lambda: unwatched.deploys()[0].steps, "the first step")
        with running_daemon(unwatched.backupd(), command="gate") as second:
            assert second.ask("/livez")[0] == 0  # it waits for the end of the first
            unwatched.forgejo.before_answer = lambda _asked: None
            first.stop()
            unwatched.wait_for("deployed")


# --- The command ---


def test_command_without_gate_says_what_to_set(tmp_path: Path) -> None:
    done = Backupd({"BACKUPD_DATABASE": "/app/tasks.db"}, tmp_path)("gate")
    assert (done.code, "no gate is configured" in done.err) == (78, True)


@pytest.mark.root
def test_tests_without_root_are_refused(deploying: Deployment) -> None:
    gates = gates_of(load_config(None, deploying.backupd(TEST_COMMAND="true").environment(), deploying.directory))
    require_root(gates)
    os.seteuid(12345)
    try:
        with pytest.raises(ConfigError, match="only root can become another user"):
            require_root(gates)
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("words", [("backup",), ("status",), ("doctor",), ("serve",), ("list",)])
def test_other_commands_have_nothing_to_back_up(deploying: Deployment, words: tuple[str, ...]) -> None:
    done = deploying.backupd()(*words)
    assert (done.code, "nothing to back up" in done.err) == (78, True), done


def test_log_and_notifications_work_without_databases(unwatched: Deployment) -> None:
    with recording_server() as server, unwatched.running() as gate:
        unwatched.push(gate, unwatched.commit())
        unwatched.wait_for("deployed")
        backupd = unwatched.backupd(PUID="auto", BACKUPD_NOTIFY__URLS=server.url("/hook", "json"))
        assert "deploy of" in backupd("log").out
        assert backupd("notify").code == 2
        assert backupd("notify", "--test").code == 0
        assert "tasks" in server.requests[0].json["title"]


def test_each_deploy_is_notified(deploying: Deployment) -> None:
    with recording_server() as server, deploying.running(BACKUPD_NOTIFY__URLS=server.url("/hook", "json")) as gate:
        deploying.caprover.token = None
        deploying.push(gate, deploying.commit())
        deploying.wait_for("stopped")
        (message,) = server.wait_for(1)
    assert "production is unchanged" in message.json["title"] + message.json["message"]


def test_check_finds_nothing_wrong(deploying: Deployment) -> None:
    done = deploying.backupd()("gate", "--check", "--json")
    assert done.code == 0, done
    assert {one["check"] for one in done.json} == {
        *("gate directory", "tasks: steps", "tasks: repository", "tasks: CapRover", "tasks: app")
    }
    assert deploying.caprover.builds == []
    assert deploying.forgejo.statuses == {}


@pytest.mark.cover_processes
@pytest.mark.parametrize(
    ("keys", "check", "words"),
    [
        ({"FORGEJO_TOKEN": "another-token-of-16"}, "repository", "token"),
        ({"REPOSITORY": "ana/other"}, "repository", "is not there"),
        ({"FORGEJO_URL": "http://127.0.0.1:9"}, "repository", "no answer"),
        ({"CAPROVER_URL": "http://127.0.0.1:9"}, "CapRover", "no answer"),
        ({"SIDECAR_URL": "http://127.0.0.1:9", "BACKUP_TOKEN": "a" * 16}, "sidecar", "does not answer"),
    ],
)
def test_check_names_what_is_wrong(deploying: Deployment, keys: dict[str, str], check: str, words: str) -> None:
    done = deploying.backupd(**keys)("gate", "--check", "--json")
    (found,) = [one for one in done.json if not one["ok"]]
    assert done.code == 1
    assert (found["check"], words in found["detail"], bool(found["hint"])) == (f"tasks: {check}", True, True), found


def test_check_warns_of_token_that_travels_unencrypted(deploying: Deployment) -> None:
    url = deploying.caprover.url.replace("127.0.0.1", "127.1")  # a name with a dot: it may be anywhere
    done = deploying.backupd(CAPROVER_URL=url)("gate", "--check", "--json")
    (found,) = [one for one in done.json if one["check"].endswith("_url")]
    assert (done.code, found["check"], found["warning"]) == (0, "tasks: caprover_url", True), done
    assert "unencrypted" in found["detail"]


@pytest.mark.root
@pytest.mark.parametrize("variable", ["CAPROVER_TOKEN_FILE", "BACKUPD_CONFIG"])
def test_check_finds_secret_that_tests_can_read(deploying: Deployment, variable: str) -> None:
    token = deploying.environ.pop("CAPROVER_TOKEN")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        secret = Path(directory) / "secret"
        secret.write_text(f'[gate.tasks]\ncaprover_token = "{token}"\n' if variable == "BACKUPD_CONFIG" else token)
        found = {}
        for mode in (0o444, 0o400):
            secret.chmod(mode)
            done = deploying.backupd(TEST_COMMAND="true", **{variable: str(secret)})("gate", "--check", "--json")
            (found[mode],) = [one for one in done.json if one["check"] == "tasks: tests"]
    assert (found[0o400]["ok"], found[0o444]["ok"]) == (True, False), found
    assert str(secret) in found[0o444]["detail"]
    assert "0400" in found[0o444]["hint"]


def test_check_tries_token_of_real_sidecar(deploying: Deployment, backupd: Backupd) -> None:
    token = "a token for backups"
    with running_daemon(backupd, BACKUPD_HTTP__ACTIONS="true", BACKUPD_HTTP__BACKUP_TOKEN=token) as door:
        door.wait_until_alive()
        found = {}
        for given in (token, "another token of 16"):
            gate = deploying.backupd(SIDECAR_URL=f"http://127.0.0.1:{door.port}", BACKUP_TOKEN=given)
            checks = gate("gate", "--check", "--json").json
            (found[given],) = [one["ok"] for one in checks if one["check"] == "tasks: sidecar"]
        assert found == {token: True, "another token of 16": False}
        assert "was requested" not in door.said()


def test_check_finds_sidecar_without_actions(deploying: Deployment, backupd: Backupd) -> None:
    with running_daemon(backupd) as door:
        door.wait_until_alive()
        done = deploying.backupd(SIDECAR_URL=f"http://127.0.0.1:{door.port}", BACKUP_TOKEN="a" * 16)("gate", "--check")
    assert (done.code, "http.actions = true" in done.out) == (1, True), done


def test_check_finds_token_that_may_not_write(deploying: Deployment) -> None:
    deploying.forgejo.may_push = False
    done = deploying.backupd()("gate", "--check")
    assert (done.code, "may not write the status" in done.out) == (1, True)
