"""`backupd restore`."""

import os
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from backupd.cli.common import (
    config_option,
    error_facts,
    json_option,
    open_site,
    print_json,
    print_trouble,
    read_config,
    told_plainly,
)
from backupd.cli.progress import shown_progress
from backupd.cli.stores import claims_at, default_source, opened, require_sources, tell_whose
from backupd.cli.times import read_time
from backupd.config import Config
from backupd.errors import UsageError
from backupd.identity import Identity, follows_owner, hand_over_backups, may_override_rights, settle
from backupd.jobs.generations import Choose, choose_generation, read_inventory
from backupd.jobs.overwrite import overwrite_database
from backupd.jobs.provenance import choose_usable
from backupd.jobs.replace import Replaced, Replacement, replace_database, undo_restore
from backupd.jobs.restore import Restored, restore_to
from backupd.jobs.site import Site
from backupd.jobs.words import human_bytes
from backupd.model import LOCAL_STORE, Manifest, Progress, RunReport
from backupd.sqlite.directory import give_directory, rights_to_give
from backupd.sqlite.lease import STOPPED_FLAG
from backupd.stores.contract import Archives
from backupd.text import printable
from backupd.wiring import backup_order, sources, workers


@click.command("restore", epilog="Example: backupd restore latest --from offsite")
@click.argument("wanted", metavar="[ID|latest]", default="latest")
@click.option("--at", metavar="TIME", help='The newest at or before this time, "2026-11-20 14:00" or "2026-11-20".')
@click.option("--source", "source", metavar="NAME", help="Of this source; needed where there are several.")
@click.option("--from", "store", metavar="STORE", default="local", help="From this store (local).")
@click.option("--to", "target", metavar="PATH", help="Make this new file, and leave the database alone.")
@click.option("--online", is_flag=True, help="Into the live database, for an app that cannot stop.")
@click.option("--adopt", is_flag=True, help="With --from: go on for the lost machine that sent the copies there.")
@click.option("--undo", is_flag=True, help="Take the last restore back.")
@click.option(STOPPED_FLAG, "stopped", is_flag=True, help="Your word that the app is stopped, where nobody can tell.")
@click.option("--dry-run", is_flag=True, help="Tell what would happen; change nothing.")
@config_option
@json_option
@told_plainly
def command(
    wanted: str,
    at: str | None,
    source: str | None,
    store: str,
    target: str | None,
    config_file: Path | None,
    *,
    adopt: bool,
    online: bool,
    undo: bool,
    stopped: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Put a generation in place of its app's database: proven first, swapped last, the old one kept.

    Stop the app first: while anybody has the database open, nothing is done. Exits 75 then, 1 when it failed.
    """
    _refuse_contradictions(wanted, at, target, online=online, undo=undo)
    if adopt and store == LOCAL_STORE:
        raise UsageError("--adopt goes with --from a replica", "leave it out")
    config = read_config(config_file)
    with shown_progress(quiet=as_json) as progress:
        if undo:
            order = _replacement(_only_source(source, config), config, stopped=stopped, dry_run=dry_run)
            report, done = undo_restore(order, _site(config, progress, reading=dry_run))
        else:
            site = _site(config, progress, reading=dry_run or target is not None)
            with opened(store, config, site) as (place, inventory):
                require_sources((source,) if source else (), config, inventory)
                time = read_time(at, config)
                meant = default_source(source, config)
                if store == LOCAL_STORE:
                    manifest = choose_generation(inventory, wanted, meant, time)
                else:
                    claims = claims_at(store, inventory, meant, site, adopting=adopt, dry_run=dry_run)
                    manifest = choose_usable(inventory, claims, wanted, meant, time, store)
                    tell_whose(manifest, inventory, claims, store)
                if target is not None:
                    new = restore_to(manifest, Path(target), workers(config), site, store=place, dry_run=dry_run)
                    return _print_done(new, config, as_json=as_json)
                order = _replacement(manifest.source, config, stopped=stopped, dry_run=dry_run)
                order = _with_directory(order, manifest, config)
                choose = _choosing(manifest, wanted, time, site) if store == LOCAL_STORE else lambda: manifest
                report, done = _in_place(choose, order, place, config, site, online=online)
    return _print_outcome(report, done, config, as_json=as_json)


def _refuse_contradictions(wanted: str, at: str | None, target: str | None, *, online: bool, undo: bool) -> None:
    if target is not None and target.endswith("/"):
        raise UsageError(f"{target} is the name of a directory", "give the name of a file in it")
    if at is not None and wanted != "latest":
        raise UsageError("an ID and --at do not go together", "give one of the two")
    if sum((online, undo, target is not None)) > 1:
        raise UsageError("--online, --undo and --to do not go together", "give one of the three")
    if undo and (at is not None or wanted != "latest"):
        raise UsageError("--undo takes the last restore back: no ID and no --at go with it", "leave them out")


def _site(config: Config, progress: Progress, *, reading: bool) -> Site:
    """Return the local store, made where there is none unless it is only for `reading`; a read-only one will do."""
    settle(config, os.environ)  # first: a private directory hides even whether there is a store in it
    return open_site(config, progress, writing=None if reading or config.backups_dir.exists() else True)


def _only_source(source: str | None, config: Config) -> str:
    names = sources(config, (source,) if source else ())
    if len(names) > 1:
        raise UsageError(f"which source: {', '.join(names)}?", "name it with --source")
    return names[0]


def _replacement(source: str, config: Config, *, stopped: bool, dry_run: bool) -> Replacement:
    if source not in config.sources:
        known = ", ".join(config.sources)
        raise UsageError(
            f"the configuration ({config.origin}) does not say where the database of {source!r} lies; it has: {known}",
            "add it to [sources], or restore to a new file (--to PATH)",
        )
    return Replacement(source, config.sources[source].path, workers(config), stopped, dry_run)


def _with_directory(order: Replacement, manifest: Manifest, config: Config) -> Replacement:
    """Give the directory of the database to its owner where it was made empty, and become that owner if we may.

    In a dry run it is only told. Root that neither becomes the owner nor may write in other users' directories could do
    nothing more there, so it leaves the directory alone.
    """
    if os.geteuid() != 0 or not (follows_owner(os.environ) or may_override_rights()):
        return order
    database = Path(os.path.realpath(order.path))
    rights = rights_to_give(database, manifest.origin, config.backups_dir)
    if rights is not None and rights.uid is not None and not order.dry_run:
        if follows_owner(os.environ):  # before its directory shuts us out
            gid = rights.uid if rights.gid is None else rights.gid
            hand_over_backups(config, Identity(rights.uid, gid, f"the owner of {database.parent}"))
        if not give_directory(database.parent, rights):
            return order
        settle(config, os.environ)
    return replace(order, directory=rights)


def _choosing(known: Manifest, wanted: str, at: datetime | None, site: Site) -> Choose:
    """Return what chooses again as `known` was chosen, of the same source."""
    return lambda: choose_generation(read_inventory(site), wanted, known.source, at)


def _in_place(
    choose: Choose, order: Replacement, place: Archives, config: Config, site: Site, *, online: bool
) -> tuple[RunReport, Replaced | None]:
    if online:
        return overwrite_database(choose, order, place, backup_order(config, order.source), site)
    return replace_database(choose, order, place, site)


def _print_outcome(report: RunReport, done: Replaced | None, config: Config, *, as_json: bool) -> None:
    if done is not None:
        _print_done(done, config, as_json=as_json)
    elif as_json:
        print_json(error_facts(report.error or "", report.hint or "", report.exit_code))
    print_trouble(report)
    sys.exit(report.exit_code)


def _print_done(done: Restored | Replaced, config: Config, *, as_json: bool) -> None:
    if as_json:
        print_json(done)
    else:
        _print(done, ZoneInfo(config.schedule.timezone))


def _print(done: Restored | Replaced, zone: ZoneInfo) -> None:
    verb = "would restore" if done.dry_run else "restored"
    what = done.generation or "the old database"
    click.echo(f"{verb} {what} to {done.target} ({human_bytes(done.snapshot_bytes)})")
    if done.taken_at is not None:
        taken_at = done.taken_at.astimezone(zone)
        local = "" if taken_at.utcoffset() == timedelta() else f" ({taken_at:%F %T} {zone})"
        click.echo(f"  taken    {done.taken_at:%F %T} UTC{local}")
        click.echo(f"  sha256   {done.snapshot_sha256}" + ("" if done.dry_run else ", integrity checked"))
    click.echo(f"  mode     {done.mode}" + (f", owner {done.owner}" if done.owner else ", owner is you"))
    for note in done.notes:
        click.echo(f"  note     {printable(note)}")
    if isinstance(done, Replaced):
        if done.directory:
            click.echo(f"  directory {Path(done.target).parent}, which was empty: owner {done.directory}")
        _print_way_back(done)


def _print_way_back(done: Replaced) -> None:
    if done.old_damage:
        click.echo(f"  damaged  the old database: {done.old_damage}")
    if done.old_undecided:
        click.echo(f"  journal  {done.old_undecided}")
        click.echo(f"           kept as {done.kept}-journal: to get both back, undo before the app is started again")
    if done.kept:
        click.echo(f"  kept     {done.kept}: remove it, with its side files, once all is well")
    if done.undo:
        click.echo(f"  undo     {done.undo}")
