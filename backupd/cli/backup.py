"""`backupd backup`."""

import sys
from dataclasses import replace

import click

from backupd.bootstrap.tasks import request_of_backup, subjects_of_backups
from backupd.cli.backup_elsewhere import REMOTE_TIMEOUT_S, back_up_elsewhere
from backupd.cli.common import command, label_option, open_context, source_option, worst_exit
from backupd.cli.output import echo, print_json, print_notes, print_problems, shown_progress, stages_text
from backupd.config import Config
from backupd.config.environment import REMOTE_TOKEN
from backupd.errors import UsageError
from backupd.formatting import human_bytes, human_duration
from backupd.report import BackupDetails, RunReport, files_text, report_facts
from backupd.tasks.backup import back_up_together
from backupd.tasks.requests import REQUESTED_STAYS, requested_pin

_SHOWN_STAGE_S = 0.05


@command(
    "backup",
    "backupd backup --source tasks --json",
    {
        0: "published, or verified as unchanged",
        1: "failed; with --remote also where pruning is on hold",
        3: "published, with warnings (degraded)",
        75: "",
    },
    pings=True,
    elsewhere=back_up_elsewhere,
)
@click.option(
    "--pin/--no-pin",
    "pinned",
    default=None,
    help="Keep it until backupd unpin; or, for cron, only as long as the retention policy does. "
    f"Default: pinned for {REQUESTED_STAYS.days} days.",
)
@label_option
@source_option
@click.option(
    "--remote",
    metavar="URL",
    help="Request it from the daemon at this address, which accepts actions; needs no configuration here, and its "
    f"backup_token in {REMOTE_TOKEN} or {REMOTE_TOKEN}_FILE.",
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=1),
    help=f"How long to wait for it with --remote.  [default: {REMOTE_TIMEOUT_S:.0f}]",
)
def backup_command(
    config: Config,
    names: tuple[str, ...],
    label: str | None,
    remote: None,  # noqa: ARG001 - see `back_up_elsewhere`
    timeout_s: float | None,
    *,
    pinned: bool | None,
    as_json: bool,
) -> None:
    """Run the code that the schedule runs.

    A generation that is taken by hand is pinned, in the store and at replicas; so is the one that an unchanged database
    equals. With --json one source is one object, several are a list.
    """
    if timeout_s is not None:
        raise UsageError("--timeout is for --remote", "leave it out: sources.NAME.timeout_s limits a backup here")
    pin = requested_pin("made by hand", label or "", pinned)
    wanted = subjects_of_backups(config, names)
    with shown_progress(quiet=as_json) as progress:
        context = open_context(config, progress)
        requests = [replace(request_of_backup(config, name), pin=pin) for name in wanted]
        backups = back_up_together(requests, context, subjects_of_backups(config))
    reports, point = backups.reports, backups.point
    if as_json:
        facts = [report_facts(report) for report in reports]
        print_json(facts[0] if len(facts) == 1 else facts)
    else:
        for report in reports:
            _print(report)
        if point is not None:
            echo(f"{point.id}: {len(point.parts)} sources, {point.spread_ms} ms apart at most")
    sys.exit(worst_exit(reports))


def _print(report: RunReport[BackupDetails]) -> None:
    print_problems(report)
    if report.outcome == "failed":
        return
    details, stages = report.details, stages_text(report.stages, _SHOWN_STAGE_S)
    echo(f"{report.subject}: {report.outcome} {report.generation}, verified {details.verification}")
    echo(f"  archive  {details.archive_path}")
    size, stored = human_bytes(details.snapshot_bytes or 0), human_bytes(details.archive_bytes or 0)
    if details.files is None:
        echo(f"  size     {size} as {stored}")
    else:
        added = "nothing" if report.outcome == "unchanged" else stored
        echo(f"  size     {size}, {added} added to the store")
        echo(f"  files    {files_text(details)}")
    echo(f"  time     {human_duration(report.duration_s)}" + (f" ({stages})" if stages else ""))
    echo(f"  store    {details.kept} kept, {len(details.removed)} removed")
    print_notes(report.notes)
