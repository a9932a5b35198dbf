"""/metrics of the gate: accepted by promtool, documented, and as the history has it."""

import re
import subprocess
from collections.abc import Collection
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backupd.gate.metrics import metrics_response
from support.gate_states import NOTES, NOW, SECRETS, STATES, TASKS

PAGE = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()


def text_of(state: str, stopped: Collection[str] = ()) -> str:
    return metrics_response((TASKS, NOTES), STATES[state], stopped=stopped).body.decode()


def value(text: str, name: str, **labels: str) -> float | None:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return next((one.value for one in samples if one.name == name and one.labels == labels), None)


@pytest.mark.no_cover
@pytest.mark.parametrize("state", STATES)
def test_promtool_accepts_metrics_of_each_state(state: str) -> None:
    text = text_of(state)
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert [secret for secret in SECRETS if secret in text] == []


def test_deploys_are_counted_by_outcome_and_state() -> None:
    text = text_of("running")
    assert value(text, "backupd_gate_deploys", gate="tasks", outcome="deployed") == 1
    assert value(text, "backupd_gate_deploys", gate="tasks", outcome="stopped") == 1
    assert value(text, "backupd_gate_deploys", gate="notes", outcome="deployed") == 0
    assert value(text, "backupd_gate_running", gate="tasks") == value(text, "backupd_gate_waiting", gate="tasks") == 1
    assert value(text, "backupd_gate_running", gate="notes") == 0


def test_last_deploy_has_time_outcome_and_steps() -> None:
    text = text_of("stopped")
    stopped_at = STATES["stopped"][0].ended_at
    assert stopped_at
    assert value(text, "backupd_gate_last_deploy_timestamp_seconds", gate="tasks", outcome="stopped") == pytest.approx(
        stopped_at.timestamp()
    )
    assert value(text, "backupd_gate_last_deploy_timestamp_seconds", gate="tasks", outcome="unhealthy") is None
    assert value(text, "backupd_gate_last_outcome", gate="tasks", outcome="stopped") == 1
    assert value(text, "backupd_gate_last_outcome", gate="tasks", outcome="deployed") == 0
    assert value(text, "backupd_gate_last_outcome", gate="notes", outcome="deployed") is None
    assert value(text, "backupd_gate_step_duration_seconds", gate="tasks", step="tests") == 60
    assert stopped_at < NOW


def test_superseded_deploy_is_not_last_outcome_and_newest_of_each_outcome_counts() -> None:
    text = text_of("deployed")
    assert value(text, "backupd_gate_last_outcome", gate="tasks", outcome="deployed") == 1
    assert value(text, "backupd_gate_last_outcome", gate="tasks", outcome="superseded") == 0
    assert value(text, "backupd_gate_step_duration_seconds", gate="tasks", step="health") == 111


def test_gate_whose_thread_has_ended_is_down() -> None:
    text = text_of("deployed", stopped={"tasks"})
    assert (value(text, "backupd_gate_up", gate="tasks"), value(text, "backupd_gate_up", gate="notes")) == (0, 1)


def test_page_explains_each_metric_with_its_labels() -> None:
    section = PAGE.partition("\n## Metrics of the gate\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\| [^|]+ \|$", section, re.MULTILINE)
    families = [family for state in STATES for family in text_string_to_metric_families(text_of(state))]
    samples = [sample for family in families for sample in family.samples if sample.name.startswith("backupd_")]
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert documented == {sample.name: set(sample.labels) for sample in samples}
