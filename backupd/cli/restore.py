"""`backupd restore`."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from backupd.cli.common import config_option, json_option, open_site, print_json, read_config, told_plainly
from backupd.cli.progress import shown_progress
from backupd.cli.stores import opened, require_sources
from backupd.config import Config
from backupd.errors import UsageError
from backupd.jobs.generations import choose_generation
from backupd.jobs.restore import Restored, restore_to
from backupd.jobs.words import human_bytes
from backupd.wiring import workers

_SECONDS = re.compile(r"[T ]\d\d:?\d\d:?\d\d")


@click.command("restore", epilog="Example: backupd restore latest --to /tmp/tasks.db")
@click.argument("wanted", metavar="[ID|latest]", default="latest")
@click.option("--at", metavar="TIME", help='The newest at or before this time, "2026-11-20 14:00" or "2026-11-20".')
@click.option("--source", "source", metavar="NAME", help="Of this source; needed where there are several.")
@click.option("--from", "store", metavar="STORE", default="local", help="From this store (local).")
@click.option("--to", "target", metavar="PATH", help="The new file to make.")
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
    dry_run: bool,
    as_json: bool,
) -> None:
    """Restore a generation to a new path: unpacked and proven first, put in place last.

    Nothing that exists is replaced.
    """
    config = read_config(config_file)
    if target is None:
        raise UsageError(
            "restoring in place is not part of this version",
            "restore to a new file (--to PATH), stop the app, and move the file over its database",
        )
    if target.endswith("/"):
        raise UsageError(f"{target} is the name of a directory", "give the name of a file in it")
    if at is not None and wanted != "latest":
        raise UsageError("an ID and --at do not go together", "give one of the two")
    with shown_progress(quiet=as_json) as progress:
        site = open_site(config, progress, writing=False if dry_run else None)  # a read-only mount will do
        with opened(store, config, site) as (place, inventory):
            require_sources((source,) if source else (), config, inventory)
            manifest = choose_generation(inventory, wanted, source, _time(at, config))
            done = restore_to(manifest, Path(target), workers(config), site, store=place, dry_run=dry_run)
    if as_json:
        print_json(done)
    else:
        _print(done, ZoneInfo(config.schedule.timezone))


def _time(text: str | None, config: Config) -> datetime | None:
    """Return the last instant that a time means, in UTC: a date means its whole day, one without seconds its minute.

    One without a zone is meant in `schedule.timezone`. Raises UsageError.
    """
    if text is None:
        return None
    try:
        time = _last_instant(text)
        aware = time if time.tzinfo else time.replace(tzinfo=ZoneInfo(config.schedule.timezone))
        return aware.astimezone(UTC)
    except (ValueError, OverflowError):  # the year 1 and the year 9999 may lie outside the calendar in UTC
        raise UsageError(f"{text!r} is no time", 'write it like "2026-11-20 14:00" (or with a zone, +01:00)') from None


def _last_instant(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if _is_date(text):
        return time.replace(hour=23, minute=59, second=59, microsecond=999_999, fold=1)
    if _SECONDS.search(text):
        return time
    return time.replace(second=59, microsecond=999_999)  # a backup of 04:00 was taken some seconds later


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _print(done: Restored, zone: ZoneInfo) -> None:
    verb = "would restore" if done.dry_run else "restored"
    click.echo(f"{verb} {done.generation} to {done.target} ({human_bytes(done.snapshot_bytes)})")
    taken_at = done.taken_at.astimezone(zone)
    local = "" if taken_at.utcoffset() == timedelta() else f" ({taken_at:%F %T} {zone})"
    click.echo(f"  taken    {done.taken_at:%F %T} UTC{local}")
    click.echo(f"  sha256   {done.snapshot_sha256}" + ("" if done.dry_run else ", integrity checked"))
    click.echo(f"  mode     {done.mode}" + (f", owner {done.owner}" if done.owner else ", owner is you"))
