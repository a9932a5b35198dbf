"""The catalog through its public functions."""

import os
import sqlite3
import threading
from contextlib import closing
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import pytest

from backupd.catalog import CatalogUnavailable, CheckRecord, open_catalog, read_catalog, read_copies
from backupd.catalog.catalog import Catalog
from backupd.catalog.database import LATEST, our_schema
from backupd.catalog.models import Base
from backupd.catalog.rebuild import rebuild
from backupd.errors import CatalogForeign
from backupd.report import BackupDetails, PruneDetails
from support.catalog_values import APP, NOON, OLDER, at, manifest, report, start

EVERYONE_WRITES = """
import sys
from pathlib import Path
from support.catalog_values import NOON, report
from backupd.catalog import open_catalog
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    with open_catalog(Path(sys.argv[1])) as catalog:
        run = catalog.start_run("backup", sys.argv[2], NOON)
        catalog.record_run(report(subject=sys.argv[2], notes=(str(number),)), NOON, run_id=run)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite3"


@pytest.fixture
def catalog(path: Path) -> Catalog:
    return open_catalog(path)


def check(catalog: Catalog, store: str, minute: int, *, sound: bool) -> None:
    catalog.record_check(CheckRecord(APP, store, at(minute), sound, "ok" if sound else "archive is short", 0.25))


def test_table_names_are_those_of_models() -> None:
    assert Base.metadata.tables.keys() == {name for kind, name, *_ in our_schema(LATEST) if kind == "table"}


def test_run_is_read_back_as_reported(catalog: Catalog) -> None:
    told = report(
        stages=MappingProxyType({"copy": 0.5}),
        warnings=("slow",),
        duration_s=1.5,
        details=BackupDetails(generation=APP, removed=(OLDER,), archive_bytes=10**12, verification="full"),
    )
    run_id = catalog.record_run(told, at(1))
    (run,) = catalog.runs()
    assert run.report == told
    assert (run.id, run.task, run.source, run.outcome) == (run_id, "backup", "app", "published")
    assert (run.started_at, run.finished_at) == (NOON, at(1))
    assert (run.generation, run.exit_code, run.duration_s, run.error) == (APP, 0, 1.5, None)


def test_times_of_any_zone_are_read_back_in_utc(catalog: Catalog) -> None:
    catalog.start_run("backup", "app", datetime(2026, 11, 1, 13, tzinfo=timezone(timedelta(hours=1))))
    (run,) = catalog.runs()
    assert run.started_at == NOON
    assert run.started_at.tzinfo is UTC


def test_time_without_zone_is_refused(catalog: Catalog) -> None:
    with pytest.raises(CatalogUnavailable, match="no time zone"):
        catalog.start_run("backup", "app", datetime(2026, 11, 1))  # noqa: DTZ001 - that is the point


def test_started_run_is_interrupted_until_finished(catalog: Catalog) -> None:
    backup = catalog.start_run("backup", "app", at(1))
    drill = catalog.start_run("drill", "app", NOON)
    assert [run.id for run in catalog.interrupted_runs()] == [drill, backup]
    assert [run.id for run in catalog.interrupted_runs("backup")] == [backup]
    catalog.record_run(report(), at(2), run_id=backup)
    assert [run.id for run in catalog.interrupted_runs()] == [drill]
    assert {run.id: run.outcome for run in catalog.runs()} == {backup: "published", drill: None}


def test_interrupted_run_is_marked_failed_only_before_its_end(catalog: Catalog) -> None:
    killed, finished = (catalog.start_run("backup", "app", NOON) for _ in range(2))
    catalog.record_run(report(), at(1), run_id=finished)
    for run_id in (killed, finished):
        catalog.mark_interrupted(run_id, at(2))
    runs = {run.id: run for run in catalog.runs()}
    assert (runs[killed].outcome, runs[killed].error) == ("failed", "interrupted")
    assert (runs[killed].finished_at, runs[killed].report) == (at(2), None)
    assert (runs[finished].outcome, runs[finished].error) == ("published", None)
    assert catalog.interrupted_runs() == []


def test_run_marked_interrupted_that_finishes_is_recorded_as_finished(catalog: Catalog) -> None:
    run_id = catalog.start_run("backup", "app", NOON)
    catalog.mark_interrupted(run_id, at(1))
    catalog.record_run(report(), at(2), run_id=run_id)
    (run,) = catalog.runs()
    assert (run.outcome, run.error, run.finished_at) == ("published", None, at(2))


def test_run_without_recorded_start_is_recorded_at_its_end(catalog: Catalog) -> None:
    catalog.record_run(report(), at(1), run_id=41)
    (run,) = catalog.runs()
    assert (run.report, run.finished_at) == (report(), at(1))


def test_runs_are_listed_newest_first_by_source_and_task_up_to_limit(catalog: Catalog) -> None:
    for minute, task in enumerate(["backup", "replicate"] * 15):
        catalog.record_run(report(task=task, started_at=at(minute)), at(minute))
    catalog.record_run(report(subject="other", started_at=at(99)), at(99))
    assert len(catalog.runs()) == 20
    assert len(catalog.runs(limit=None)) == 31
    assert len(catalog.runs(source="app", task="backup", limit=None)) == 15
    assert [run.started_at for run in catalog.runs(task="replicate", limit=2)] == [at(29), at(27)]
    assert [run.source for run in catalog.runs(source="other")] == ["other"]
    assert all(newer.started_at > older.started_at for newer, older in pairwise(catalog.runs()))


def test_history_of_generation_has_its_runs_and_checks(catalog: Catalog) -> None:
    catalog.add_generation(manifest(), "local")
    catalog.record_run(report(), NOON)
    catalog.record_run(report(details=BackupDetails(generation=OLDER), started_at=at(1)), at(1))
    catalog.record_run(report(task="prune", details=PruneDetails(removed=(APP,)), started_at=at(2)), at(2))
    check(catalog, "local", 1, sound=True)
    check(catalog, "nas", 2, sound=False)
    history = catalog.history(APP)
    assert [run.task for run in history.runs] == ["prune", "backup"]
    assert [(check.store, check.sound, check.detail) for check in history.checks] == [
        ("nas", False, "archive is short"),
        ("local", True, "ok"),
    ]
    assert (history.checks[1].checked_at, history.checks[1].duration_s) == (at(1), 0.25)


def test_generation_has_every_store_with_a_copy(catalog: Catalog) -> None:
    catalog.add_generation(manifest(), "nas")
    catalog.add_generation(manifest(), "local", since=NOON)
    catalog.add_generation(manifest(OLDER), "local")
    assert catalog.copies() == {OLDER: ("local",), APP: ("local", "nas")}


def test_manifest_replaces_row_of_older_manifest(catalog: Catalog, path: Path) -> None:
    catalog.add_generation(manifest(), "local")
    catalog.add_generation(manifest(sha256="f" * 64), "local")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT snapshot_sha256 FROM generation").fetchall() == [("f" * 64,)]


def test_removal_of_last_copy_removes_generation_and_its_checks(catalog: Catalog, path: Path) -> None:
    for store in ("local", "nas"):
        catalog.add_generation(manifest(), store)
        check(catalog, store, 0, sound=True)
    catalog.remove_copy(APP, "local")
    assert catalog.copies() == {APP: ("nas",)}
    assert [check.store for check in catalog.history(APP).checks] == ["nas"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM generation").fetchone() == (1,)
    catalog.remove_copy(APP, "nas")
    catalog.remove_copy(APP, "nas")
    assert catalog.copies() == {}
    assert catalog.history(APP).checks == ()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM generation").fetchone() == (0,)


def test_damaged_copy_is_damaged_until_check_passes_or_new_copy_is_added(catalog: Catalog) -> None:
    for store in ("local", "nas"):
        catalog.add_generation(manifest(), store)
    check(catalog, "nas", 1, sound=False)
    check(catalog, "nas", 2, sound=False)
    assert catalog.damaged("nas") == {APP}
    assert catalog.damaged("local") == frozenset()
    assert catalog.copies() == {APP: ("local", "nas")}
    check(catalog, "nas", 3, sound=True)
    assert catalog.damaged("nas") == frozenset()
    check(catalog, "nas", 4, sound=False)
    catalog.add_generation(manifest(), "nas")
    assert catalog.damaged("nas") == frozenset()


def test_damage_mark_keeps_first_time(catalog: Catalog, path: Path) -> None:
    check(catalog, "nas", 1, sound=False)
    check(catalog, "nas", 2, sound=False)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT since FROM copy").fetchone() == (at(1).isoformat("T", "microseconds"),)


def test_damage_of_unknown_generation_is_recorded(catalog: Catalog) -> None:
    check(catalog, "nas", 0, sound=False)
    assert catalog.damaged("nas") == {APP}
    assert catalog.copies() == {APP: ("nas",)}


def test_run_with_file_name_outside_utf8_is_recorded(catalog: Catalog) -> None:
    told = report(outcome="failed", error="no such file: caf\udce9.db")
    catalog.record_run(told, NOON)
    (run,) = catalog.runs()
    assert run.error == r"no such file: caf\udce9.db"
    assert run.report == told


def test_report_of_another_version_is_read_in_part(catalog: Catalog, path: Path) -> None:
    catalog.record_run(report(), NOON)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("""UPDATE run SET report = json_set(json_remove(report, '$.notes'), '$.mood', 'good')""")
    (run,) = catalog.runs()
    assert run.report == report()


def test_report_with_wrong_type_of_value_is_refused(catalog: Catalog) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        catalog.record_run(report(notes=(object(),)), NOON)
    assert catalog.runs() == []


def test_every_field_of_report_is_read_back(catalog: Catalog) -> None:
    filled = {field.name: "x" for field in fields(BackupDetails) if field.type == str | None}
    details = BackupDetails(**filled, verification="corrupt", kept=3, removed=("y",))
    told = report(details=details, error="x", hint="x", notes=("x",), stages={"copy": 1.5}, exit_code=75)
    catalog.record_run(told, NOON)
    assert catalog.runs()[0].report == told


@pytest.mark.parametrize("name", ["a?mode=memory", "b#c", "d%20e", os.fsdecode(b"caf\xe9"), "f 'g' \"h\""])
def test_catalog_with_any_file_name_is_usable(tmp_path: Path, name: str) -> None:
    with open_catalog(tmp_path / name) as catalog:
        catalog.record_run(report(), NOON)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_catalog_has_no_open_file_between_calls(catalog: Catalog, tmp_path: Path) -> None:
    catalog.record_run(report(), NOON)
    assert [entry.name for entry in tmp_path.iterdir()] == ["catalog.sqlite3"]
    opened = [os.path.realpath(number) for number in Path("/proc/self/fd").iterdir()]
    assert not [name for name in opened if name.startswith(str(tmp_path))]


def test_threads_share_one_catalog(catalog: Catalog) -> None:
    threads = [threading.Thread(target=catalog.record_run, args=(report(), NOON)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(catalog.runs()) == 8


def test_processes_creating_and_writing_catalog_at_once_lose_nothing(path: Path) -> None:
    writers = [start(EVERYONE_WRITES, path, f"source-{number}", 10) for number in range(4)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.communicate()[0] or writer.returncode for writer in writers] == [0, 0, 0, 0]
    with open_catalog(path) as catalog:
        assert catalog.interrupted_runs() == []
        for number in range(4):
            runs = catalog.runs(source=f"source-{number}", limit=None)
            assert sorted(int(run.report.notes[0]) for run in runs if run.report) == list(range(10))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_catalog_created_by_root_belongs_to_owner_of_directory(path: Path) -> None:
    os.chown(path.parent, 65534, 65534)
    open_catalog(path)
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (65534, 0o640)


def test_reading_missing_catalog_creates_none(path: Path) -> None:
    with pytest.raises(CatalogUnavailable, match="there is no catalog"):
        read_catalog(path)
    assert not path.exists()


@pytest.mark.parametrize("there", ["a catalog", "another file", "nothing"])
def test_link_in_place_of_catalog_is_refused(path: Path, tmp_path: Path, there: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    real = tmp_path / "elsewhere" / "real"
    if there == "a catalog":
        open_catalog(real)
    elif there == "another file":
        real.touch(0o600)
    path.symlink_to(real)
    before = sorted((file.name, file.stat().st_mtime_ns, file.read_bytes()) for file in real.parent.iterdir())
    for use in (open_catalog, read_catalog, read_copies, lambda path: rebuild(path, [(manifest(), "local")])):
        with pytest.raises(CatalogForeign, match=f"{path} is a symbolic link") as caught:
            use(path)
        assert "remove it" in caught.value.hint
    assert sorted((file.name, file.stat().st_mtime_ns, file.read_bytes()) for file in real.parent.iterdir()) == before
    path.unlink()
    open_catalog(path)
    assert path.is_file()


def test_catalog_replaced_by_link_during_use_is_not_followed(path: Path) -> None:
    with open_catalog(path) as catalog:
        path.symlink_to(path.rename(path.with_name("moved")))
        with pytest.raises(CatalogForeign, match="symbolic link"):
            catalog.record_run(report(), NOON)


def test_pipe_in_place_of_catalog_is_refused_without_blocking(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(CatalogForeign, match="not a regular file"):
        open_catalog(path)
