"""`backupd backup`."""

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import click

from backupd.bootstrap.tasks import backup_request, sources
from backupd.cli.common import (
    config_option,
    json_option,
    open_context,
    print_json,
    print_trouble,
    read_config,
    readable_errors,
    source_option,
    worst_exit,
)
from backupd.cli.output import shown_progress
from backupd.cli.pin import read_label
from backupd.errors import UsageError
from backupd.formatting import human_bytes, human_duration
from backupd.report import BackupDetails, RunReport, report_facts
from backupd.tasks.backup import backup
from backupd.tasks.requests import PinRequest

_WORTH_TELLING_S = 0.05
_BY_HAND_STAYS = timedelta(days=30)


@click.command("backup", epilog="Example: backupd backup --source tasks --json")
@click.option(
    "--pin/--no-pin",
    "pinned",
    default=None,
    help="Keep it until it is released (backupd unpin); or, for cron, no longer than the retention policy does. "
    f"Without either it stays for {_BY_HAND_STAYS.days} days at least.",
)
@click.option("--label", metavar="TEXT", help="A short text that list, show and the page show beside it.")
@config_option
@source_option
@json_option
@readable_errors
def command(
    config_file: Path | None, names: tuple[str, ...], label: str | None, *, pinned: bool | None, as_json: bool
) -> None:
    """Take one verified backup of every source now: the same code that the schedule runs.

    What is taken by hand is pinned, here and at replicas; so is the generation that an unchanged database equals.
    Exits 0 when published, or verified unchanged; 1 failed; 3 published but degraded; 75 busy, try again.
    With --json one source is one object, several are a list.
    """
    pin = _pin_request(label, pinned=pinned)
    config = read_config(config_file)
    wanted = sources(config, names)
    with shown_progress(quiet=as_json) as progress:
        context = open_context(config, progress)
        reports = [backup(replace(backup_request(config, name), pin=pin), context) for name in wanted]
    if as_json:
        facts = [report_facts(report) for report in reports]
        print_json(facts[0] if len(facts) == 1 else facts)
    else:
        for report in reports:
            _print(report)
    sys.exit(worst_exit(reports))


def _pin_request(label: str | None, *, pinned: bool | None) -> PinRequest | None:
    """Return how long the generation is to stay beside the policy. Raises UsageError."""
    text = read_label(label)
    if pinned is False:
        if text:
            raise UsageError("--label and --no-pin do not go together: a label is part of a pin", "give one of the two")
        return None
    return PinRequest("made by hand", None if pinned else _BY_HAND_STAYS, text)


def _print(report: RunReport[BackupDetails]) -> None:
    print_trouble(report)
    if report.outcome == "failed":
        return
    details = report.details
    stages = ", ".join(
        f"{name} {seconds:.1f}" for name, seconds in report.stages.items() if seconds >= _WORTH_TELLING_S
    )
    click.echo(f"{report.subject}: {report.outcome} {report.generation}, verified {details.verification}")
    click.echo(f"  archive  {details.archive_path}")
    click.echo(f"  size     {human_bytes(details.snapshot_bytes or 0)} as {human_bytes(details.archive_bytes or 0)}")
    click.echo(
        f"  time     {human_duration(report.duration_s)} ({stages})"
        if stages
        else f"  time     {human_duration(report.duration_s)}"
    )
    click.echo(f"  store    {details.kept} kept, {len(details.removed)} removed")
    for note in report.notes:
        click.echo(f"  note     {note}")
