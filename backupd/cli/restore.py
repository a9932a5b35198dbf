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
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import click

from backupd.bootstrap.tasks import one_source, restore_request, sources, workers
from backupd.cli import common, complete, output
from backupd.cli.restore_missing import Wanted, knowing_copies, missing_request, print_outcomes, restore_missing
from backupd.cli.restore_plan import Options, RestorePlan, accept_shown, confirm, is_to_be_confirmed, print_plan
from backupd.cli.restore_point import WantedPoint, restore_missing_point, restore_wanted_point
from backupd.cli.restore_undo import restore, undo_one, undo_whole
from backupd.config import REPLICAS, Config, KeyPath
from backupd.errors import GenerationMissing, UsageError
from backupd.model import LOCAL_STORE, Manifest, Progress
from backupd.privileges import drop_privileges, give_directories
from backupd.sqlite.target import STOPPED_FLAG
from backupd.stores.contract import Archives
from backupd.tasks.choice import LATEST, Accept, Choose, choose_database, require_newest
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.inventory import Inventory, require_same_database
from backupd.tasks.provenance import adopt, choose_usable, provenance_of
from backupd.tasks.restore import Restored, RestoreRequest
from backupd.tasks.restore.in_place import plan_undo
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
@click.option(
    "--point",
    metavar="ID|latest",
    shell_complete=complete.points_or_latest,
    help="All that one run has backed up, together: all or nothing (backupd list --points).",
)
@click.option(
    "--only",
    multiple=True,
    metavar="SOURCE",
    shell_complete=complete.sources,
    help="With --point: only this part of it (repeatable).",
)
@click.option("--exact", is_flag=True, help="With --point: files that are not in the copy go too; they are kept.")
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
    point: str | None,
    only: tuple[str, ...],
    *,
    adopt: bool,
    exact: bool,
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
    if point is not None or only or exact:
        _refuse_beside_point(point, wanted, at, source, target, online=online, back=back)
    if undo and redo:
        raise common.refuse_together("--undo", "--redo")
    if adopt and (store in (None, LOCAL_STORE) or if_missing or back):
        raise UsageError("--adopt goes with --from a replica", "add --from NAME, or leave --adopt out")
    before = _parse_time(at, ZoneInfo(config.schedule.timezone)) if at else None
    chosen = Wanted(wanted, before, store)
    how = Options(adopt, online, accept_older, allow_none, stopped, yes, dry_run, as_json, exact)
    with output.shown_progress(quiet=as_json) as progress:
        names = {*only, *filter(None, [source])}
        config = config if back else knowing_copies(store, names, config, progress, if_missing=if_missing)
        if point is not None and not (if_missing and _is_of_single_source(point, only, config)):
            whole = WantedPoint(point, before, tuple(dict.fromkeys(only)), store)
            (restore_missing_point if if_missing else restore_wanted_point)(whole, how, config, progress)
        elif if_missing:
            _restore_missing(chosen, source, how, config, progress)
        elif back:
            context = common.open_context_for_restore(config, progress, reading=dry_run)
            if source in config.files or (source is None and len(config.sources) + len(config.files) > 1):
                undo_whole(how, config, context, source, redo=redo)
            request = restore_request(config, one_source(source, config), stopped=stopped, dry_run=dry_run)
            request = plan_undo(request, context, redo=redo)
            restored = undo_one(request, store or LOCAL_STORE, config, context, online=online, quiet=as_json)
        else:
            restored = _restore_one(chosen, source, target, how, config, progress)
    report, result = restored
    if result is not None:
        output.print_restored(result, config.schedule.timezone, as_json=as_json, planned=dry_run and not back)
    elif as_json:
        output.print_json(output.failure_facts(report))
    output.print_problems(report)
    sys.exit(report.exit_code)


def _is_of_single_source(point: str, only: tuple[str, ...], config: Config) -> bool:
    """Return whether the newest `point` is the newest generation of the only source, which has no restore points."""
    return point == LATEST and not only and len(config.sources) + len(config.files) == 1


def _restore_missing(chosen: Wanted, source: str | None, how: Options, config: Config, progress: Progress) -> NoReturn:
    drop_privileges(config, os.environ)  # first: a private directory hides whether there is a database in it
    one = source is not None or chosen.id != LATEST
    names = (one_source(source, config),) if one else sources(config, ())
    requests = tuple(missing_request(name, config, stopped=how.stopped, dry_run=how.dry_run) for name in names)
    outcomes = restore_missing(
        requests, chosen, config, progress, allow_none=how.allow_none, accept_older=how.accept_older
    )
    print_outcomes(outcomes, config, as_json=how.as_json)


def _restore_one(
    chosen: Wanted, source: str | None, target: str | None, how: Options, config: Config, progress: Progress
) -> Restored:
    """Restore one generation; to another path, print the result and exit."""
    context = common.open_context_for_restore(config, progress, reading=how.dry_run or target is not None)
    with common.opened(chosen.store or LOCAL_STORE, config, context) as (archives, inventory):
        asking = is_to_be_confirmed()
        accept = accept_shown if asking else common.accepting_older(sure=how.accept_older, quiet=how.as_json or how.yes)
        configured = [each.path for name, each in config.sources.items() if source in (None, name)]
        fit = partial(chosen.fitting, databases=[Path(target)] if target else configured)
        manifest, warning = _choose(
            chosen, source, fit(inventory), config, context, accept, adopting=how.adopt, dry_run=how.dry_run
        )
        if target is not None:
            _restore_to(target, manifest, warning, archives, config, context, dry_run=how.dry_run, as_json=how.as_json)
        request = restore_request(config, manifest.source, stopped=how.stopped, dry_run=how.dry_run)
        if asking or (how.dry_run and not how.as_json):
            chosen = _tell(manifest, request, chosen, inventory, config, context, online=how.online, asking=asking)
        (request,) = give_directories([(request, manifest)], config)
        request = replace(request, warnings=(warning,) if warning else ())
        choose = _choose_again(manifest, chosen, warning, fit, context, dry_run=how.dry_run)
        return restore(choose, request, archives, config, context, online=how.online)


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


def _refuse_beside_point(
    point: str | None,
    wanted: str,
    at: str | None,
    source: str | None,
    target: str | None,
    *,
    online: bool,
    back: bool,
) -> None:
    if point is None:
        raise UsageError("--only and --exact go with --point", "add --point latest, or name one source with --source")
    if wanted != LATEST:
        raise common.refuse_together("an ID", "--point")
    if at is not None and point != LATEST:
        raise common.refuse_together("--point ID", "--at")
    if source is not None:
        raise UsageError("--point and --source do not go together", f"name parts of the point: --only {source}")
    if target is not None or online:
        raise UsageError(
            "--point restores in place of the databases: --to and --online do not go with it",
            "leave them out, or restore the generations of the point one by one",
        )
    if back:
        raise UsageError("--undo and --redo take back whatever was restored last", "leave --point out")


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
        common.warn_of_foreign((manifest,), inventory, claims, name)
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
) -> NoReturn:
    new = restore_to_path(manifest, Path(target), workers(config), context, store=archives, dry_run=dry_run)
    output.print_restored(new, config.schedule.timezone, as_json=as_json)
    if warning:
        output.print_warning(warning)
    sys.exit(DEGRADED_EXIT if warning else 0)


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
