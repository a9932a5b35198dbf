"""deploy/prometheus and deploy/grafana: checked by Prometheus' own tool, built on metrics that exist."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_metrics import names_of, samples_of

from backupd.gate.metrics import metrics_response
from support.gate_states import STATES as GATE_STATES
from support.gate_states import TASKS
from support.page_states import whole_app
from support.web_site import ILL, WELL, status_of

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = (PROMETHEUS / "alerts.yml").read_text()
UNIT_TESTS = (PROMETHEUS / "alerts_test.yml").read_text()
DOCS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Documentation"]
PAGE = (ROOT / "docs" / "monitoring.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "backupd.json").read_text())
ALERTS = re.split(r"^ +- alert: ", RULES, flags=re.MULTILINE)[1:]
NAMES = [alert.split()[0] for alert in ALERTS]
OURS = re.compile(r"\b(?:backupd_\w+|process_\w+|app_started_at|migrations_ok)\b")


def promtool(*arguments: str | Path, cwd: Path = PROMETHEUS) -> str:
    """Return what promtool said; it must be content."""
    done = subprocess.run(["promtool", *arguments], cwd=cwd, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_rules() -> None:
    assert f"SUCCESS: {len(ALERTS)} rules found" in promtool("check", "rules", "alerts.yml")


def test_each_alert_fires_in_its_condition_only() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_runbook_links_of_all_alerts_follow_one_setting(tmp_path: Path) -> None:
    shutil.copy(PROMETHEUS / "alerts.yml", tmp_path)
    elsewhere = UNIT_TESTS.replace(f"runbook_url: {DOCS}/", "runbook_url: https://wiki.example/backupd/")
    labels = "external_labels:\n      backupd_docs: https://wiki.example/backupd"
    elsewhere = elsewhere.replace("    interval:", f"    {labels}\n    interval:")
    (tmp_path / "alerts_test.yml").write_text(elsewhere)
    assert elsewhere.count("wiki.example") >= 2 * len(ALERTS)
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)


def test_alert_tests_detect_wrong_rules(tmp_path: Path) -> None:
    first, _, _ = UNIT_TESTS.partition("  - name: down, but another job")
    (tmp_path / "alerts_test.yml").write_text(first)
    (tmp_path / "alerts.yml").write_text(RULES.replace("== 0", "== 1"))
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", "alerts_test.yml", cwd=tmp_path)


def test_promtool_accepts_sample_configuration(tmp_path: Path) -> None:
    shutil.copy(PROMETHEUS / "alerts.yml", tmp_path)
    token = tmp_path / "backupd.token"
    token.write_text("secret")
    sample = (PROMETHEUS / "prometheus.yml").read_text()
    assert "/etc/prometheus/backupd.token" in sample
    (tmp_path / "prometheus.yml").write_text(sample.replace("/etc/prometheus/backupd.token", str(token)))
    said = promtool("check", "config", "prometheus.yml", cwd=tmp_path)
    assert "1 rule files found" in said
    assert f"SUCCESS: {len(ALERTS)} rules found" in said


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_has_tests_for_firing_and_silence(name: str) -> None:
    expectations = re.findall(rf"alertname: {name}\n +exp_alerts:( \[\])?", UNIT_TESTS)
    assert set(expectations) == {"", " []"}


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_each_alert_has_summary_and_runbook_link(alert: str) -> None:
    name = alert.split(maxsplit=1)[0]
    assert re.fullmatch(r"Backupd([A-Z][a-z]+)+", name)
    assert re.search(r"^ +severity: (critical|warning|info)$", alert, re.MULTILINE)
    assert re.search(r"^ +summary: .+\.'?$", alert, re.MULTILINE)
    assert re.search(r"^ +description: .+\.'?$", alert, re.MULTILINE)
    assert re.search(rf"^ +runbook_url: '.*\}}\}}/monitoring\.md#{name.lower()}'$", alert, re.MULTILINE)


def test_page_explains_each_alert_with_severity() -> None:
    sections = re.findall(r"^### (Backupd\w+)\n(\w+):", PAGE, re.MULTILINE)
    severities = [match[1] for alert in ALERTS if (match := re.search(r"severity: (\w+)", alert))]
    assert [(name, severity.lower()) for name, severity in sections] == list(zip(NAMES, severities, strict=True))


def test_alerts_use_existing_metrics() -> None:
    used = {name for alert in ALERTS for name in OURS.findall(alert.split("labels:")[0])}
    assert used
    assert used <= NAMES_OF_METRICS | names_of_gate()


def names_of_gate() -> set[str]:
    """Return the names of all metrics of a gate."""
    text = metrics_response((TASKS,), GATE_STATES["unhealthy"]).body.decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def queries() -> Iterator[str]:
    """List what the dashboard asks Prometheus."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (annotation["expr"] for annotation in DASHBOARD["annotations"]["list"])


# The labels of each metric.
STATUSES = (status_of(WELL), status_of(ILL), whole_app().status)
LABELS = {name: {key for key, _ in labels} for status in STATUSES for name, labels in samples_of(status)}
NAMES_OF_METRICS = {name for status in STATUSES for name in names_of(status)}


def test_dashboard_uses_existing_metrics_and_shows_most_of_them() -> None:
    exported = {name for name in NAMES_OF_METRICS if not name.startswith("process_")}
    used = {name for query in queries() for name in OURS.findall(query)}
    assert used <= exported | names_of_gate()
    assert exported - used <= {
        "backupd_last_success_timestamp_seconds",
        "backupd_generation_timestamp_seconds",
        "backupd_drill_generation_timestamp_seconds",
    }


def test_prometheus_parses_each_query_of_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    (tmp_path / "queries.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", tmp_path / "queries.json")


def test_dashboard_is_independent_of_data_source() -> None:
    def sources(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from (found for key, found in value.items() if key == "datasource")
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for child in children:
            yield from sources(child)

    found = list(sources(DASHBOARD))
    assert found
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in found)
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    assert DASHBOARD["templating"]["list"][0]["name"] == "datasource"
    assert (DASHBOARD["uid"], DASHBOARD["id"]) == ("backupd", None), "links to it stay valid, and it can be imported"


def test_dashboard_marks_failed_runs_and_restores_and_links_to_page() -> None:
    marked = {annotation["name"]: annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]}
    assert set(marked) == {"Failed runs", "Restores"}
    assert 'outcome="failed"' in marked["Failed runs"]
    assert 'task="restore"' in marked["Restores"]
    assert [link["url"] for link in DASHBOARD["links"]] == ["http://${instance}/"]


def test_each_query_about_sources_follows_selected_ones() -> None:
    variables = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "job", "instance", "source"]
    labelled = {name for name, labels in LABELS.items() if "source" in labels}
    assert len(labelled) > 5
    for query in queries():
        if labelled & set(OURS.findall(query)):
            assert 'source=~"$source"' in query, query


def test_panels_have_titles_and_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert all(panel["title"] and panel["description"] for panel in DASHBOARD["panels"])
