"""`backupd gate` between real servers: from a signed request to a version that is up."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.config import load_config
from backupd.errors import ConfigError
from backupd.gate.main import require_rights
from backupd.gate.settings import gates_of
from support.caprover_server import rolls_back
from support.command import Backupd
from support.daemon import running_daemon, wait_until
from support.gate import Deployment, deployment, request
from support.recording_server import HANG


@pytest.fixture
def deploying(tmp_path: Path) -> Iterator[Deployment]:
    with deployment(tmp_path) as made:
        yield made


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


def test_annotated_tag_is_deployed_and_reported_at_its_commit(deploying: Deployment) -> None:
    commit = deploying.commit()
    tag = deploying.forgejo.repository.tag("v1.2.0", commit)
    assert tag != commit
    with deploying.running() as gate:
        deploying.push(gate, tag, "refs/tags/v1.2.0")
        deploy = deploying.wait_for("deployed")
    assert (deploy.push.commit, deploy.push.version) == (commit, "v1.2.0")
    assert deploying.forgejo.latest(commit)["backupd"]["status"] == "success"


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


def test_killed_gate_goes_on(deploying: Deployment) -> None:
    deploying.forgejo.before_answer = lambda asked: HANG if "/archive/" in asked.path else None
    commit = deploying.commit()
    with deploying.running() as gate:
        deploying.push(gate, commit)
        wait_until(lambda: any("/archive/" in one.path for one in deploying.forgejo.requests), "the fetch")
        gate.stop(signal.SIGKILL)
    assert deploying.deploys()[0].state == "running"
    deploying.forgejo.before_answer = lambda _asked: None
    with deploying.running():
        deploying.wait_for("deployed")
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


def test_gate_that_replaces_another_takes_over_its_deploy(deploying: Deployment) -> None:
    deploying.forgejo.before_answer = lambda asked: HANG if "/archive/" in asked.path else None
    with deploying.running() as first:
        deploying.push(first, deploying.commit())
        wait_until(lambda: deploying.deploys()[0].steps, "the first step")
        with running_daemon(deploying.backupd(), command="gate") as second:
            assert second.ask("/livez")[0] == 0  # it waits for the end of the first
            deploying.forgejo.before_answer = lambda _asked: None
            first.stop()
            deploying.wait_for("deployed")


# --- The command ---


def test_command_without_gate_says_what_to_set(tmp_path: Path) -> None:
    done = Backupd({"BACKUPD_DATABASE": "/app/tasks.db"}, tmp_path)("gate")
    assert (done.code, "no gate is configured" in done.err) == (78, True)


@pytest.mark.root
def test_tests_without_root_are_refused(deploying: Deployment) -> None:
    gates = gates_of(load_config(None, deploying.backupd(TEST_COMMAND="true").environment(), deploying.directory))
    require_rights(gates)
    os.seteuid(12345)
    try:
        with pytest.raises(ConfigError, match="only root can become another user"):
            require_rights(gates)
    finally:
        os.seteuid(0)


def test_check_finds_nothing_wrong(deploying: Deployment) -> None:
    done = deploying.backupd()("gate", "--check", "--json")
    assert done.code == 0, done
    assert {one["check"] for one in done.json} == {
        *("gate directory", "tasks: steps", "tasks: repository", "tasks: CapRover", "tasks: app")
    }
    assert deploying.caprover.builds == []
    assert deploying.forgejo.statuses == {}


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


def test_check_finds_token_that_may_not_write(deploying: Deployment) -> None:
    deploying.forgejo.may_push = False
    done = deploying.backupd()("gate", "--check")
    assert (done.code, "may not write the status" in done.out) == (1, True)
