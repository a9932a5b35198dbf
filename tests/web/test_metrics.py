"""/metrics: names and units as Prometheus recommends, values as reported by the service, all documented."""

import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from backupd.status.model import SourceFigures, Status, TaskFigures
from backupd.web.metrics import metrics_response
from support.page_states import whole_app
from support.web_site import ILL, NOW, WELL, status_of

ROOT = Path(__file__).parents[2]
Sample = tuple[str, frozenset[tuple[str, str]]]


def text_of(status: Status) -> str:
    return metrics_response(status).body.decode()


def samples_of(status: Status) -> dict[Sample, float]:
    families = text_string_to_metric_families(text_of(status))
    samples = [sample for family in families for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples), "no sample is told twice"
    return found


def names_of(status: Status) -> set[str]:
    return {name for name, _ in samples_of(status)}


def value(status: Status, name: str, **labels: str) -> float | None:
    return samples_of(status).get((name, frozenset(labels.items())))


@pytest.mark.parametrize("health", [WELL, ILL])
def test_promtool_accepts_metrics(health: object) -> None:
    text = text_of(replace(status_of(WELL), health=health))
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_metrics_have_both_figures_of_every_app() -> None:
    well = status_of(WELL)
    assert value(well, "app_started_at") == round(well.started_at.timestamp() * 1000)
    assert re.search(r"^app_started_at 1.795521600123e\+12$", text_of(well), re.MULTILINE), "no millisecond is lost"
    assert value(well, "migrations_ok") == 1
    assert value(replace(well, migrations_ok=False), "migrations_ok") == 0


def test_last_checks_are_timestamps_and_missing_one_is_absent() -> None:
    ill = status_of(ILL)
    drill = {"task": "drill", "subject": "offsite"}
    backup = {"task": "backup", "subject": "tasks"}
    assert value(ill, "backupd_proof_timestamp_seconds", **backup) == pytest.approx(NOW.timestamp() - 30 * 3600)
    assert value(ill, "backupd_proof_limit_seconds", **backup) == 93_600
    assert value(ill, "backupd_proof_timestamp_seconds", **drill) is None
    assert value(ill, "backupd_proof_limit_seconds", **drill) == 2_901_600
    assert (value(ill, "backupd_healthy"), value(ill, "backupd_warnings")) == (0, 1)
    assert (value(status_of(WELL), "backupd_healthy"), value(status_of(WELL), "backupd_warnings")) == (1, 0)


def test_runs_are_counted_by_outcome_and_missing_outcome_is_zero() -> None:
    well = status_of(WELL)
    counts = {
        outcome: value(well, "backupd_runs_total", task="backup", source="tasks", outcome=outcome)
        for outcome in ("published", "unchanged", "done", "failed", "degraded")
    }
    assert counts == {"published": 40, "unchanged": 0, "done": 0, "failed": 2, "degraded": 0}
    assert value(well, "backupd_runs_total", task="drill", source="tasks", outcome="failed") == 0


def test_figures_of_tasks_and_sources_match_service() -> None:
    well = status_of(WELL)
    backup = {"task": "backup", "source": "tasks"}
    assert value(well, "backupd_last_success_timestamp_seconds", **backup) == pytest.approx(NOW.timestamp() - 3 * 3600)
    assert value(well, "backupd_run_duration_seconds", **backup) == 1.5
    assert value(well, "backupd_stage_duration_seconds", **backup, stage="copy") == 0.5
    assert value(well, "backupd_snapshot_size_bytes", source="tasks") == 3 << 20
    assert value(well, "backupd_archive_size_bytes", source="tasks") == 1 << 20
    assert value(well, "backupd_generation_timestamp_seconds", source="tasks") == pytest.approx(
        NOW.timestamp() - 10_800
    )
    assert value(well, "backupd_generations", source="tasks", state="verified") == 11
    assert value(well, "backupd_generations", source="tasks", state="damaged") == 1
    assert value(well, "backupd_rotation_frozen", source="tasks") == 0
    assert value(well, "backupd_rotation_frozen", source="notes") == 1
    assert value(well, "backupd_free_bytes", store="local") == 5 << 30
    assert value(well, "backupd_last_success_timestamp_seconds", task="drill", source="tasks") is None
    assert value(well, "backupd_run_duration_seconds", task="drill", source="tasks") is None
    assert value(well, "backupd_snapshot_size_bytes", source="notes") is None


def test_drill_metrics_have_recovery_time_and_data_age() -> None:
    well, drill = status_of(WELL), {"source": "notes", "store": "offsite"}
    assert value(well, "backupd_drill_recovery_seconds", **drill) == 8.25
    assert value(well, "backupd_drill_data_age_seconds", **drill) == 100_800
    assert value(well, "backupd_drill_generation_timestamp_seconds", **drill) == pytest.approx(
        NOW.timestamp() - 13 * 86_400
    )
    assert value(well, "backupd_drill_recovery_seconds", source="tasks", store="offsite") is None
    assert value(well, "backupd_stage_duration_seconds", task="drill", source="notes", stage="fetch") == 7.5


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ('a"b', 'a"b'),
        ("a\\b", "a\\b"),
        ("{},= #", "{},= #"),
        ("naïve 名", "naïve 名"),
        ("a\nb 1\nbackupd_healthy 1", "a\\nb 1\\nbackupd_healthy 1"),
        ("a\r\x00\x1b[2J", "a\\r\\x00\\x1b[2J"),
        ("\udcff", "\\udcff"),
        ("", ""),
    ],
)
def test_hostile_names_stay_inside_their_label(name: str, told: str) -> None:
    hostile = replace(
        status_of(WELL),
        sources=(SourceFigures(name, 1, 1, 1, 1, NOW, frozen=False),),
        tasks=(TaskFigures("backup", name, NOW, {name: 1}, 1, {name: 1}),),
        free_bytes={name: 7},
    )
    assert value(hostile, "backupd_free_bytes", store=told) == 7
    assert value(hostile, "backupd_runs_total", task="backup", source=told, outcome=told) == 1
    assert names_of(hostile) <= names_of(status_of(WELL))


def test_restores_are_counted_beside_planned_tasks() -> None:
    restored = replace(status_of(WELL), restores={"tasks": {"done": 2}, "notes": {}})
    assert value(restored, "backupd_runs_total", task="restore", source="tasks", outcome="done") == 2
    assert value(restored, "backupd_runs_total", task="restore", source="notes", outcome="failed") == 0


def test_runs_in_unreadable_catalog_are_absent_and_not_zero() -> None:
    runs = {"task": "backup", "source": "tasks", "outcome": "failed"}
    assert value(status_of(WELL), "backupd_runs_total", **runs) is not None
    assert value(replace(status_of(WELL), migrations_ok=False), "backupd_runs_total", **runs) is None


def test_messages_waiting_and_their_last_results_are_exported() -> None:
    well = status_of(WELL)
    assert value(well, "backupd_messages_waiting") == 2
    assert value(well, "backupd_message_last_success_timestamp_seconds") == pytest.approx(NOW.timestamp() - 3600)
    assert value(well, "backupd_message_last_failure_timestamp_seconds") == pytest.approx(NOW.timestamp())


def test_pings_are_counted_by_outcome() -> None:
    well = status_of(WELL)
    daily = {"task": "daily", "source": ""}
    assert value(well, "backupd_pings_total", outcome="accepted", **daily) == 40
    assert value(well, "backupd_pings_total", outcome="failed", **daily) == 2
    assert value(well, "backupd_ping_last_failure_timestamp_seconds", **daily) == pytest.approx(NOW.timestamp())


def test_no_label_collides_with_those_of_prometheus() -> None:
    labels = {label for _, pairs in samples_of(status_of(WELL)) for label, _ in pairs}
    assert labels.isdisjoint({"job", "instance"})
    assert labels == {"version", "python", "sqlite", "store", "task", "subject", "source", "outcome", "stage", "state"}


def test_page_explains_every_metric_with_its_labels() -> None:
    section = (ROOT / "docs" / "monitoring.md").read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\| [^|]+ \|$", section, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    exported: dict[str, set[str]] = {}
    for name, pairs in (*samples_of(status_of(WELL)), *samples_of(status_of(ILL)), *samples_of(whole_app().status)):
        exported.setdefault(name, set()).update(label for label, _ in pairs)
    assert documented == exported


def test_every_metric_has_help_text() -> None:
    families = list(text_string_to_metric_families(text_of(status_of(WELL))))
    assert [family.name for family in families if not family.documentation.endswith(".")] == []


def test_empty_installation_has_metrics() -> None:
    empty = replace(status_of(WELL), tasks=(), sources=(), free_bytes={}, started_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert {"app_started_at", "migrations_ok", "backupd_healthy"} <= names_of(empty)


def test_files_and_newest_sound_restore_point_are_measured() -> None:
    status = whole_app().status
    assert value(status, "backupd_files", source="uploads") == 12_345
    assert value(status, "backupd_files_size_bytes", source="uploads") == 2100 << 20
    assert value(status, "backupd_files", source="notes") is None
    assert value(status, "backupd_points") == 4
    assert value(status, "backupd_point_spread_seconds") == 0.012
    assert value(status, "backupd_point_parts") == 3
    assert value(replace(status, point=None), "backupd_point_timestamp_seconds") is None
