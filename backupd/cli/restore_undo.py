"""`backupd restore --undo` and `--redo`: of the restore of one source, or of a whole point."""

from collections.abc import Sequence
from typing import NoReturn

from backupd.bootstrap.tasks import backup_request, files_restore_request, restore_requests
from backupd.cli import common, output
from backupd.cli.restore_plan import Options
from backupd.cli.restore_point import end_with_point
from backupd.config import Config
from backupd.errors import STOP_THE_APP, GenerationMissing, TargetRefused
from backupd.sqlite.history import RecordedRestore
from backupd.stores.contract import Archives
from backupd.tasks.choice import Choose, require_database
from backupd.tasks.context import TaskContext
from backupd.tasks.restore import Restored, RestoreRequest
from backupd.tasks.restore.in_place import is_in_use, restore_in_place, undo_in_place
from backupd.tasks.restore.online import restore_online
from backupd.tasks.restore.point import AnyRestoreRequest
from backupd.tasks.restore.point_undo import plan_files_undo, plan_point_undo, undo_point


def restore(
    choose: Choose, request: RestoreRequest, store: Archives, config: Config, context: TaskContext, *, online: bool
) -> Restored:
    """Restore the generation that `choose` returns over its database, or into it while its app runs."""
    if online:
        return restore_online(choose, request, store, backup_request(config, request.source), context)
    return restore_in_place(choose, request, store, context)


def undo_one(
    request: RestoreRequest, store: str, config: Config, context: TaskContext, *, online: bool, quiet: bool
) -> Restored:
    """Take the planned restore back, and print first which one: with the file that was kept, or the generation."""
    entry = request.takes_back
    assert entry is not None  # noqa: S101 - `plan_undo` has found it
    safety = entry.record.safety
    if online and safety is None:
        hint = f"without --online: {STOP_THE_APP}"
        at = output.minute_text(entry.restored_at, config.schedule.timezone)
        raise TargetRefused(f"the restore at {at} kept the old database as a file", hint)
    online = safety is not None and (online or is_in_use(request))
    _warn_of_others(request, entry)
    if not quiet:
        _print_undo(entry, config, online=online, dry_run=request.dry_run)
    if safety is None:
        return undo_in_place(request, entry, context)
    with common.opened(store, config, context) as (archives, inventory):
        manifest = inventory.manifests.get(safety)
        if manifest is None:
            raise GenerationMissing(
                f"store {store} has no generation {safety}, the state before the restore that is taken back",
                "if another store has it (backupd list --store NAME): --from NAME",
            )
        safe = require_database(manifest)
        return restore(lambda: safe, request, archives, config, context, online=online)


def _print_undo(entry: RecordedRestore, config: Config, *, online: bool, dry_run: bool) -> None:
    record = entry.record
    way = "online" if record.before == "generation" else "in place"
    of = f" of {record.generation}" if record.generation else ""
    what = f"restore {way}{of}" if record.kind == "restore" else f"{record.kind} {way} of the restore{of}"
    how = "online" if online else "in place"
    puts = f"restoring {record.safety} {how}" if record.safety else f"putting {entry.path} back"
    verb, at = "would take" if dry_run else "taking", output.time_text(entry.restored_at, config.schedule.timezone)
    output.echo(f"{verb} back the {what} at {at}: {puts}")


def undo_whole(how: Options, config: Config, context: TaskContext, files: str | None, *, redo: bool) -> None:
    """Take back the last restore of a point, print the result, and exit; return where the last one was of no point.

    Of one set of `files` alone, where it is named. Raises TargetRefused where only some parts can be taken back.
    """
    if files is not None:
        request = files_restore_request(config, files, stopped=how.stopped, dry_run=how.dry_run)
        _undo_planned((plan_files_undo(request, context, redo=redo),), how, config, context)
    names = (*config.sources, *config.files)
    requests = restore_requests(config, names, stopped=how.stopped, dry_run=how.dry_run)
    if planned := plan_point_undo(requests, context, redo=redo):
        _undo_planned(planned, how, config, context)


def _undo_planned(planned: Sequence[AnyRestoreRequest], how: Options, config: Config, context: TaskContext) -> NoReturn:
    together = planned[0].together
    assert together is not None  # noqa: S101 - it was planned
    if not how.as_json:
        verb = "would take" if how.dry_run else "taking"
        kind = planned[0].takes_back.record.kind if planned[0].takes_back else "restore"
        output.echo(f"{verb} back the {kind} of {together.point}: {', '.join(together.sources)}")
    end_with_point(undo_point(planned, context), config, how)


def _warn_of_others(request: RestoreRequest, entry: RecordedRestore) -> None:
    """Warn where the undo of one source leaves others as the restore of a point has made them."""
    together = entry.record.together
    if together is not None:
        others = ", ".join(source for source in together.sources if source != request.source)
        if others:
            output.print_warning(
                f"{request.source} alone is taken back: {others} stay as restored with it ({together.point}); "
                "without --source, all of them are taken back"
            )
