"""`backupd status` in about ten lines: health, reasons, next steps and figures."""

from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from backupd.health import Health, HealthFacts
from backupd.status.model import NextRun, PointFigures, TaskFigures
from backupd.status.text import status_lines
from support.web_site import BACKUP, ILL, NOW, WELL, status_of

NEXT = (
    NextRun("backup", "tasks", datetime(2026, 11, 26, 4, tzinfo=ZoneInfo("Europe/Berlin"))),
    NextRun("replicate", "offsite", NOW + timedelta(minutes=4), "the last 3 runs failed", retry=True),
    NextRun("drill", "tasks", NOW, "there was none yet", overdue=True),
)
RESTORE = "stop the app and restore it: backupd restore latest --source tasks"


def test_healthy_and_unhealthy_status_as_text() -> None:
    assert status_lines(replace(status_of(WELL), next_runs=NEXT)) == (
        "healthy",
        "verified backup  tasks: 3 h ago, at most 26 h allowed",
        "off-site copy    offsite: 48 h ago, at most 8 d allowed",
        "proven restore   offsite: 12 d ago, at most 34 d allowed",
        "measured         notes: back from offsite in 8.2 s, with data 28 h old (notes-20261113-0300)",
        "last runs        tasks: backup 3 h ago (1.5 s), drill never",
        "last runs        notes: drill 12 d ago (9.5 s)",
        "next runs        tasks: backup Thu 2026-11-26 04:00 CET (in 15 h), drill now (when the daemon runs)",
        "next runs        offsite: replicate Wed 2026-11-25 12:04 UTC (in 4 min, the last 3 runs failed)",
        "generations      tasks: 12, 11 of them verified, the newest 3 h old, 3.0 MiB as 1.0 MiB",
        "generations      notes: 0, 0 of them verified, ON HOLD: nothing is pruned",
        "messages         2 NOT DELIVERED yet | what to do: backupd notify",
        "pings            daily: the last one FAILED: it answered 404 | what to do: backupd notify --test",
        "free space       local: 5.0 GiB",
        "backupd          0.1.0, SQLite 3.54.1, catalog works",
    )
    assert status_lines(status_of(ILL), "https://wiki.example")[:16] == (
        "NOT HEALTHY",
        "  reason: the database of tasks has shrunk: nothing is pruned until an operator accepts it",
        "  reason: the last verified backup of tasks is 30 h old, more than 26 h",
        "  reason: there is no proven restore from offsite yet",
        "  warning: the replication to offsite failed: the replica cannot be reached",
        f"  what to do: if the loss is intended: backupd prune --unfreeze --source tasks; if not, {RESTORE}",
        "  what to do: run backupd backup --source tasks now; if it fails, backupd doctor finds the cause",
        "  what to do: run backupd drill --from offsite now: it reports what is wrong",
        "  what to do: check the route",
        "  runbook: https://wiki.example/runbook.md#pruning-held",
        "  runbook: https://wiki.example/runbook.md#backup-too-old",
        "  runbook: https://wiki.example/runbook.md#never-succeeded",
        "  runbook: https://wiki.example/runbook.md#runs-failing",
        "verified backup  tasks: 30 h ago, at most 26 h allowed, TOO OLD",
        "off-site copy    offsite: 48 h ago, at most 8 d allowed",
        "proven restore   offsite: never, at most 34 d allowed",
    )


def test_clock_failure_warning_and_broken_catalog_have_next_steps() -> None:
    ahead = Health.of(HealthFacts((replace(BACKUP, last_at=NOW + timedelta(days=1)),)), NOW)
    backup = TaskFigures("backup", "tasks", NOW, {}, failed_at=NOW, error="it \x1b[2J broke", hint="mend it")
    prune = TaskFigures("prune", "tasks", NOW, {}, warnings=("one", "two"))
    lines = status_lines(replace(status_of(ahead), tasks=(backup, prune), migrations_ok=False))
    assert "  what to do: correct the clock (NTP); the next success after that counts again" in lines
    assert "  what to do: backupd doctor finds the cause; backupd catalog rebuild makes a new catalog" in "\n".join(
        lines
    )
    assert "last backup      tasks: failed 0 s ago: it \\x1b[2J broke | what to do: mend it" in lines
    assert "last prune       tasks: degraded: one; two" in lines
    assert lines[-1].endswith("catalog DOES NOT WORK")


def test_missing_catalog_before_first_run_is_no_problem() -> None:
    never = Health.of(HealthFacts((replace(BACKUP, last_at=None),)), NOW)
    nothing = replace(status_of(WELL).sources[1], frozen=False)
    lines = status_lines(replace(status_of(never), tasks=(), sources=(nothing,), migrations_ok=False))
    assert lines[-1].endswith("catalog not made yet")
    assert [line for line in lines if line.startswith("  what to do")] == [
        "  what to do: run backupd backup --source tasks now; if it fails, backupd doctor finds the cause"
    ]


def test_newest_restore_point_is_told_with_its_age_and_spread() -> None:
    parts = ("tasks-20261125-1100", "uploads-20261125-1100")
    point = PointFigures("point-20261125-1100", NOW - timedelta(hours=3), 3, parts, sound=True, stores=("local",))
    told = {
        "restore point    point-20261125-1100: 3 h old, 2 parts at most 3 ms apart, 7 in all": point,
        "restore point    point-20261125-1100: 3 h old, nothing has changed since, 2 parts at most 3 ms apart, "
        "7 in all": replace(point, current=True),
        "restore point    none of 7 IS SOUND | what to do: backupd list --points": None,
    }
    for line, newest in told.items():
        assert line in status_lines(replace(status_of(WELL), point=newest, points=7))
    assert not [line for line in status_lines(status_of(WELL)) if line.startswith("restore point")]
