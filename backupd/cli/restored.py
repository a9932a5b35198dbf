"""What a restore did, as `backupd restore` prints it."""

import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn
from zoneinfo import ZoneInfo

import click

from backupd.cli.common import error_facts, print_json, print_trouble
from backupd.config import Config
from backupd.formatting import human_bytes, printable
from backupd.report import AnyReport
from backupd.sqlite.history import KEPT_FOR, RecordedRestore
from backupd.tasks.restore.in_place import InPlaceResult
from backupd.tasks.restore.to_path import Restored


def print_outcome(report: AnyReport, done: InPlaceResult | None, config: Config, *, as_json: bool) -> NoReturn:
    """Print what a restore in place did, or why it failed, and exit with its code."""
    if done is not None:
        print_done(done, config, as_json=as_json)
    elif as_json:
        print_json(error_facts(report.error or "", report.hint or "", report.exit_code))
    print_trouble(report)
    sys.exit(report.exit_code)


def print_undo(entry: RecordedRestore, config: Config, *, online: bool, dry_run: bool) -> None:
    """Print which restore is taken back, before it is."""
    record, zone = entry.record, ZoneInfo(config.schedule.timezone)
    way = "online" if record.before == "generation" else "in place"
    of = f" of {record.generation}" if record.generation else ""
    what = f"restore {way}{of}" if record.kind == "restore" else f"{record.kind} {way}, which was of the restore{of}"
    how = "online" if online else "in place"
    puts = f"restoring {record.safety} {how}" if record.safety else f"putting {entry.path} back"
    verb = "would take" if dry_run else "taking"
    click.echo(f"{verb} back the {what} at {_times(entry.restored_at, zone)}: {puts}")


def print_done(done: Restored | InPlaceResult, config: Config, *, as_json: bool) -> None:
    """Print what a restore did, or would do."""
    if as_json:
        print_json(done)
    else:
        _print(done, ZoneInfo(config.schedule.timezone))


def _print(done: Restored | InPlaceResult, zone: ZoneInfo) -> None:
    verb = "would restore" if done.dry_run else "restored"
    what = done.generation or "the old database"
    click.echo(f"{verb} {what} to {done.target} ({human_bytes(done.snapshot_bytes)})")
    if done.taken_at is not None:
        click.echo(f"  taken    {_times(done.taken_at, zone)}")
        checked = "integrity checked" if done.level != "opaque" else "only the digest and the size could be checked"
        click.echo(f"  sha256   {done.snapshot_sha256}" + ("" if done.dry_run else f", {checked}"))
    click.echo(f"  mode     {done.mode}" + (f", owner {done.owner}" if done.owner else ", owner is you"))
    for note in done.notes:
        click.echo(f"  note     {printable(note)}")
    if isinstance(done, InPlaceResult):
        if done.directory:
            click.echo(f"  directory {Path(done.target).parent}, which was empty: owner {done.directory}")
        _print_way_back(done)


def _times(at: datetime, zone: ZoneInfo) -> str:
    there = at.astimezone(zone)
    return f"{at:%F %T} UTC" + ("" if there.utcoffset() == timedelta() else f" ({there:%F %T} {zone})")


def _print_way_back(done: InPlaceResult) -> None:
    if done.old_damage:
        click.echo(f"  damaged  the old database: {done.old_damage}")
    if done.old_undecided:
        click.echo(f"  journal  {done.old_undecided}")
        click.echo(f"           kept as {done.kept}-journal: to get both back, undo before the app is started again")
    if done.kept:
        click.echo(f"  kept     {done.kept}: backupd clean removes it once it is {KEPT_FOR.days} days old")
    if done.undo:
        click.echo(f"  undo     {done.undo}")
