"""Run restore drills: fetch, unpack, verify and compare the copies in a store, and check the app on them.

Those of several sources are of one restore point where there is one. They change no store, except for marking damaged
copies.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

from backupd.errors import ConfigError, CopyCorrupt
from backupd.model import AnyManifest, Manifest
from backupd.report import DrillDetails, DrillReport, RunReport
from backupd.system.held_file import HeldFile
from backupd.tasks.choice import Accept, never
from backupd.tasks.context import TaskContext, work_directory
from backupd.tasks.drill.app_check import WHICH_SOURCE, app_database, check_app
from backupd.tasks.drill.database import restore_database
from backupd.tasks.drill.files import check_files
from backupd.tasks.drill.session import DrillSession, OpenStore
from backupd.tasks.replica import Retry
from backupd.tasks.requests import DrillRequest
from backupd.tasks.run import DrillRun, Stopwatch
from backupd.tasks.verify import record_verification

_RESTORED = "restored.sqlite3"
_LISTED = "restored.files"


def drill(
    requests: Sequence[DrillRequest], open_store: OpenStore, retry: Retry, context: TaskContext, accept: Accept = never
) -> tuple[RunReport[DrillDetails], ...]:
    """Run a drill of each source now, all from one store; errors are in the reports, with the seconds of each stage.

    Several are restored from the newest restore point that holds them, those that it lacks and a single one from the
    newest copy. `retry` opens the store, and `open_store` returns one that resumes after a lost connection. Newer
    copies that are damaged degrade a drill; where one cannot be read now, or was replaced, it fails unless an older
    one is `accept`ed. Databases have to come before the sets of files that belong to them.
    """
    with DrillSession(requests, open_store, retry, accept, context) as session:
        return tuple(_drill(request, session, context) for request in requests)


def _drill(request: DrillRequest, session: DrillSession, context: TaskContext) -> RunReport[DrillDetails]:
    details = DrillDetails(drill=DrillReport(request.store, request.max_age_s))
    with context.run("drill", request.source, details) as run:
        session.lock()
        run.start()
        if request.unclear:
            raise ConfigError(request.unclear, WHICH_SOURCE)
        if request.note:
            run.note(request.note)
        session.sweep()
        if request.app and (placed := app_database(request.app, run)):
            placed.prepare()
        with work_directory(context) as directory:
            began = time.monotonic()
            restored = HeldFile.create(directory, _LISTED if request.files else _RESTORED)
            manifest = _restore(request, session, restored, run, context)
            took_s = round(time.monotonic() - began, 3)
            problem = record_verification(
                manifest.id, context, sound=True, detail="sound", duration_s=took_s, store=request.store
            )
            if problem:
                run.warn(problem)
            if request.app and isinstance(manifest, Manifest):
                check_app(request.app, restored, manifest.origin, run)
            recovery_s = round(time.monotonic() - began, 3)
            run.details = replace(run.details, drill=replace(run.details.drill, recovery_s=recovery_s))
    return run.report


def _restore(
    request: DrillRequest, session: DrillSession, target: HeldFile, run: DrillRun, context: TaskContext
) -> AnyManifest:
    """Restore what is to be checked as `target`, timed by stage, and return its manifest; damage is marked."""
    timed = Stopwatch(context.progress, run.add_stage)
    watched = replace(context, progress=timed)
    try:
        timed.stage("connect", 0)
        restore = check_files if request.files else restore_database
        return restore(request, session, target, run, watched)
    except CopyCorrupt as error:
        if run.report.generation:
            record_verification(run.report.generation, context, sound=False, detail=error.message, store=request.store)
        raise
    finally:
        timed.end()
