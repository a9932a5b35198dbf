"""/api/deploys: the facts of the page for scripts, without secrets."""

import json
from typing import Any

from backupd.gate.api import deploys_response
from support.gate_states import NOTES, NOW, OUTPUT, SECRETS, STATES, TASKS


def facts_of(state: str) -> Any:
    return json.loads(deploys_response((TASKS, NOTES), STATES[state], NOW, outputs={"d2": OUTPUT}).body)


def test_each_gate_has_settings_and_deploys_newest_first() -> None:
    tasks, notes = facts_of("running")["gates"]
    assert (tasks["gate"], tasks["webhook_path"], tasks["caprover_app"]) == ("tasks", "/hooks/tasks", "tasks")
    assert tasks["health_url"] == "https://tasks.example.com/health"
    assert [one["state"] for one in tasks["deploys"]] == ["waiting", "running", "stopped", "deployed"]
    assert (notes["deploys"], notes["sidecar_url"], notes["caprover_url"]) == ([], None, None)


def test_deploy_has_facts_of_page() -> None:
    stopped, _, deployed = facts_of("stopped")["gates"][0]["deploys"]
    assert stopped["steps"][-1] == {
        "step": "tests",
        "state": "failed",
        "began_at": "2026-11-25T11:42:30+00:00",
        "ended_at": "2026-11-25T11:43:30+00:00",
        "duration_s": 60.0,
        "detail": "sh ended with code 1",
        "hint": "run the tests on this commit: npm test",
    }
    assert stopped["test_output"][1] == "✗ moves the column"
    assert deployed["generations"] == ["tasks-20261124-1200"]
    assert (deployed["version"], deployed["version_before"], deployed["duration_s"]) == ("v1.1", "v1.0", 180.0)
    assert deployed["commit_url"] == f"https://git.example.com/ada/tasks/commit/{deployed['commit']}"
    assert (deployed["ref"], deployed["pusher"]) == ("refs/tags/v1.1", "ada")


def test_no_secret_is_in_answer() -> None:
    for state in STATES:
        text = json.dumps(facts_of(state))
        assert [secret for secret in SECRETS if secret in text] == []
