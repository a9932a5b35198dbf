"""A backup of one set of files alone; with its databases it is part of a restore point, see `tasks.backup`."""

from backupd.report import BackupDetails, RunReport
from backupd.tasks.backup import back_up_together
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import FilesRequest


def back_up_files(request: FilesRequest, context: TaskContext) -> RunReport[BackupDetails]:
    """Back up one set of files now. What fails is in the report, with what to do about it."""
    return back_up_together((request,), context).reports[0]
