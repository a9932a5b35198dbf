"""docs/log-events.md explains every event, its level and its fields, and the last line of each run."""

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backupd.archive.manifest import decode_manifest
from backupd.catalog import open_catalog
from backupd.log import Event, open_log
from backupd.report import BackupDetails, DrillDetails, DrillReport, ReplicationDetails, RunReport, report_facts
from backupd.retention import RetentionPolicy
from backupd.stores.directory_replica import DirectoryReplica
from backupd.system.file_lock import file_lock
from backupd.tasks.backup import back_up_together, backup
from backupd.tasks.clean import clean
from backupd.tasks.context import TaskContext, local_inventory, rebuild_catalog
from backupd.tasks.prune import prune, release_hold, unpin_generation
from backupd.tasks.remove import remove_local
from backupd.tasks.replica import once
from backupd.tasks.replicate import replicate
from backupd.tasks.requests import BackupRequest, Hook, Hooks, PinRequest, ReplicationRequest, RetentionRule
from backupd.tasks.restore.to_path import restore_to_path
from backupd.tasks.verify import verify
from support.bank import make_bank, spend
from support.command import log_lines
from support.daemon import wait_until
from support.drills import drilled
from support.gate import deployment
from support.generations import backdated, flip_byte, rewritten
from support.held import held

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "log-events.md").read_text()


class Row(NamedTuple):
    """One line of the table."""

    event: str
    levels: set[str]
    fields: set[str]
    what_to_do: str


def rows() -> list[Row]:
    found = []
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            event, level, _when, fields, what_to_do = (cell.strip() for cell in line.strip("|").split("|"))
            levels = set(re.findall(r"\b(info|warning|error)\b", level))
            found.append(Row(event.strip("` "), levels, set(re.findall(r"`([^`]+)`", fields)), what_to_do))
    return found


DOCUMENTED = {row.event: row for row in rows()}
OF_A_REPORT = {
    f"backupd.{name}"
    for details in (BackupDetails(), ReplicationDetails(), DrillDetails(drill=DrillReport("nas", 60.0)))
    for name in report_facts(RunReport("backup", "tasks", datetime.fromtimestamp(0, UTC), details))
    if name != "error"
}
OF_THE_DAEMON = {
    Event.RUN_DUE,
    Event.RUN_REQUESTED,
    Event.RUN_STOPPED,
    Event.RUN_FAILED,
    Event.DAEMON_STARTED,
    Event.DAEMON_RUNS_AS_ROOT,
    Event.DAEMON_STANDBY,
    Event.DAEMON_STOPPED,
    Event.DOCTOR_FOUND,
    Event.SCHEDULER_STALLED,
    Event.TICK_FAILED,
    Event.HTTP_FAILED,
    Event.PING_FAILED,
    Event.MESSAGE_SENT,
    Event.MESSAGE_FAILED,
    Event.MESSAGE_DROPPED,
    Event.NOTIFICATION_FAILED,
}
OF_THE_GATE = {event for event in Event if event.startswith(("gate.", "push.", "deploy.", "step.", "commit_status."))}
ENVELOPE = {"@timestamp", "log.level", "message", "event.action", "service.name", "log.logger", "ecs.version"}


def test_page_explains_every_event_once() -> None:
    assert sorted(row.event for row in rows()) == sorted(Event)
    assert all(row.levels and row.what_to_do for row in rows())


def test_every_event_is_logged_somewhere() -> None:
    code = "".join(path.read_text() for path in (ROOT / "backupd").rglob("*.py") if path.name != "log.py")
    unused = [event for event in Event if f"Event.{event.name}" not in code and f'"{event.value}"' not in code]
    assert unused == []


def undocumented(line: dict[str, Any]) -> set[str]:
    """Return what the page does not tell of `line`."""
    row = DOCUMENTED[line["event.action"]]
    allowed = {name if "." in name else f"backupd.{name}" for name in row.fields if " " not in name}
    if row.event == Event.RUN_FINISHED:
        allowed |= OF_A_REPORT
    wrong = set(line) - ENVELOPE - allowed
    return wrong if line["log.level"].lower() in row.levels else wrong | {line["log.level"]}


def of(lines: Iterable[dict[str, Any]], event: Event) -> list[dict[str, Any]]:
    return [line for line in lines if line["event.action"] == event]


def leave_content(context: TaskContext) -> None:
    """Store a content of an old file that no list names, and note that it is to be swept."""
    data = b"of a file that is gone"
    with context.store.staging() as staging, context.store.contents.adding(staging) as writer, writer.part() as part:
        part.write(data)
        part.finish(hashlib.sha256(data).digest(), packed=False)
    (path,) = context.store.directory.glob("files/*/*")
    os.utime(path, (0, 0))
    context.sweeps.add("local")


def test_tasks_of_store_log_documented_events(order: BackupRequest, context: TaskContext, tmp_path: Path) -> None:
    hooks = Hooks(Hook(("echo", "flushed")), Hook(("false",)))
    make_bank(tmp_path / "other.db", rows=10)
    other = BackupRequest("other", tmp_path / "other.db", reserve_bytes=0)
    point = back_up_together([order, other], context, ("tasks", "other")).point
    assert point is not None
    spend(order.path)
    report = backup(replace(order, pin=PinRequest("made by hand", timedelta(days=30), "v1"), hooks=hooks), context)
    assert report.generation is not None
    assert unpin_generation(report.generation, "released by an operator", context)
    for days in range(1, 5):
        backdated(context.store.directory, report.generation, days=days)
    backup(order, context)
    damaged = backdated(context.store.directory, report.generation, days=5)
    flip_byte(context.store.archive_path(damaged))
    refused = backdated(context.store.directory, report.generation, days=6)
    flip_byte(context.store.directory / f"{refused}.manifest.json")
    inventory = local_inventory(context)
    for key in (report.generation, damaged):
        verify(key, inventory, 1, context)
    to_nas = ReplicationRequest("nas", RetentionRule(RetentionPolicy(daily=1)), ("tasks",))
    replicate(to_nas, lambda: nullcontext(DirectoryReplica("nas", tmp_path / "nas")), once, context)
    rewritten(tmp_path / "nas", report.generation, lambda manifest: replace(manifest, store="f" * 16))
    adopting = replace(to_nas, adopt=True, force=True)
    replicate(adopting, lambda: nullcontext(DirectoryReplica("nas", tmp_path / "nas")), once, context)
    next((tmp_path / "nas").glob("*.manifest.json")).unlink()
    replicate(to_nas, lambda: nullcontext(DirectoryReplica("nas", tmp_path / "nas")), once, context)
    restore_to_path(inventory.manifests[report.generation], tmp_path / "restored.db", 1, context)
    drilled(context)
    remove_local([point.id], context, force=False)
    leave_content(context)
    prune("tasks", RetentionRule(RetentionPolicy(daily=1)), context)
    rebuild_catalog(context)
    (tmp_path / "copy").write_bytes(b"damaged")
    context.quarantine.add("tasks", "tasks-20261101-040000", held(tmp_path / "copy"), ())
    clean({"tasks": order.path}, timedelta(), context)
    order.path.unlink()
    make_bank(order.path, rows=10)
    backup(order, context)
    release_hold("tasks", context)
    context.catalog_path.write_bytes(b"no database" * 1000)
    order.path.write_bytes(b"no database")
    backup(order, context)
    lines = log_lines(context.store.directory)
    assert {name for line in lines for name in undocumented(line)} == set()
    assert set(Event) - OF_THE_DAEMON - OF_THE_GATE - {line["event.action"] for line in lines} == {
        Event.RUN_INTERRUPTED,
        Event.LOCK_WAITING,
        Event.LOCK_TAKEN_OVER,
        Event.STAGING_SWEPT,
        Event.STAGING_STUCK,
        Event.PUBLISH_RECOVERED,
        Event.REMOVAL_RECOVERED,
        Event.RESTORE_RECOVERED,
        Event.REPLICA_RETRIED,
        Event.SNAPSHOT_WAITING,
        Event.SNAPSHOT_RETRIED,
        Event.SNAPSHOT_QUARANTINED,
    }


def test_killed_run_logs_documented_events(order: BackupRequest, context: TaskContext) -> None:
    first = backup(order, context)
    assert first.generation is not None
    hidden = context.store.hidden
    (hidden / "lock").write_text('{"task": "backup", "pid": 1, "host": "gone", "since": 0}')
    (hidden / "staging" / "run-killed").mkdir()
    going = backdated(context.store.directory, first.generation, days=1)
    manifest = f"{going}.manifest.json"
    (context.store.directory / manifest).rename(hidden / "removing" / manifest)
    coming = backdated(context.store.directory, first.generation, days=2)
    manifest = f"{coming}.manifest.json"
    (context.store.directory / manifest).rename(hidden / "staging" / "run-killed" / manifest)
    with open_catalog(context.catalog_path) as catalog:
        catalog.start_run("backup", "tasks", context.clock())
    backup(order, context)
    lines = log_lines(context.store.directory)
    assert {name for line in lines for name in undocumented(line)} == set()
    for event, generation in {Event.REMOVAL_RECOVERED: going, Event.PUBLISH_RECOVERED: coming}.items():
        assert [line["backupd.generation"] for line in of(lines, event)] == [generation]
    for event in (Event.LOCK_TAKEN_OVER, Event.STAGING_SWEPT, Event.RUN_INTERRUPTED):
        assert len(of(lines, event)) == 1


def test_corrupt_source_logs_documented_events(order: BackupRequest, context: TaskContext) -> None:
    data = bytearray(order.path.read_bytes())
    for offset in range(4096 * 5, 4096 * 6):
        data[offset] ^= 0x5A
    order.path.write_bytes(data)
    backup(order, context)
    lines = log_lines(context.store.directory)
    assert {name for line in lines for name in undocumented(line)} == set()
    for event in (Event.SNAPSHOT_RETRIED, Event.SNAPSHOT_QUARANTINED, Event.PRUNING_HELD):
        assert len(of(lines, event)) == 1


# --- One run, one last line ---


def last_line(context: TaskContext) -> dict[str, Any]:
    """Return the only `run.finished` there is, which is the last line."""
    lines = log_lines(context.store.directory)
    assert [line["event.action"] for line in lines].count("run.finished") == 1
    assert lines[-1]["event.action"] == "run.finished"
    return lines[-1]


def test_published_backup_ends_with_one_readable_line(order: BackupRequest, context: TaskContext) -> None:
    report = backup(order, context)
    line = last_line(context)
    assert re.fullmatch(
        rf"backup of tasks: published {report.generation}, [\d.]+ KiB as [\d.]+ KiB, verified full, "
        r"[\d.]+ s, 1 kept, 0 removed",
        line["message"],
    )
    assert line["log.level"] == "INFO"
    assert line["event.outcome"] == "success"
    assert line["event.duration"] == pytest.approx(report.duration_s * 1e9)
    assert line["backupd.snapshot_sha256"] == report.details.snapshot_sha256


def test_last_line_of_unchanged_backup_names_generation(order: BackupRequest, context: TaskContext) -> None:
    first = backup(order, context)
    (context.store.directory / "backup.log").unlink()
    backup(order, context)
    assert last_line(context)["message"].startswith(f"backup of tasks: unchanged {first.generation}, ")


def test_last_line_of_degraded_backup_has_warnings(order: BackupRequest, context: TaskContext) -> None:
    backup(order, replace(context, warnings=("the log is on a slow disk",)))
    line = last_line(context)
    assert line["message"].startswith("backup of tasks: degraded tasks-")
    assert line["message"].endswith("removed; the log is on a slow disk")
    assert (line["log.level"], line["event.outcome"], line["backupd.exit_code"]) == ("WARNING", "success", 3)


def test_last_line_of_failed_backup_has_reason_and_hint(order: BackupRequest, context: TaskContext) -> None:
    order.path.unlink()
    backup(order, context)
    line = last_line(context)
    assert line["message"] == f"backup of tasks: failed: no database at {order.path}"
    assert (line["log.level"], line["event.outcome"]) == ("ERROR", "failure")
    assert line["error.message"] == f"no database at {order.path}"
    assert "check the path" in line["backupd.hint"]


def test_last_line_of_backup_with_busy_store_names_holder(order: BackupRequest, context: TaskContext) -> None:
    hurried = replace(context, lock_timeout_s=0.2)
    with file_lock(context.store.hidden / "lock", "prune"):
        report = backup(order, hurried)
    assert report.exit_code == 75
    (waiting,) = of(log_lines(context.store.directory), Event.LOCK_WAITING)
    assert undocumented(waiting) == set()
    assert re.search(r"failed: .* is in use by a prune started [\d.]+ s ago", last_line(context)["message"])


def test_last_line_of_prune_counts_kept_and_removed(order: BackupRequest, context: TaskContext) -> None:
    report = backup(order, context)
    assert report.generation is not None
    gone = backdated(context.store.directory, report.generation, days=40)
    (context.store.directory / "backup.log").unlink()
    pruned, _ = prune("tasks", RetentionRule(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0)), context)
    assert pruned.outcome == last_line(context)["backupd.outcome"] == "done"
    runs = context.ask_catalog(lambda catalog: catalog.runs(limit=2), [])
    assert [(run.task, run.outcome) for run in runs] == [("prune", "done"), ("backup", "published")]
    assert re.fullmatch(r"prune of tasks: done, [\d.]+ s, 1 kept, 1 removed", last_line(context)["message"])
    assert last_line(context)["backupd.removed"] == [gone]


def test_interrupted_run_still_logs_last_line(order: BackupRequest, context: TaskContext) -> None:
    class Impatient:
        """An operator whose Ctrl-C comes in the middle of the copy."""

        def stage(self, _name: str, _total_bytes: int) -> None:
            raise KeyboardInterrupt

        def advance(self, _done_bytes: int) -> None:
            raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        backup(order, replace(context, progress=Impatient()))
    assert last_line(context)["message"] == "backup of tasks: failed: interrupted (Ctrl-C)"


def test_backup_with_unwritable_log_is_published(order: BackupRequest, context: TaskContext) -> None:
    log = open_log(context.store.directory / "backup.log")
    full = os.open("/dev/full", os.O_WRONLY)
    (handler,) = log._logger.handlers
    os.dup2(full, handler.stream.fileno())  # type: ignore[attr-defined] - it is our handler of files
    os.close(full)
    report = backup(order, replace(context, log=log))
    log.close()
    assert report.outcome == "published"
    assert report.generation is not None
    assert decode_manifest(context.store.manifest(report.generation), report.generation).verdict.level == "full"


def test_backup_with_log_replaced_by_directory_is_published(order: BackupRequest, context: TaskContext) -> None:
    path = context.store.directory / "backup.log"
    path.unlink()
    path.mkdir()
    assert backup(order, context).outcome == "published"


def test_gate_logs_documented_events(tmp_path: Path) -> None:
    with (
        deployment(tmp_path) as deploying,
        deploying.running(HEALTH_URL="", FORGEJO_TOKEN="a wrong token") as gate,
    ):
        deploying.push(gate, deploying.commit(), event="create")
        deploying.push(gate, "0" * 39 + "1", headers={"X-Gitea-Signature": "0" * 64})
        deploying.push(gate, deploying.commit("other"))
        deploying.wait_for("stopped")
        wait_until(lambda: "commit_status.failed" in (tmp_path / "state" / "backup.log").read_text(), "the status")
    lines = log_lines(tmp_path / "state")
    assert [(line["event.action"], undocumented(line)) for line in lines if undocumented(line)] == []
    seen = {line["event.action"] for line in lines}
    assert OF_THE_GATE - seen == {Event.DEPLOY_RESUMED, Event.DEPLOY_RECORD_FAILED}
