"""Runs of the daemon in a process of their own: `python -m backupd.daemon.task_process TASK [SOURCE...]`.

The daemon stays small and alive whatever a run needs or does, and stops a run by a signal, which cleans up as a command
in a terminal does. The configuration comes through standard input, as the daemon read it when it had the rights; when
that closes, the daemon is gone, and the run ends too.
"""

import json
import os
import pickle
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from backupd.bootstrap.tasks import (
    build_context,
    deferred_log,
    priority,
    request_of_backup,
    retention_rule,
    subjects_of_backups,
)
from backupd.config import Config
from backupd.daemon.task_queue import DOCTOR, REBUILD, TaskRequest, fields_of, named
from backupd.errors import BackupdError, UnexpectedError
from backupd.log import Event, EventLog
from backupd.privileges import drop_privileges
from backupd.report import AnyReport, failed_backup, report_facts
from backupd.system.process import call_when_parent_ends
from backupd.system.resources import lower_priority
from backupd.system.signals import exit_on_signals, ignore_signals
from backupd.tasks.context import TaskContext, rebuild_catalog


def main(requests: Sequence[TaskRequest], config: Config, report_to: int | None = None) -> int:
    """Run `requests`, which are one, or backups or drills; return the exit code of the first that has not succeeded.

    Events go to `backup.log` and, as plain lines, to standard output; the reports go to the file `report_to`.
    """
    log = deferred_log(config, sys.stdout)
    try:
        call_when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
        drop_privileges(config, os.environ)  # a database that was missing when the daemon started may have an owner now
        return _run(requests, config, build_context(config, console=sys.stdout), report_to)
    except BackupdError as error:
        return _failed(requests, error, log, report_to)
    except Exception as error:  # noqa: BLE001 - a defect belongs into the log
        return _failed(requests, UnexpectedError.of(error, "report this with backup.log"), log, report_to)


def _failed(requests: Sequence[TaskRequest], error: BackupdError, log: EventLog, report_to: int | None) -> int:
    log.error(
        Event.RUN_FAILED, f"the {named(requests)} failed: {error.message}", hint=error.hint, **fields_of(requests)
    )
    now = datetime.now(UTC)
    _deliver([failed_backup(request.source, now, error) for request in requests], report_to)
    return error.exit_code


def _deliver(reports: Sequence[AnyReport], report_to: int | None) -> None:
    if report_to is not None:
        with open(report_to, "wb", closefd=False) as stream:
            stream.writelines(json.dumps(report_facts(report)).encode() + b"\n" for report in reports)


def _run(requests: Sequence[TaskRequest], config: Config, context: TaskContext, report_to: int | None) -> int:
    request = requests[0]
    if request.task == DOCTOR:
        _recover_restores(config, context)
        return _doctor(config, context)
    if request.task == REBUILD:
        rebuild_catalog(context)
        return 0
    if request.task == "backup":
        from backupd.tasks.backup import back_up_together

        wanted = [replace(request_of_backup(config, one.source), pin=one.pin) for one in requests]
        reports: Sequence[AnyReport] = back_up_together(wanted, context, subjects_of_backups(config)).reports
    elif request.task == "drill":
        reports = _drill([one.source for one in requests], config, context)
    else:
        reports = [_run_task(request, config, context)]
    _deliver(reports, report_to)
    return next((report.exit_code for report in reports if report.exit_code), 0)


def _drill(wanted: Sequence[str], config: Config, context: TaskContext) -> Sequence[AnyReport]:
    """Drill these sources, with the databases that they need; return their reports."""
    from backupd.bootstrap import replicas
    from backupd.bootstrap.tasks import drill_request, drilled_sources
    from backupd.tasks.drill import drill

    lower_priority(priority(config))
    requests = [drill_request(config, name) for name in drilled_sources(config, tuple(wanted))]
    store = requests[0].store
    opener, retry = replicas.store_opener(config, store, context), replicas.replica_retry(config, store, context)
    return [report for report in drill(requests, opener, retry, context) if report.subject in wanted]


def _run_task(request: TaskRequest, config: Config, context: TaskContext) -> AnyReport:
    task, source = request.task, request.source
    lower_priority(priority(config))  # a backup lowers its own priority, once it no longer holds the app's snapshot
    if task == "replicate":
        from backupd.bootstrap import replicas
        from backupd.tasks.replicate import replicate

        connect = replicas.replica_connector(config, source, context)
        retry = replicas.replica_retry(config, source, context)
        return replicate(replicas.replication_request(config, source), connect, retry, context)
    if task == "prune":
        from backupd.tasks.prune import prune

        return prune(source, retention_rule(config), context)[0]
    from backupd.tasks.scrub import scrub

    return scrub(source, context)


def _recover_restores(config: Config, context: TaskContext) -> None:
    """Finish or undo the restores that were killed before the daemon started; the doctor finds what that leaves."""
    from backupd.tasks.restore.recovery import recover_before_backup, recover_files_before_backup

    for source in config.sources.values():
        with suppress(BackupdError):  # such as a restore that is running
            recover_before_backup(source.path, context)
    for files in config.files.values():
        with suppress(BackupdError):
            recover_files_before_backup(files.path, context)


def _doctor(config: Config, context: TaskContext) -> int:
    """Log what `backupd doctor` finds; return 1 when something is wrong."""
    from backupd.bootstrap.replicas import diagnose

    wrong = False
    for finding in diagnose(config, context):
        wrong |= not finding.ok
        tell = context.log.info if finding.ok and not finding.warning else context.log.warning
        tell(Event.DOCTOR_FOUND, f"{finding.check}: {finding.detail}", ok=finding.ok, hint=finding.hint or None)
    return int(wrong)


if __name__ == "__main__":
    exit_on_signals()
    config, pin, report_to = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the daemon, by a pipe of its own
    task, *sources = sys.argv[1:]
    code = main([TaskRequest(task, source, pin=pin) for source in sources], config, report_to)
    ignore_signals()
    sys.exit(code)
