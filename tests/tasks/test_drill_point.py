"""A drill of a restore point: all its databases and every file, from one instant."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from backupd.errors import ReplicaUnreachable
from backupd.health import Limit
from backupd.report import DrillDetails, RunReport, describe, report_facts, report_from_json
from backupd.stores.contents import LocalContents
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.drill import drill
from backupd.tasks.freshness import read_health_facts
from backupd.tasks.replica import once
from backupd.tasks.requests import AppCheck, BackupRequest, DrillRequest, FilesRequest
from support.drills import DAY_S, facts, shell
from support.generations import backdated, flip_byte, manifest_of
from support.points import files_generation, publish_point

UPLOADS = Path("/app/data/uploads")
TREE = {"2026/a cat.jpg": b"cat" * 1000, "2026/b": b"", "2026/copy of a cat.jpg": b"cat" * 1000, "readme": b"text"}
QUERY = "SELECT path FROM attachments"
Reports = dict[str, RunReport[DrillDetails]]


@pytest.fixture
def notes(database: Path) -> BackupRequest:
    """The request for a backup of a second database."""
    path = database.with_name("notes.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE note(body TEXT)")
    return BackupRequest("notes", path, reserve_bytes=0)


@pytest.fixture
def attach(database: Path) -> Callable[..., None]:
    """Let the first database name files."""

    def name(*paths: str | bytes | None) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS attachments(path)")
            connection.executemany("INSERT INTO attachments VALUES (?)", [(path,) for path in paths])

    name("2026/a cat.jpg", "./readme", b"2026/b", f"{UPLOADS}/2026//copy of a cat.jpg", None)
    return name


@pytest.fixture
def back_up(order: BackupRequest, notes: BackupRequest, context: TaskContext) -> Callable[..., dict[str, str]]:
    """Take a restore point of both databases and a set of files; returns its generations by source, and its id."""

    def taken(tree: dict[str, bytes] = TREE) -> dict[str, str]:
        found = {request.source: str(backup(request, context).generation) for request in (order, notes)}
        found["uploads"] = files_generation(context, tree, manifest_of(context, found["tasks"]).taken_at)
        return {**found, "point": publish_point(context.store.directory, tuple(found.values()))}

    return taken


def requests(query: str | None = QUERY, app: AppCheck | None = None, max_age_s: float = DAY_S) -> list[DrillRequest]:
    files = FilesRequest("uploads", UPLOADS, database="tasks", query=query, timeout_s=30)
    return [
        DrillRequest("tasks", "local", max_age_s, reserve_bytes=0, app=app),
        DrillRequest("notes", "local", max_age_s, reserve_bytes=0),
        DrillRequest("uploads", "local", max_age_s, reserve_bytes=0, path=UPLOADS, files=files),
    ]


def drilled(context: TaskContext, wanted: list[DrillRequest] | None = None) -> Reports:
    reports = drill(wanted or requests(), lambda: nullcontext((context.store, local_inventory(context))), once, context)
    return {report.subject: report for report in reports}


def content_path(context: TaskContext, data: bytes) -> Path:
    digest = hashlib.sha256(data).hexdigest()
    return context.store.directory / "files" / digest[:2] / digest


@pytest.mark.usefixtures("attach")
def test_point_is_restored_as_whole_and_recorded_for_each_source(
    back_up: Callable[..., dict[str, str]], context: TaskContext
) -> None:
    taken = back_up()
    reports = drilled(context)
    assert {source: report.outcome for source, report in reports.items()} == dict.fromkeys(reports, "done")
    assert {source: report.generation for source, report in reports.items()} | {"point": taken["point"]} == taken
    assert {facts(report).point for report in reports.values()} == {taken["point"]}
    uploads = reports["uploads"]
    assert (facts(uploads).files, facts(uploads).files_missing) == (4, 0)
    assert facts(uploads).proven == ("digests", "contents", "references")
    assert uploads.details.snapshot_bytes == sum(map(len, TREE.values()))
    assert f"from local with {taken['point']}, 4 files" in describe(uploads)
    assert report_from_json(json.dumps(report_facts(uploads))) == uploads
    limits = [Limit("backup", source, DAY_S) for source in reports]
    health = read_health_facts([*limits, Limit("drill", "local", DAY_S)], context)
    assert health.freshness[-1].last_at == min(report.started_at for report in reports.values())
    assert list((context.store.hidden / "staging").iterdir()) == []


@pytest.mark.usefixtures("attach")
def test_older_part_of_point_is_restored_rather_than_newer_generation(
    back_up: Callable[..., dict[str, str]], context: TaskContext
) -> None:
    taken = back_up()
    later = manifest_of(context, taken["tasks"]).taken_at + timedelta(minutes=5)
    newest = files_generation(context, {"else": b"else"}, later)
    assert drilled(context)["uploads"].generation == taken["uploads"]
    (alone,) = drilled(context, [requests(query=None)[2]]).values()
    assert (alone.generation, facts(alone).point, facts(alone).files) == (newest, None, 1)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Path.unlink, "is not there in store local"),
        (flip_byte, "its content is damaged"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), "its content is damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "not a regular file"),
    ],
    ids=["missing", "flipped", "longer", "directory"],
)
def test_missing_or_damaged_content_fails_drill_with_names_of_all_its_files(
    context: TaskContext, fault: Callable[[Path], object], told: str
) -> None:
    generation = files_generation(context, TREE, context.clock())
    fault(content_path(context, TREE["2026/a cat.jpg"]))
    (uploads,) = drilled(context, [requests(query=None)[2]]).values()
    assert (uploads.outcome, uploads.exit_code, uploads.error_kind) == ("failed", 1, "corrupt")
    assert f"{generation}: 2 of 4 files cannot be restored from local: '2026/a cat.jpg': " in str(uploads.error)
    assert "'2026/copy of a cat.jpg': " in str(uploads.error)
    assert told in str(uploads.error)
    assert (facts(uploads).files, facts(uploads).files_missing) == (4, 2)
    assert context.marks.ids() == {generation}


def test_file_that_only_database_names_fails_drill(
    back_up: Callable[..., dict[str, str]], context: TaskContext, attach: Callable[..., None]
) -> None:
    attach("2026", "../a", "/etc/passwd", "2026/c")
    back_up()
    uploads = drilled(context)["uploads"]
    assert (uploads.outcome, uploads.error_kind, facts(uploads).files_missing) == ("failed", "unproven", 4)
    what = "tasks names 4 files that uploads does not have: ../a, /etc/passwd, 2026 and 1 more"
    assert uploads.error == what
    assert context.marks.ids() == frozenset(), "the copy is not damaged"


def test_query_that_cannot_run_fails_drill_of_files_alone(
    back_up: Callable[..., dict[str, str]], context: TaskContext
) -> None:
    back_up()
    reports = drilled(context)
    assert {source: report.outcome for source, report in reports.items() if report.outcome != "failed"} == {
        "tasks": "done",
        "notes": "done",
    }
    assert "no such table: attachments" in str(reports["uploads"].error)
    assert "files.uploads.query" in str(reports["uploads"].hint)


@pytest.mark.usefixtures("attach")
def test_app_that_changes_restored_database_does_not_change_which_files_it_names(
    back_up: Callable[..., dict[str, str]], context: TaskContext
) -> None:
    back_up()
    app = AppCheck(60, command=shell('rm "$BACKUPD_RESTORED_DATABASE"'))
    assert {report.outcome for report in drilled(context, requests(app=app)).values()} == {"done"}


@pytest.mark.usefixtures("attach")
def test_damaged_newer_point_is_skipped_with_warning(
    back_up: Callable[..., dict[str, str]], context: TaskContext
) -> None:
    taken = back_up()
    moment = manifest_of(context, taken["tasks"]).taken_at
    older = [backdated(context.store.directory, taken[source], days=0.5) for source in ("tasks", "notes")]
    older.append(files_generation(context, TREE, moment - timedelta(days=0.5)))
    point = publish_point(context.store.directory, older)
    flip_byte(context.store.archive_path(taken["notes"]))
    assert drilled(context)["notes"].outcome == "failed"
    reports = drilled(context)
    assert {report.outcome for report in reports.values()} == {"degraded"}
    assert {facts(report).point for report in reports.values()} == {point}
    skipped = f"{taken['point']} ({taken['notes']} is damaged)"
    assert f"local has newer restore points than {point} that cannot be used: {skipped}" in reports["tasks"].warnings


@pytest.mark.usefixtures("attach")
def test_point_that_is_too_old_gives_way_to_newest_copies_with_warning(
    back_up: Callable[..., dict[str, str]], order: BackupRequest, notes: BackupRequest, context: TaskContext
) -> None:
    taken = back_up()
    moment = manifest_of(context, taken["tasks"]).taken_at
    after = replace(context, clock=lambda: moment + timedelta(days=2))
    for request in (order, notes):
        with closing(sqlite3.connect(request.path)) as connection, connection:
            connection.execute("CREATE TABLE more(x)")
    newest = {request.source: str(backup(request, after).generation) for request in (order, notes)}
    newest["uploads"] = files_generation(after, TREE, after.clock())
    reports = drilled(after, requests())
    assert {source: report.generation for source, report in reports.items()} == newest
    told = f"the newest restore point at local ({taken['point']}) is 48 h old, more than 24 h"
    assert {report.warnings for report in reports.values()} == {
        (f"{told}: the newest copy of each source was restored instead",)
    }
    assert "files.uploads.query was not run: tasks was not restored" in reports["uploads"].notes[0]


def test_without_point_newest_copy_of_each_source_is_drilled(
    order: BackupRequest, notes: BackupRequest, context: TaskContext
) -> None:
    for request in (order, notes):
        backup(request, context)
    reports = drilled(context, requests()[:2])
    assert {(report.outcome, facts(report).point) for report in reports.values()} == {("done", None)}


def test_store_that_cannot_be_opened_fails_each_source_and_is_tried_once(context: TaskContext) -> None:
    tries = []

    def opened() -> nullcontext[tuple[object, object]]:
        tries.append(1)
        raise ReplicaUnreachable("gone", "try again")

    reports = drill(requests(), opened, once, context)
    assert [(report.subject, report.error, report.exit_code) for report in reports] == [
        (source, "gone", 75) for source in ("tasks", "notes", "uploads")
    ]
    assert len(tries) == 1


@pytest.mark.usefixtures("attach")
def test_missing_copy_of_database_leaves_files_to_be_drilled(
    back_up: Callable[..., dict[str, str]], context: TaskContext
) -> None:
    taken = back_up()
    context.store.remove(taken["tasks"])
    reports = drilled(context)
    assert [reports[source].outcome for source in ("tasks", "notes", "uploads")] == ["failed", "degraded", "degraded"]
    assert f"{taken['point']} ({taken['tasks']} is not there)" in reports["notes"].warnings[0]
    assert "was not run" in reports["uploads"].notes[0]


def test_contents_are_read_once_for_all_sets(context: TaskContext, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in ("uploads", "avatars"):
        files_generation(context, TREE, context.clock(), source=source)
    read: list[str] = []
    opened = LocalContents.open

    def counting(contents: LocalContents, digest: str) -> BinaryIO:
        read.append(digest)
        return opened(contents, digest)

    monkeypatch.setattr(LocalContents, "open", counting)
    avatars = FilesRequest("avatars", UPLOADS.with_name("avatars"))
    both = [
        requests(query=None)[2],
        DrillRequest("avatars", "local", DAY_S, reserve_bytes=0, path=avatars.path, files=avatars),
    ]
    reports = drilled(context, both)
    assert {(report.outcome, facts(report).files) for report in reports.values()} == {("done", 4)}
    assert sorted(read) == sorted({hashlib.sha256(data).hexdigest() for data in TREE.values()})


def test_list_of_files_that_is_damaged_fails_drill(context: TaskContext) -> None:
    generation = files_generation(context, TREE, context.clock())
    flip_byte(context.store.directory / f"{generation}.files.gz")
    report = drilled(context, [requests(query=None)[2]])["uploads"]
    assert (report.outcome, report.error_kind) == ("failed", "corrupt")
    assert context.marks.ids() == {generation}
