"""One verified backup of one set of files alone; with its databases it is part of a restore point, see `tasks.point`.

lock, recover → hook → hold → rescan → store contents → pack the list → decide → publish → hook → prune → report
"""

from backupd.report import BackupDetails, RunReport
from backupd.tasks.backup import prune_old, warn_of_failed_replications
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.files.capture import holding_set
from backupd.tasks.files.publication import apply_files, decide_files, files_state
from backupd.tasks.hooks import hooks
from backupd.tasks.prune import pin_if_possible
from backupd.tasks.requests import FilesRequest
from backupd.tasks.restore.recovery import recover_files_before_backup


def back_up_files(request: FilesRequest, context: TaskContext) -> RunReport[BackupDetails]:
    """Back up one set of files now. What fails is in the report, with what to do about it."""
    with context.run("backup", request.source, BackupDetails()) as run, context.exclusive_lock("backup"):
        context.recover()
        run.start()
        if request.timezone_warning:
            run.note(request.timezone_warning)
        if problem := recover_files_before_backup(request.path, context):  # a backup goes on where that fails
            run.warn(problem)
        state = files_state(request.source, local_inventory(context), context)
        with (
            hooks(request.hooks, [run]),
            context.store.staging() as staging,
            holding_set(request, staging, context) as held,
        ):
            held.hold(run)
            held.rescan(run)
            capture = held.capture(state.previous, run)
            decision = decide_files(request, capture, state, context.clock())
            apply_files(decision, request, capture, state, run, context)
        if request.query:
            run.note(f"files.{request.source}.query is checked when its database is backed up in the same run")
        if request.pin is not None and run.report.generation is not None:
            pin_if_possible(run.report.generation, request.pin, run, context)
        prune_old(request, run, context)
        warn_of_failed_replications(request, run, context)
    return run.report
