"""The age of the last verified copies, from store, catalog and damage marks together."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from backupd.bootstrap.tasks import limits, planned_tasks
from backupd.config import load_config
from backupd.health import Health, Limit
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.freshness import read_health_facts
from backupd.tasks.requests import BackupRequest
from backupd.tasks.verify import record_verification
from support.generations import backdated

DAY_S = 86400.0
LIMITS = (Limit("backup", "tasks", DAY_S),)


def health(context: TaskContext, now: datetime | None = None) -> Health:
    return Health.of(read_health_facts(LIMITS, context), now or context.clock())


def test_unchanged_backup_counts_like_new_generation(order: BackupRequest, context: TaskContext) -> None:
    backup(order, context)
    tomorrow = replace(context, clock=lambda: datetime.now(UTC) + timedelta(days=1.5))
    assert not health(tomorrow).healthy
    assert backup(order, tomorrow).outcome == "unchanged"
    assert health(tomorrow).healthy


def test_freshness_without_catalog_follows_generations(order: BackupRequest, context: TaskContext) -> None:
    backup(order, context)
    context.catalog_path.unlink()
    assert health(context).healthy
    assert not context.catalog_path.exists()


def test_damaged_generation_does_not_count(order: BackupRequest, context: TaskContext) -> None:
    newest = backup(order, context).generation
    assert newest is not None
    backdated(context.store.directory, newest, days=2)
    record_verification(newest, context, sound=False, detail="rot")
    assert health(context).reasons == ("the last verified backup of tasks is 48 h old, more than 24 h",)


def test_deleted_generations_do_not_count(order: BackupRequest, context: TaskContext) -> None:
    newest = backup(order, context).generation
    assert newest is not None
    context.store.archive_path(newest).unlink()
    assert health(context).reasons == ("there is no verified backup of tasks yet",)


def test_unreadable_store_is_named_and_unhealthy(context: TaskContext) -> None:
    marks = context.store.hidden / "damaged"
    marks.write_text("a file where a directory should be")
    reasons = health(context).reasons
    assert "the directory of the backups cannot be read" in reasons


def test_expected_checks_follow_configuration() -> None:
    environ = {
        "BACKUPD_DATABASE": "/app/data/tasks.db",
        "BACKUPD_REPLICAS__NAS__URL": "file:/mnt",
        "BACKUPD_DRILL__FROM": "nas",
        "BACKUPD_HEALTH__DRILL_LIMIT_S": "1000",
    }
    asked = limits(load_config(None, environ))
    named = [(limit.task, limit.subject) for limit in asked]
    assert named == [("backup", "tasks"), ("replicate", "nas"), ("drill", "nas")]
    assert [round(limit.limit_s / 3600) for limit in asked[:2]] == [26, 182]
    assert asked[2].limit_s == 1000
    del environ["BACKUPD_DRILL__FROM"], environ["BACKUPD_HEALTH__DRILL_LIMIT_S"]
    unasked = limits(load_config(None, environ))
    assert [(limit.task, limit.subject, round(limit.limit_s / DAY_S)) for limit in unasked][2:] == [
        ("drill", "nas", 34)
    ]
    assert len(limits(load_config(None, {"BACKUPD_DATABASE": "/app/data/tasks.db"}))) == 1


def test_limit_of_each_replica_follows_its_schedule() -> None:
    environ = {
        "BACKUPD_DATABASE": "/app/data/tasks.db",
        "BACKUPD_REPLICAS__NAS__URL": "file:/mnt",
        "BACKUPD_REPLICAS__OFFSITE__URL": "file:/far",
        "BACKUPD_REPLICAS__NAS__SCHEDULE": "05:00",
    }
    config = load_config(None, environ)
    hours = {limit.subject: round(limit.limit_s / 3600) for limit in limits(config) if limit.task == "replicate"}
    assert hours == {"nas": 26, "offsite": 182}
    due = {planned.source: planned.schedule for planned in planned_tasks(config) if planned.task == "replicate"}
    wednesday = datetime(2026, 11, 25, 12, tzinfo=UTC)
    following = {name: schedule.following(wednesday).strftime("%a %H:%M") for name, schedule in due.items()}
    assert following == {"nas": "Thu 05:00", "offsite": "Sun 05:00"}
