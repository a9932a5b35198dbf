"""`backupd restore`."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, time
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from backupd.bootstrap.tasks import backup_request, one_source, restore_request, sources, workers
from backupd.cli import common, complete, output
from backupd.cli.restore_missing import Wanted, missing_request, print_outcomes, restore_missing
from backupd.cli.restore_plan import RestorePlan, accept_shown, confirm, is_to_be_confirmed, print_plan
from backupd.config import REPLICAS, Config, KeyPath
from backupd.errors import STOP_THE_APP, GenerationMissing, TargetRefused, UsageError
from backupd.model import LOCAL_STORE, Manifest
from backupd.privileges import drop_privileges, give_directories
from backupd.sqlite.history import RecordedRestore
from backupd.sqlite.target import STOPPED_FLAG
from backupd.stores.contract import Archives
from backupd.tasks.choice import LATEST, Accept, Choose, choose_database, require_database, require_newest
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.inventory import Inventory, require_same_database
from backupd.tasks.provenance import adopt, choose_usable, provenance_of
from backupd.tasks.restore import Restored, RestoreRequest
from backupd.tasks.restore.in_place import is_in_use, plan_undo, restore_in_place, undo_in_place
from backupd.tasks.restore.online import restore_online
from backupd.tasks.restore.to_path import restore_to_path
from backupd.tasks.run import DEGRADED_EXIT

_SECONDS = re.compile(r"[T ]\d\d:?\d\d:?\d\d")


def _secrets(_config: Config, arguments: Mapping[str, Any]) -> Iterable[KeyPath]:
    """Return those of the replica that is read; with --if-missing any may be."""
    store = arguments["store"]
    return ((REPLICAS,) if store is None and arguments["if_missing"] else (REPLICAS, store or LOCAL_STORE),)


@common.command(
    "restore",
    "backupd restore latest --from offsite",
    {
        0: "restored; or with --if-missing nothing to restore",
        3: "restored, with warnings",
        75: "the database is in use, or another run holds the lock: stop the app, or try again later",
    },
    secrets=_secrets,
    pings=True,
)
@click.argument("wanted", metavar="[ID|latest]", default=LATEST, shell_complete=complete.generations_or_latest)
@click.option(
    "--at",
    metavar="TIME",
    shell_complete=complete.times,
    help='The newest at or before this time, "2026-11-20 14:00" or "2026-11-20".',
)
@click.option(
    "--source",
    metavar="NAME",
    shell_complete=complete.sources,
    help="Of this source; needed where there are several.",
)
@click.option(
    *("--from", "store"), metavar="STORE", shell_complete=complete.stores, help="From this store (default: local)."
)
@click.option("--to", "target", metavar="PATH", help="Restore to this new file; the database stays as it is.")
@click.option("--online", is_flag=True, help="Into the live database, for an app that cannot stop.")
@click.option("--adopt", is_flag=True, help="With --from: adopt the copies that a lost machine sent there.")
@click.option("--undo", is_flag=True, help="Take the last restore back; repeat it for the one before.")
@click.option("--redo", is_flag=True, help="Take the last undo back.")
@click.option("--if-missing", is_flag=True, help="Only where no database exists: before each start of the app.")
@click.option("--allow-none", is_flag=True, help="With --if-missing: succeed without a copy (very first start).")
@common.accept_older_option
@click.option(STOPPED_FLAG, "stopped", is_flag=True, help="Confirm that the app is stopped where backupd cannot tell.")
@click.option("--yes", is_flag=True, help="Do not ask, also on a terminal.")
@common.dry_run_option
def restore_command(
    config: Config,
    wanted: str,
    at: str | None,
    source: str | None,
    store: str | None,
    target: str | None,
    *,
    adopt: bool,
    online: bool,
    undo: bool,
    redo: bool,
    if_missing: bool,
    allow_none: bool,
    accept_older: bool,
    stopped: bool,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Without --online and --to, the generation takes the place of the database, which is kept beside it for --undo.

    Stop the app first: a database that is in use is not replaced. The generation is verified before anything changes.
    On a terminal, without ID and options (except --source), the plan is shown and must be confirmed. If the newest
    cannot be used, nothing is restored unless --accept-older is given, or confirmed on a terminal.
    """
    back = undo or redo
    _refuse_contradictions(wanted, at, target, online=online, back=back, if_missing=if_missing, allow_none=allow_none)
    if undo and redo:
        raise common.refuse_together("--undo", "--redo")
    if adopt and (store in (None, LOCAL_STORE) or if_missing or back):
        raise UsageError("--adopt goes with --from a replica", "leave it out")
    chosen = Wanted(wanted, _parse_time(at, ZoneInfo(config.schedule.timezone)) if at else None, store)
    with output.shown_progress(quiet=as_json) as progress:
        if if_missing:
            drop_privileges(config, os.environ)  # first: a private directory hides whether there is a database in it
            one = source is not None or wanted != LATEST
            names = (one_source(source, config),) if one else sources(config, ())
            requests = tuple(missing_request(name, config, stopped=stopped, dry_run=dry_run) for name in names)
            outcomes = restore_missing(
                requests, chosen, config, progress, allow_none=allow_none, accept_older=accept_older
            )
            print_outcomes(outcomes, config, as_json=as_json)
        if back:
            request = restore_request(config, one_source(source, config), stopped=stopped, dry_run=dry_run)
            context = common.open_context_for_restore(config, progress, reading=dry_run)
            request = plan_undo(request, context, redo=redo)
            restored = _undo(request, store or LOCAL_STORE, config, context, online=online, quiet=as_json)
        else:
            context = common.open_context_for_restore(config, progress, reading=dry_run or target is not None)
            with common.opened(store or LOCAL_STORE, config, context) as (archives, inventory):
                asking = is_to_be_confirmed()
                accept = accept_shown if asking else common.accepting_older(sure=accept_older, quiet=as_json or yes)
                configured = [each.path for name, each in config.sources.items() if source in (None, name)]
                fit = partial(chosen.fitting, databases=[Path(target)] if target else configured)
                manifest, warning = _choose(
                    chosen, source, fit(inventory), config, context, accept, adopting=adopt, dry_run=dry_run
                )
                if target is not None:
                    _restore_to(target, manifest, warning, archives, config, context, dry_run=dry_run, as_json=as_json)
                    return
                request = restore_request(config, manifest.source, stopped=stopped, dry_run=dry_run)
                if asking or (dry_run and not as_json):
                    chosen = _tell(manifest, request, chosen, inventory, config, context, online=online, asking=asking)
                (request,) = give_directories([(request, manifest)], config)
                request = replace(request, warnings=(warning,) if warning else ())
                choose = _choose_again(manifest, chosen, warning, fit, context, dry_run=dry_run)
                restored = _restore(choose, request, archives, config, context, online=online)
    report, result = restored
    if result is not None:
        output.print_restored(result, config.schedule.timezone, as_json=as_json, planned=dry_run and not back)
    elif as_json:
        output.print_json(output.failure_facts(report))
    output.print_problems(report)
    sys.exit(report.exit_code)


def _refuse_contradictions(
    wanted: str, at: str | None, target: str | None, *, online: bool, back: bool, if_missing: bool, allow_none: bool
) -> None:
    if target is not None and target.endswith("/"):
        raise UsageError(f"{target} is the name of a directory", "give the path of a new file in it")
    if at is not None and wanted != LATEST:
        raise common.refuse_together("an ID", "--at")
    if sum((online and not back, back, if_missing, target is not None)) > 1:
        raise UsageError("--online, --undo, --redo, --if-missing and --to do not go together", "give one of them")
    if back and (at is not None or wanted != LATEST):
        raise UsageError("--undo takes the last restore back: no ID and no --at go with it", "leave them out")
    if allow_none and not if_missing:
        raise UsageError("--allow-none goes with --if-missing alone", "leave it out, or add --if-missing")


def _choose(
    chosen: Wanted,
    source: str | None,
    inventory: Inventory,
    config: Config,
    context: TaskContext,
    accept: Accept,
    *,
    adopting: bool,
    dry_run: bool,
) -> tuple[Manifest, str]:
    """Choose a generation of the store that is open, and return the warning that was `accept`ed with an older one.

    Raises GenerationMissing, ForeignCopies, OtherDatabase, NewestUnusable, CopyUnreadable.
    """
    common.require_sources((source,) if source else (), config, inventory)
    source = source or (next(iter(config.sources)) if len(config.sources) == 1 else None)
    if chosen.store in (None, LOCAL_STORE):
        if not inventory.generations:
            raise _nothing_here(context.store.directory, source, config)
        manifest = choose_database(inventory, chosen.id, source, chosen.at)
    else:
        name = str(chosen.store)
        if adopting:
            here = read_inventory(context)
            foreign = provenance_of(here, context).foreign(inventory, source)
            claims = adopt(foreign, here, inventory, name, context, dry_run=dry_run)
        else:
            claims = common.read_claims(context)
        manifest = choose_usable(inventory, claims, chosen.id, source, chosen.at, name)
        common.warn_of_foreign(manifest, inventory, claims, name)
        inventory = claims.usable(inventory)
    if chosen.id != LATEST:
        return manifest, ""
    if manifest.source in config.sources:
        require_same_database(manifest, inventory, config.sources[manifest.source].path)
    return manifest, require_newest(manifest, inventory, accept, chosen.at, ZoneInfo(config.schedule.timezone))


def _nothing_here(directory: Path, source: str | None, config: Config) -> GenerationMissing:
    """Return the error for an empty local store; a backup helps only where a database exists."""
    names = [source] if source is not None and source in config.sources else [*config.sources]
    lost = [name for name in names if not Path(config.sources[name].path).exists()]
    hints = [] if lost else ["run backupd backup first"]
    hints += [f"restore from a replica: --from {name}" for name in config.replicas]
    if lost and not config.replicas:
        hints.append(
            "mount the backups of the lost machine (backups_dir), or configure the replica that has copies under "
            "[replicas.NAME] and add --from NAME"
        )
    return GenerationMissing(f"there is no generation in {directory}", "; or ".join(hints))


def _tell(
    manifest: Manifest,
    request: RestoreRequest,
    chosen: Wanted,
    inventory: Inventory,
    config: Config,
    context: TaskContext,
    *,
    online: bool,
    asking: bool,
) -> Wanted:
    """Show the plan, and have it confirmed where `asking`; return which generation is wanted from then on.

    Raises NotConfirmed.
    """
    (request,) = give_directories([(replace(request, dry_run=True), manifest)], config)  # as root, it sees all
    local = chosen.store in (None, LOCAL_STORE)
    place = f"local, {context.store.directory}" if local else str(chosen.store)
    plan = RestorePlan(manifest, request, inventory, place, config.schedule.timezone, online=online)
    if not asking:
        print_plan(plan, context.clock())
        return chosen
    confirm(plan, context.clock())
    return replace(chosen, id=manifest.id)  # another may be the newest by now


def _restore_to(
    target: str,
    manifest: Manifest,
    warning: str,
    archives: Archives,
    config: Config,
    context: TaskContext,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    new = restore_to_path(manifest, Path(target), workers(config), context, store=archives, dry_run=dry_run)
    output.print_restored(new, config.schedule.timezone, as_json=as_json)
    if warning:
        output.print_warning(warning)
        sys.exit(DEGRADED_EXIT)


def _choose_again(
    manifest: Manifest,
    chosen: Wanted,
    accepted: str,
    fit: Callable[[Inventory], Inventory],
    context: TaskContext,
    *,
    dry_run: bool,
) -> Choose:
    """Return what chooses under the lock: again as `manifest` was chosen, but for a replica, which has no lock."""
    if dry_run or chosen.store not in (None, LOCAL_STORE):
        return lambda: manifest

    def choose() -> Manifest:
        inventory = fit(read_inventory(context))
        again = choose_database(inventory, chosen.id, manifest.source, chosen.at)
        if chosen.id == LATEST:
            require_newest(again, inventory, lambda warning: warning == accepted, chosen.at)
        return again

    return choose


def _restore(
    choose: Choose, request: RestoreRequest, store: Archives, config: Config, context: TaskContext, *, online: bool
) -> Restored:
    if online:
        return restore_online(choose, request, store, backup_request(config, request.source), context)
    return restore_in_place(choose, request, store, context)


def _undo(
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
        return _restore(lambda: safe, request, archives, config, context, online=online)


def _print_undo(entry: RecordedRestore, config: Config, *, online: bool, dry_run: bool) -> None:
    record = entry.record
    way = "online" if record.before == "generation" else "in place"
    of = f" of {record.generation}" if record.generation else ""
    what = f"restore {way}{of}" if record.kind == "restore" else f"{record.kind} {way} of the restore{of}"
    how = "online" if online else "in place"
    puts = f"restoring {record.safety} {how}" if record.safety else f"putting {entry.path} back"
    verb, at = "would take" if dry_run else "taking", output.time_text(entry.restored_at, config.schedule.timezone)
    output.echo(f"{verb} back the {what} at {at}: {puts}")


def _parse_time(text: str, zone: ZoneInfo) -> datetime:
    """Return the last instant of a time, in `zone`: a date means its whole day, a time without seconds its minute.

    A time without a zone is in `zone`. Raises UsageError.
    """
    try:
        at = _last_instant(text)
        if at.tzinfo:
            return at.astimezone(zone)
        local = at.replace(tzinfo=zone)
        last = max(local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))  # a clock set back shows it twice
        return last.astimezone(zone)
    except (ValueError, OverflowError):  # the years 1 and 9999 may lie outside the calendar in UTC
        hint = 'write it like "2026-11-20 14:00" (or with a zone, +01:00)'
        raise UsageError(f"{text!r} is not a time", hint) from None


def _last_instant(text: str) -> datetime:
    with suppress(ValueError):
        return datetime.combine(date.fromisoformat(text), time.max)
    at = datetime.fromisoformat(text)
    # A backup of 04:00 is taken some seconds later.
    return at if _SECONDS.search(text) else at.replace(second=59, microsecond=999_999)
