"""A drill: what it verifies, when it fails, and what it reports."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.bootstrap.tasks import drill_request, drilled_sources, drills
from backupd.config import load_config
from backupd.errors import ConfigError, ReplicaUnreachable, UsageError
from backupd.health import Limit
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX, Contents, Manifest
from backupd.stores.directory_replica import DirectoryReplica
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.drill import drill
from backupd.tasks.drill.database import differences
from backupd.tasks.freshness import read_health_facts
from backupd.tasks.inventory import take_inventory
from backupd.tasks.replica import once
from backupd.tasks.requests import BackupRequest, DrillRequest
from support.drills import DAY_S, drilled, facts
from support.generations import backdated, flip_byte, manifest_of, rewritten
from support.replicas import complete_generations, retrying


@pytest.fixture
def newest(order: BackupRequest, context: TaskContext) -> str:
    """The id of a fresh generation."""
    generation = backup(order, context).generation
    assert generation is not None
    return generation


def files(directory: Path) -> dict[str, bytes]:
    """Return the generations that lie in `directory`, byte for byte."""
    return {path.name: path.read_bytes() for path in directory.glob("tasks-*")}


def left_over(context: TaskContext) -> list[Path]:
    return list((context.store.hidden / "staging").iterdir())


def test_drill_reports_age_of_copy_and_duration_of_each_step(newest: str, context: TaskContext) -> None:
    before = files(context.store.directory)
    report = drilled(context)
    assert (report.outcome, report.exit_code, report.generation) == ("done", 0, newest)
    assert set(report.stages) == {"connect", "fetch", "unpack", "check"}
    done, manifest = facts(report), manifest_of(context, newest)
    assert (done.store, done.taken_at, done.proven) == (
        "local",
        manifest.taken_at,
        ("digests", "integrity_check", "contents"),
    )
    assert done.age_s is not None
    assert 0 <= done.age_s < DAY_S
    assert done.recovery_s is not None
    assert sum(report.stages.values()) <= done.recovery_s + 0.01 <= report.duration_s + 0.02
    assert (report.details.snapshot_sha256, report.details.verification) == (manifest.snapshot.sha256, "full")
    assert files(context.store.directory) == before
    assert left_over(context) == []


def test_catalog_has_whole_drill_report(newest: str, context: TaskContext) -> None:
    report = drilled(context)
    now = context.clock()
    run = context.ask_catalog(lambda catalog: catalog.last_success("drill", "tasks", now, "local"), None)
    assert run is not None
    assert run.report == report
    assert [run.task for run in context.ask_catalog(lambda catalog: catalog.history(newest).runs, ())] == [
        "drill",
        "backup",
    ]


@pytest.mark.usefixtures("newest")
def test_drill_from_one_store_counts_only_for_that_store(context: TaskContext) -> None:
    limits = (Limit("backup", "tasks", DAY_S), Limit("drill", "local", DAY_S), Limit("drill", "nas", DAY_S))
    report = drilled(context)
    _, local, nas = read_health_facts(limits, context).freshness
    assert (local.last_at, nas.last_at) == (report.started_at, None)
    now = context.clock()
    histories = [
        context.ask_catalog(lambda catalog, store=store: catalog.task_history("drill", "tasks", now, store), None)
        for store in ("local", "nas")
    ]
    assert [history.succeeded_at for history in histories if history] == [report.started_at, None]


@pytest.mark.usefixtures("newest")
def test_store_drill_is_current_only_after_drill_of_each_source(context: TaskContext) -> None:
    drilled(context)
    limits = (Limit("backup", "tasks", DAY_S), Limit("backup", "notes", DAY_S), Limit("drill", "local", DAY_S))
    assert read_health_facts(limits, context).freshness[2].last_at is None


def test_flipped_byte_fails_drill_and_marks_generation(newest: str, context: TaskContext) -> None:
    flip_byte(context.store.archive_path(newest))
    report = drilled(context)
    assert (report.outcome, report.exit_code) == ("failed", 1)
    assert newest in str(report.error)
    assert context.marks.ids() == {newest}
    assert facts(report).proven == ()
    assert left_over(context) == []


def test_newer_damaged_generation_is_skipped_with_warning(newest: str, context: TaskContext) -> None:
    older = backdated(context.store.directory, newest, days=0.5)
    flip_byte(context.store.archive_path(newest))
    drilled(context)
    report = drilled(context)
    assert (report.outcome, report.exit_code, report.generation) == ("degraded", 3, older)
    newer = f"local has newer generations of tasks than {older} that cannot be used"
    assert report.warnings == (f"{newer}: {newest} is damaged",)


def test_copy_older_than_limit_fails_drill_without_download(newest: str, context: TaskContext) -> None:
    later = replace(context, clock=lambda: datetime.now(UTC) + timedelta(days=2))
    report = drilled(later)
    assert (report.exit_code, set(report.stages)) == (1, {"connect"})
    assert f"the newest verified copy of tasks at local ({newest}) is 48 h old, more than 24 h" in str(report.error)
    assert facts(report).age_s == pytest.approx(2 * DAY_S, abs=600)


def test_age_of_copy_counts_from_last_unchanged_backup(newest: str, order: BackupRequest, context: TaskContext) -> None:
    later = replace(context, clock=lambda: datetime.now(UTC) + timedelta(days=2))
    assert backup(order, later).outcome == "unchanged"
    report = drilled(later)
    assert (report.outcome, report.generation) == ("done", newest)


def test_drill_without_copy_fails_with_hint(context: TaskContext) -> None:
    report = drilled(context)
    assert report.exit_code == 1
    assert "local has no verified copy of tasks" in str(report.error)
    assert "backupd replicate" in str(report.hint)


def more_rows(manifest: Manifest) -> Manifest:
    tables = {**manifest.contents.tables, "account": 7, "gone": 1}
    return replace(manifest, contents=replace(manifest.contents, tables=tables))


def test_contents_unlike_manifest_fail_drill(newest: str, context: TaskContext) -> None:
    rewritten(context.store.directory, newest, more_rows)
    report = drilled(context)
    assert report.exit_code == 1
    assert "table gone is missing; table account has 1000 rows, not 7" in str(report.error)
    assert context.marks.ids() == {newest}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Contents({"a": 1, "b": None}, "x" * 64), ""),
        (Contents({"a": None, "b": 2}, "x" * 64), ""),
        (Contents({"a": 1}, "x" * 64), "table b is missing"),
        (Contents({"a": 1, "b": 2, "c": 3}, "x" * 64), "table c is not in the manifest"),
        (Contents({"a": 1, "b": 3}, "y" * 64), "table b has 3 rows, not 2; its schema has another digest"),
        (Contents({str(n): 0 for n in range(9)}, "x" * 64), "8 more differences"),
        (None, "its contents could not be counted"),
    ],
)
def test_differences_are_listed_by_table(found: Contents | None, told: str) -> None:
    said = differences(found, Contents({"a": 1, "b": 2}, "x" * 64))
    assert told in said
    assert bool(said) == bool(told)


@pytest.mark.usefixtures("newest")
def test_lost_connection_is_reopened(context: TaskContext) -> None:
    tries: list[int] = []

    @contextmanager
    def opened() -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise ReplicaUnreachable("gone", "it is tried again")
        yield context.store, local_inventory(context)

    (report,) = drill([DrillRequest("tasks", "local", DAY_S, reserve_bytes=0)], opened, retrying(2), context)
    assert (report.outcome, len(tries)) == ("done", 2)


def test_replica_is_drilled_by_its_own_listing_and_left_unchanged(
    newest: str, context: TaskContext, tmp_path: Path
) -> None:
    there = DirectoryReplica("nas", tmp_path / "nas")
    there.prepare()
    for suffix in (ARCHIVE_SUFFIX, MANIFEST_SUFFIX):
        (tmp_path / "nas" / f"{newest}{suffix}").write_bytes(
            (context.store.directory / f"{newest}{suffix}").read_bytes()
        )
        (tmp_path / "nas" / f"{newest}{suffix}").chmod(0o600)
        (context.store.directory / f"{newest}{suffix}").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "nas").rglob("*")}
    order = DrillRequest("tasks", "nas", DAY_S, reserve_bytes=0)
    (report,) = drill([order], lambda: nullcontext((there, take_inventory(there, context.clock()))), once, context)
    assert (report.outcome, report.generation) == ("done", newest)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "nas").rglob("*")} == before
    assert complete_generations(tmp_path / "nas") == {newest}


def test_insufficient_space_is_reported_before_download(newest: str, context: TaskContext) -> None:
    order = DrillRequest("tasks", "local", DAY_S, reserve_bytes=1 << 60)
    opened = nullcontext((context.store, local_inventory(context)))
    (report,) = drill([order], lambda: opened, once, context)
    assert (report.exit_code, set(report.stages)) == (1, {"connect"})
    assert f"a drill of {newest} needs" in str(report.error)


@pytest.mark.usefixtures("newest")
def test_second_drill_waits_for_first_and_gives_up(context: TaskContext) -> None:
    hurried = replace(context, lock_timeout_s=0.1)
    with context.task_lock("drill"):
        assert drilled(hurried).exit_code == 75


@pytest.mark.usefixtures("newest")
def test_drill_runs_during_backup(context: TaskContext) -> None:
    with context.exclusive_lock("backup"):
        assert drilled(context).outcome == "done"


# --- What the configuration asks for ---

DATABASES = {"BACKUPD_DATABASE": "/app/data/tasks.db"}
NAS = {"BACKUPD_REPLICAS__NAS__URL": "file:/mnt/nas"}
OTHER = {"BACKUPD_REPLICAS__OFFSITE__URL": "file:/mnt/offsite"}


@pytest.mark.parametrize(
    ("environ", "store", "note"),
    [
        ({}, "local", "no replica is configured"),
        (NAS, "nas", ""),
        ({**NAS, **OTHER}, "nas", "the first of 2 replicas"),
        ({**NAS, **OTHER, "BACKUPD_DRILL__FROM": "offsite"}, "offsite", ""),
        ({**NAS, "BACKUPD_DRILL__FROM": "local"}, "local", ""),
    ],
)
def test_default_store_of_drill_is_first_replica_or_else_local(environ: dict[str, str], store: str, note: str) -> None:
    config = load_config(None, {**DATABASES, **environ})
    order = drill_request(config, "tasks")
    assert order.store == store
    assert note in order.note
    assert bool(order.note) == bool(note)
    assert drills(config) == bool(environ)


def test_default_age_limit_of_drill_follows_schedules() -> None:
    config = load_config(None, {**DATABASES, **NAS})
    assert round(drill_request(config, "tasks").max_age_s / 3600) == 182 + 26
    assert round(drill_request(config, "tasks", "local").max_age_s / 3600) == 26
    assert drill_request(load_config(None, {**DATABASES, "BACKUPD_DRILL__MAX_AGE_S": "60"}), "tasks").max_age_s == 60


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"FROM": "nowhere"}, "unknown store 'nowhere'; known stores: local, nas"),
        ({"SOURCE": "nothing"}, "unknown source 'nothing'; known sources: notes, tasks"),
        ({"COMMAND": "true"}, "is required, because there are several sources: notes, tasks"),
        ({"COMMAND": "sh -c 'a"}, "must be a command line: No closing quotation"),
        ({"HEALTH_URL": "file:///etc/passwd", "COMMAND": "true"}, "must be a URL that begins with http"),
        ({"HEALTH_URL": "http://me:secret@app/", "COMMAND": "true"}, "must not contain a password"),
        ({"HEALTH_URL": "http://app/", "SOURCE": "tasks"}, "health_url needs place_at or command"),
        ({"QUERY": "SELECT 1", "SOURCE": "tasks"}, "query and answer belong together"),
        ({"PLACE_AT": "/app/data/tasks.db", "SOURCE": "tasks"}, "is the database of source tasks"),
        ({"PLACE_AT": "/app/data/x/../notes.db-wal", "SOURCE": "tasks"}, "is the database of source notes"),
        ({"PLACE_AT": "/app/data/backups/x/tasks.db", "SOURCE": "tasks"}, "is inside backups_dir"),
    ],
    ids=str,
)
def test_contradictory_drill_settings_are_refused_at_start(asked: dict[str, str], complaint: str) -> None:
    environ = {
        "BACKUPD_SOURCES__TASKS__PATH": "/app/data/tasks.db",
        "BACKUPD_SOURCES__NOTES__PATH": "/app/data/notes.db",
        **NAS,
        **{f"BACKUPD_DRILL__{name}": value for name, value in asked.items()},
    }
    with pytest.raises(ConfigError) as refused:
        load_config(None, environ)
    assert complaint in refused.value.message
    assert "secret" not in refused.value.message


def test_app_check_belongs_to_configured_source() -> None:
    sources = {name: f"/app/data/{name}.db" for name in ("tasks", "notes")}
    environ = {f"BACKUPD_SOURCES__{name.upper()}__PATH": path for name, path in sources.items()}
    config = load_config(None, {**environ, "BACKUPD_DRILL__COMMAND": "check 'a b'", "BACKUPD_DRILL__SOURCE": "notes"})
    app = drill_request(config, "notes").app
    assert app is not None
    assert (app.command, drill_request(config, "tasks").app) == (("check", "a b"), None)


def test_database_that_set_of_files_queries_is_drilled_with_it() -> None:
    environ = {f"BACKUPD_SOURCES__{name}__PATH": f"/app/data/{name}.db" for name in ("TASKS", "NOTES")}
    files = {"PATH": "/app/data/uploads", "WITH": "notes", "QUERY": "SELECT path FROM files"}
    environ |= {f"BACKUPD_FILES__UPLOADS__{name}": value for name, value in files.items()}
    config = load_config(None, {**environ, "BACKUPD_FILES__AVATARS__PATH": "/app/data/avatars"})
    assert drilled_sources(config, ()) == (*config.sources, *config.files)
    assert drilled_sources(config, ("uploads",)) == ("notes", "uploads")
    assert drilled_sources(config, ("avatars",)) == ("avatars",)
    request = drill_request(config, "uploads")
    assert request.files is not None
    assert (request.path, request.files.database, request.app) == (Path("/app/data/uploads"), "notes", None)
    with pytest.raises(UsageError):
        drilled_sources(config, ("nothing",))
