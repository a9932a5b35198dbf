"""`backupd restore --point`: all that one run has backed up, as of one instant; and `--undo` of that."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from typing import NoReturn
from zoneinfo import ZoneInfo

from backupd.bootstrap.tasks import files_restore_request, restore_requests
from backupd.cli import common, output
from backupd.cli.restore_missing import missing_request, require_same_path
from backupd.cli.restore_plan import Options, RestorePlan, accept_shown, confirm, is_to_be_confirmed, print_plan
from backupd.config import Config
from backupd.errors import BackupdError, CopyUnreadable, GenerationMissing, NewestUnusable, StoreUnusable, TargetRefused
from backupd.files.restoration import KEPT
from backupd.formatting import counted, human_age, human_bytes, printable
from backupd.model import LOCAL_STORE, FilesManifest, Manifest, Progress
from backupd.privileges import drop_privileges, give_directories
from backupd.sqlite.history import KEPT_FOR
from backupd.tasks.choice import LATEST, Accept
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.inventory import Inventory, require_same_database
from backupd.tasks.provenance import adopt
from backupd.tasks.restore import RestoreRequest, RestoreResult
from backupd.tasks.restore.files import FilesRestoreRequest, FilesRestoreResult
from backupd.tasks.restore.point import AnyRestoreRequest, PointRestored, PointResult, missing_of, restore_point
from backupd.tasks.restore.point_choice import (
    ChoosePoint,
    ChosenPoint,
    choose_point,
    choose_usable_point,
    require_newest_point,
)

_ANOTHER = (
    "another point: backupd list --points, then --point ID, or --at TIME, or --from STORE; one part: --only SOURCE"
)


@dataclass(frozen=True, slots=True)
class WantedPoint:
    """Which restore point is wanted, which parts of it, and from which store."""

    id: str  # or `latest`
    at: datetime | None
    only: tuple[str, ...]  # sources; all for none
    store: str | None  # None: the local one; with --if-missing also the replicas, one after the other


@dataclass(frozen=True, slots=True)
class PointPlan:
    """The parts of `chosen`, found in the store at `place`, are to replace the databases of `requests`."""

    chosen: ChosenPoint
    requests: Sequence[AnyRestoreRequest]  # one for each of its manifests
    inventory: Inventory
    place: str
    zone: str

    def lines(self, now: datetime) -> Iterator[str]:
        """Yield the plan line by line; the databases are only looked at."""
        point, manifests = self.chosen.point, self.chosen.manifests
        yield f"would restore {counted(len(manifests), 'part')} of {point.id}, all or none"
        yield f"  taken    {output.time_text(point.taken_at, self.zone)}, at most {point.spread_ms} ms apart"
        yield f"  age      {human_age((now - point.taken_at).total_seconds())}"
        yield f"  from     {self.place}; each part is verified again before anything changes"
        for manifest, request in zip(manifests, self.requests, strict=True):
            if isinstance(manifest, Manifest) and isinstance(request, RestoreRequest):
                plan = RestorePlan(manifest, request, self.inventory, self.place, self.zone, online=False)
                yield from plan.part_lines()
            elif isinstance(manifest, FilesManifest) and isinstance(request, FilesRestoreRequest):
                yield from _files_lines(manifest, request)
        yield "  undo     backupd restore --undo, of all parts"


def restore_wanted_point(wanted: WantedPoint, options: Options, config: Config, progress: Progress) -> NoReturn:
    """Restore a point, print the result, and exit with its code. Raises BackupdError."""
    context = common.open_context_for_restore(config, progress, reading=options.dry_run)
    name = wanted.store or LOCAL_STORE
    with common.opened(name, config, context) as (archives, inventory):
        if name == LOCAL_STORE:
            _require_points(inventory, config, context)
        asking = is_to_be_confirmed("point", "only")
        accept = accept_shown if asking else _accepting(options)
        chosen, warning = _choose(wanted, name, inventory, config, context, accept, options)
        if asking or (options.dry_run and not options.as_json):
            place = f"local, {context.store.directory}" if name == LOCAL_STORE else name
            requests = _given(chosen, _requests(chosen, config, options, dry_run=True), config)
            plan = PointPlan(chosen, requests, inventory, place, config.schedule.timezone)
            if asking:
                confirm(plan, context.clock(), _ANOTHER)
                wanted = replace(wanted, id=chosen.point.id, at=None)  # another may be the newest by now
            else:
                print_plan(plan, context.clock())
        requests = _given(chosen, _requests(chosen, config, options, dry_run=options.dry_run), config)
        requests = [replace(request, warnings=(warning,) if warning else ()) for request in requests]
        choose = _choose_again(chosen, wanted, name, warning, context, dry_run=options.dry_run)
        restored = restore_point(choose, requests, archives, context)
    end_with_point(restored, config, options, planned=options.dry_run)


def _require_points(inventory: Inventory, config: Config, context: TaskContext) -> None:
    """Raise GenerationMissing, with the replicas that may have some, where the local store has no restore points."""
    if config.replicas and not (inventory.points or inventory.refused_points):
        ways = (f"restore from a replica: --from {name}" for name in config.replicas)
        raise GenerationMissing(f"there is no restore point in {context.store.directory}", "; or ".join(ways))


def restore_missing_point(wanted: WantedPoint, options: Options, config: Config, progress: Progress) -> NoReturn:
    """Restore a point where none of its databases exists, print what was done, and exit. Raises BackupdError.

    Nothing is done where all exist. Raises TargetRefused where only some do; GenerationMissing where no store has a
    point, unless `allow_none` is set.
    """
    drop_privileges(config, os.environ)  # first: a private directory hides whether there is a database in it
    names = (wanted.store,) if wanted.store else (LOCAL_STORE, *config.replicas)
    for name in names:
        common.require_store(name, config)
    sources = wanted.only or (*config.sources, *config.files)
    databases = [name for name in sources if name in config.sources]
    requests = [missing_request(name, config, stopped=options.stopped, dry_run=options.dry_run) for name in databases]
    if not missing_of(requests):
        _end_without("there", f"{', '.join(sources)}: all databases exist: nothing to restore", options)
    context = common.open_context_for_restore(config, progress, reading=options.dry_run)
    refused, none = list[BackupdError](), list[GenerationMissing]()
    for name in names:
        with common.opened(name, config, context) as (archives, inventory):
            try:
                chosen, warning = _choose(
                    wanted, name, inventory, config, context, lambda _why: options.accept_older, options
                )
                chosen, left_out = _of_configured(chosen, sources)
                require_same_path(chosen.manifests, requests, name, inventory, context)
            except GenerationMissing as error:
                has_copies = any(inventory.of(source) for source in sources)
                (refused if has_copies else none).append(error)
                continue
            except (NewestUnusable, CopyUnreadable, StoreUnusable) as error:  # the next store may have the newest
                refused.append(error)
                continue
            given = _given(chosen, [one for one in requests if one.source in _sources(chosen)], config)
            given += _files_beside(chosen, config, options)
            warnings = tuple(filter(None, (warning, left_out)))
            given = [replace(request, warnings=warnings) for request in given]
            restored = restore_point(partial(_same, chosen), given, archives, context)
            end_with_point(restored, config, options, at_start=True)
    if refused or not options.allow_none:
        raise (*refused, *none)[0]
    _end_without("none", "there is no restore point yet: nothing to restore", options)


def _of_configured(chosen: ChosenPoint, configured: Sequence[str]) -> tuple[ChosenPoint, str]:
    """Leave out the parts of sources that are no longer configured, and return what is to be said of that.

    Raises TargetRefused where a configured source has no part: it may be one of these under another name.
    """
    parts = {part.source for part in chosen.point.parts}
    unknown = ", ".join(sorted({*_sources(chosen)} - {*configured}))
    if not unknown:
        return chosen, ""
    if new := ", ".join(source for source in configured if source not in parts):
        raise TargetRefused(
            f"{chosen.point.id} has parts of {unknown}, which are not configured, and none of {new}: this may be "
            "another name of the same data",
            f"give the sources the names that the point has; or, if {new} is new, restore without --if-missing, with "
            "--only for each part that you want",
        )
    manifests = tuple(manifest for manifest in chosen.manifests if manifest.source in configured)
    what = f"{chosen.point.id} has also parts of {unknown}, which are no longer configured: they are left out"
    return replace(chosen, manifests=manifests), what


def _files_beside(chosen: ChosenPoint, config: Config, options: Options) -> list[AnyRestoreRequest]:
    """Return the requests for the files that belong to databases that do not exist."""
    names = [name for name in _sources(chosen) if name in config.files]
    found = [files_restore_request(config, name, stopped=options.stopped, dry_run=options.dry_run) for name in names]
    return [replace(request, if_missing=True) for request in found]


def _accepting(options: Options) -> Accept:
    return common.accepting_older(sure=options.accept_older, quiet=options.as_json or options.yes)


def _choose(
    wanted: WantedPoint,
    name: str,
    inventory: Inventory,
    config: Config,
    context: TaskContext,
    accept: Accept,
    options: Options,
) -> tuple[ChosenPoint, str]:
    """Choose a point of the store that is open, and return the warning that was `accept`ed with an older one."""
    if name == LOCAL_STORE:
        chosen = choose_point(inventory, wanted.id, wanted.at, wanted.only)
    else:
        claims = common.read_claims(context)
        if options.adopt:
            foreign = claims.foreign(inventory)
            claims = adopt(foreign, read_inventory(context), inventory, name, context, dry_run=options.dry_run)
        chosen = choose_usable_point(inventory, claims, wanted.id, wanted.at, wanted.only, name)
        common.warn_of_foreign(chosen.manifests, inventory, claims, name)
        inventory = claims.usable(inventory)
    if wanted.id != LATEST:
        return chosen, ""
    for manifest in chosen.manifests:
        if manifest.source in config.sources:
            require_same_database(manifest, inventory, config.sources[manifest.source].path)
    zone = ZoneInfo(config.schedule.timezone)
    return chosen, require_newest_point(chosen, inventory, accept, wanted.at, wanted.only, zone)


def _choose_again(
    chosen: ChosenPoint, wanted: WantedPoint, name: str, accepted: str, context: TaskContext, *, dry_run: bool
) -> ChoosePoint:
    """Return what chooses under the lock: again as before, but for a replica, which has no lock."""
    if dry_run or name != LOCAL_STORE:
        return partial(_same, chosen)

    def choose() -> ChosenPoint:
        inventory = read_inventory(context)
        again = choose_point(inventory, wanted.id, wanted.at, wanted.only or _sources(chosen))
        if wanted.id == LATEST:
            require_newest_point(again, inventory, lambda warning: warning == accepted, wanted.at, wanted.only)
        return again

    return choose


def _same(chosen: ChosenPoint) -> ChosenPoint:
    return chosen


def _sources(chosen: ChosenPoint) -> tuple[str, ...]:
    return tuple(manifest.source for manifest in chosen.manifests)


def _requests(chosen: ChosenPoint, config: Config, options: Options, *, dry_run: bool) -> list[AnyRestoreRequest]:
    """Return the request for each part. Raises UsageError for a source that is not configured."""
    return restore_requests(config, _sources(chosen), exact=options.exact, stopped=options.stopped, dry_run=dry_run)


def _given(chosen: ChosenPoint, requests: Sequence[AnyRestoreRequest], config: Config) -> list[AnyRestoreRequest]:
    """Give empty directories to the owners of the databases, and return the requests that say so."""
    manifests = {one.source: one for one in chosen.manifests}
    databases = [
        (request, manifest)
        for request in requests
        if isinstance(request, RestoreRequest) and isinstance(manifest := manifests[request.source], Manifest)
    ]
    given = {request.source: request for request in give_directories(databases, config)}
    return [given.get(request.source, request) for request in requests]


def _files_lines(manifest: FilesManifest, request: FilesRestoreRequest) -> Iterator[str]:
    """Yield the plan of a set of files."""
    facts = manifest.files
    yield f"  {request.source}: {manifest.id} to {request.path}"
    yield f"    files    {counted(facts.files, 'file')} ({human_bytes(facts.size_bytes)}): what is missing or differs"
    if request.exact:
        yield "    exact    what is not in the copy goes"
    yield f"    kept     what is replaced or goes, in {request.path}/{KEPT}TIME, for at least {KEPT_FOR.days} days"


def end_with_point(
    restored: PointRestored, config: Config, options: Options, *, planned: bool = False, at_start: bool = False
) -> NoReturn:
    """Print the result of a restore, or why it failed, and exit with its code.

    That is 0 also after warnings where it is `at_start` of an app, which is not started after any other code.
    """
    report, result = restored
    if result is None and report.outcome != "failed":
        _end_without("there", "; ".join(report.notes), options)
    if options.as_json:
        facts = output.failure_facts(report) if result is None else asdict(result) | {"outcome": report.outcome}
        output.print_json(facts)
    elif result is not None:
        _print(result, config.schedule.timezone, planned=planned)
    output.print_problems(report)
    sys.exit(0 if at_start and report.outcome != "failed" else report.exit_code)


def _end_without(outcome: str, text: str, options: Options) -> NoReturn:
    if options.as_json:
        output.print_json({"outcome": outcome, "parts": []})
    else:
        output.echo(printable(text))
    sys.exit(0)


def _print(result: PointResult, zone: str, *, planned: bool) -> None:
    if not planned:
        verb = "taken back" if result.is_undo else "restored"
        verb = f"would be {verb}" if result.dry_run else verb
        output.echo(f"{counted(len(result.parts), 'part')} of {result.point} {verb}")
    for part in result.parts:
        if planned:
            output.echo(part.source)
        if isinstance(part, RestoreResult):
            output.print_restored(replace(part, undo=None), zone, as_json=False, planned=planned)
        elif isinstance(part, FilesRestoreResult):
            _print_files(part, planned=planned)
    output.print_notes(result.notes)
    if result.undo:
        output.echo(f"undo{' of all' if len(result.parts) > 1 else ''}: {result.undo}")


def _print_files(part: FilesRestoreResult, *, planned: bool) -> None:
    if not planned:
        verb = "would put back" if part.dry_run else "put back"
        output.echo(f"{verb} {f'{part.generation} to' if part.generation else 'the files in'} {part.target}")
    if part.generation is not None:
        unpacked = f"{counted(part.files, 'file')} ({human_bytes(part.size_bytes)})"
        gone = f", {part.extra} not in the copy" if part.extra else ""
        whole = " (a directory counts once)" if part.files > part.missing + part.differing else ""
        changed = f"{part.missing} missing{whole}, {part.differing} differing{gone}"
        output.echo(f"  changes  {changed}: {unpacked} from the copy")
        output.echo(f"  equal    {part.unchanged}, compared byte by byte with their digests")
    if part.kept:
        output.echo(f"  kept     {part.kept}: backupd clean removes it after {KEPT_FOR.days} days")
