"""`backupd restore`."""

import os
from datetime import datetime
from pathlib import Path

import click

from backupd.bootstrap.tasks import backup_request, sources, workers
from backupd.cli.common import (
    claims_at,
    config_option,
    default_source,
    json_option,
    opened,
    read_config,
    read_time,
    readable_errors,
    require_sources,
    tell_whose,
)
from backupd.cli.output import shown_progress
from backupd.cli.places import only_source, replacement, restore_site, with_directories
from backupd.cli.restore_missing import Wanted, missing_request, print_outcomes, restore_missing
from backupd.cli.restored import print_done, print_outcome, print_undo
from backupd.config import Config
from backupd.errors import STOP_THE_APP, GenerationMissing, TargetRefused, UsageError
from backupd.model import LOCAL_STORE, Manifest
from backupd.privileges import drop_privileges
from backupd.report import RestoreDetails, RunReport
from backupd.sqlite.target_locks import STOPPED_FLAG
from backupd.stores.contract import Archives
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.inventory import LATEST, Choose, choose_generation, require_same_database
from backupd.tasks.provenance import choose_usable
from backupd.tasks.restore.in_place import InPlaceResult, RestoreRequest, replace_database
from backupd.tasks.restore.online import overwrite_database
from backupd.tasks.restore.to_path import restore_to
from backupd.tasks.restore.undo import app_runs, plan_undo, put_kept_back


@click.command("restore", epilog="Example: backupd restore latest --from offsite")
@click.argument("wanted", metavar="[ID|latest]", default="latest")
@click.option("--at", metavar="TIME", help='The newest at or before this time, "2026-11-20 14:00" or "2026-11-20".')
@click.option("--source", "source", metavar="NAME", help="Of this source; needed where there are several.")
@click.option("--from", "store", metavar="STORE", help="From this store (local).")
@click.option("--to", "target", metavar="PATH", help="Make this new file, and leave the database alone.")
@click.option("--online", is_flag=True, help="Into the live database, for an app that cannot stop.")
@click.option("--adopt", is_flag=True, help="With --from: go on for the lost machine that sent the copies there.")
@click.option("--undo", is_flag=True, help="Take the last restore back; again, the one before it.")
@click.option("--redo", is_flag=True, help="Take the last undo back.")
@click.option("--if-missing", is_flag=True, help="Only where there is no database: before each start of the app.")
@click.option("--allow-none", is_flag=True, help="With --if-missing: no copy is no error (the very first start).")
@click.option(STOPPED_FLAG, "stopped", is_flag=True, help="Your word that the app is stopped, where nobody can tell.")
@click.option("--dry-run", is_flag=True, help="Tell what would happen; change nothing.")
@config_option
@json_option
@readable_errors
def command(
    wanted: str,
    at: str | None,
    source: str | None,
    store: str | None,
    target: str | None,
    config_file: Path | None,
    *,
    adopt: bool,
    online: bool,
    undo: bool,
    redo: bool,
    if_missing: bool,
    allow_none: bool,
    stopped: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put a generation in place of its app's database: proven first, swapped last, the old one kept.

    Stop the app first: while anybody has the database open, nothing is done. Exits 75 then, 1 when it failed.
    """
    back = undo or redo
    _refuse_contradictions(wanted, at, target, online=online, back=back, if_missing=if_missing, allow_none=allow_none)
    if undo and redo:
        raise UsageError("--undo and --redo do not go together", "give one of the two")
    if adopt and (store in (None, LOCAL_STORE) or if_missing or back):
        raise UsageError("--adopt goes with --from a replica", "leave it out")
    config = read_config(config_file)
    with shown_progress(quiet=as_json) as progress:
        if if_missing:
            drop_privileges(config, os.environ)  # first: a private directory hides whether there is a database in it
            names = (only_source(source, config),) if wanted != LATEST else sources(config, (source,) if source else ())
            requests = tuple(missing_request(name, config, stopped=stopped, dry_run=dry_run) for name in names)
            asked = Wanted(wanted, read_time(at, config), store)
            outcomes = restore_missing(requests, asked, config, progress, allow_none=allow_none)
            print_outcomes(outcomes, config, as_json=as_json)
        if back:
            request = replacement(only_source(source, config), config, stopped=stopped, dry_run=dry_run)
            context = restore_site(config, progress, reading=dry_run)
            request = plan_undo(request, context, redo=redo)
            report, done = _taken_back(request, store or LOCAL_STORE, config, context, online=online, quiet=as_json)
        else:
            store, time = store or LOCAL_STORE, read_time(at, config)
            context = restore_site(config, progress, reading=dry_run or target is not None)
            with opened(store, config, context) as (place, inventory):
                require_sources((source,) if source else (), config, inventory)
                meant = default_source(source, config)
                if store == LOCAL_STORE:
                    manifest = choose_generation(inventory, wanted, meant, time)
                else:
                    claims = claims_at(store, inventory, meant, context, adopting=adopt, dry_run=dry_run)
                    manifest = choose_usable(inventory, claims, wanted, meant, time, store)
                    tell_whose(manifest, inventory, claims, store)
                if wanted == LATEST and manifest.source in config.sources:
                    require_same_database(manifest, inventory, config.sources[manifest.source].path)
                if target is not None:
                    new = restore_to(manifest, Path(target), workers(config), context, store=place, dry_run=dry_run)
                    print_done(new, config, as_json=as_json)
                    return
                request = replacement(manifest.source, config, stopped=stopped, dry_run=dry_run)
                (request,) = with_directories([(request, manifest)], config)
                known = store != LOCAL_STORE or dry_run
                choose = (lambda: manifest) if known else _choosing(manifest, wanted, time, context)
                report, done = _in_place(choose, request, place, config, context, online=online)
    print_outcome(report, done, config, as_json=as_json)


def _refuse_contradictions(
    wanted: str, at: str | None, target: str | None, *, online: bool, back: bool, if_missing: bool, allow_none: bool
) -> None:
    if target is not None and target.endswith("/"):
        raise UsageError(f"{target} is the name of a directory", "give the name of a file in it")
    if at is not None and wanted != LATEST:
        raise UsageError("an ID and --at do not go together", "give one of the two")
    if sum((online and not back, back, if_missing, target is not None)) > 1:
        raise UsageError("--online, --undo, --redo, --if-missing and --to do not go together", "give one of them")
    if back and (at is not None or wanted != LATEST):
        raise UsageError("--undo takes the last restore back: no ID and no --at go with it", "leave them out")
    if allow_none and not if_missing:
        raise UsageError("--allow-none goes with --if-missing alone", "leave it out, or add --if-missing")


def _taken_back(
    request: RestoreRequest, store: str, config: Config, context: TaskContext, *, online: bool, quiet: bool
) -> tuple[RunReport[RestoreDetails], InPlaceResult | None]:
    """Take back what `order` says, once that was printed: by the file that was kept, else by the generation."""
    entry = request.takes_back
    assert entry is not None  # noqa: S101 - `plan_undo` has found it
    safety = entry.record.safety
    if online and safety is None:
        hint = f"without --online: {STOP_THE_APP}"
        raise TargetRefused(f"the restore at {entry.restored_at:%F %T} UTC kept the old database as a file", hint)
    online = safety is not None and (online or app_runs(request))
    if not quiet:
        print_undo(entry, config, online=online, dry_run=request.dry_run)
    if safety is None:
        return put_kept_back(request, entry, context)
    with opened(store, config, context) as (place, inventory):
        manifest = inventory.manifests.get(safety)
        if manifest is None:
            raise GenerationMissing(
                f"store {store} has no generation {safety}, the state before the restore that is to be taken back",
                "if another store has it (backupd list): --from STORE",
            )
        return _in_place(lambda: manifest, request, place, config, context, online=online)


def _choosing(known: Manifest, wanted: str, at: datetime | None, context: TaskContext) -> Choose:
    """Return what chooses again as `known` was chosen, of the same source."""
    return lambda: choose_generation(read_inventory(context), wanted, known.source, at)


def _in_place(
    choose: Choose, request: RestoreRequest, place: Archives, config: Config, context: TaskContext, *, online: bool
) -> tuple[RunReport[RestoreDetails], InPlaceResult | None]:
    if online:
        return overwrite_database(choose, request, place, backup_request(config, request.source), context)
    return replace_database(choose, request, place, context)
