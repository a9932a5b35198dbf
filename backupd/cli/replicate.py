"""`backupd replicate`."""

import sys
from dataclasses import dataclass
from pathlib import Path

import click

from backupd.bootstrap.replicas import replica_connector, replica_names, replica_retry, replication_request
from backupd.cli.common import (
    config_option,
    json_option,
    open_context,
    print_json,
    print_trouble,
    read_config,
    readable_errors,
    worst_exit,
)
from backupd.cli.output import print_table, shown_progress
from backupd.config import Config
from backupd.errors import UsageError
from backupd.formatting import counted, human_bytes, human_duration, printable
from backupd.model import Generation
from backupd.report import ReplicationDetails, RunReport, report_facts
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.replica import replica_errors, replica_inventory
from backupd.tasks.replicate import ReplicationPlan, foreign_copies_error, plan_all, replicate
from backupd.tasks.requests import ReplicationRequest


@click.command("replicate", epilog="Example: backupd replicate --to offsite --dry-run")
@click.option("--to", "names", multiple=True, metavar="NAME", help="To this replica only (may be repeated).")
@click.option("--dry-run", is_flag=True, help="Show what would be sent and removed, and why; change nothing.")
@click.option("--adopt", is_flag=True, help="Go on with what a lost machine has sent there.")
@click.option("--force", is_flag=True, help="With --adopt: also where that machine seems to be at work.")
@config_option
@json_option
@readable_errors
def command(
    config_file: Path | None, names: tuple[str, ...], *, dry_run: bool, adopt: bool, force: bool, as_json: bool
) -> None:
    """Send the generations that a replica lacks, newest first; then prune it by its retention policy.

    A broken connection is made again, and goes on where what is proven ends. Where another store has sent copies of the
    same source, the replica is left as it is. Exits 0 sent, 1 failed, 3 with warnings, 75 when the replica could not
    be reached.
    """
    if force and not adopt:
        raise UsageError("--force goes with --adopt", "leave it out")
    if adopt and dry_run:
        raise UsageError(
            "--adopt and --dry-run do not go together", "backupd list --store NAME shows whose copies are there"
        )
    config = read_config(config_file)
    wanted = replica_names(config, names)
    with shown_progress(quiet=as_json) as progress:
        context = open_context(config, progress, writing=not dry_run)
        if dry_run:
            plans = {name: _plans(config, name, context) for name in wanted}
        else:
            requests = [replication_request(config, name, adopt=adopt, force=force) for name in wanted]
            reports = [_replicate(config, request, context) for request in requests]
    if dry_run:
        _print_plans(plans, as_json=as_json)
        foreign = {name: [plan for plan in of_sources if plan.foreign] for name, of_sources in plans.items()}
        for name, refused in foreign.items():
            if refused:
                raise foreign_copies_error(refused, name, context)
        return
    if as_json:
        print_json([report_facts(report) for report in reports])
    for report in reports:
        _print(report, as_json=as_json)
    sys.exit(worst_exit(reports))


def _replicate(config: Config, request: ReplicationRequest, context: TaskContext) -> RunReport[ReplicationDetails]:
    return replicate(
        request, replica_connector(config, request.name, context), replica_retry(config, request.name, context), context
    )


def _plans(config: Config, name: str, context: TaskContext) -> tuple[ReplicationPlan, ...]:
    here = local_inventory(context)
    with replica_errors(name), replica_connector(config, name, context)() as replica:
        return plan_all(replication_request(config, name), here, replica_inventory(name, replica, context), context)


def _print_plans(plans: dict[str, tuple[ReplicationPlan, ...]], *, as_json: bool) -> None:
    decisions = [d for name, of_sources in plans.items() for plan in of_sources for d in _decisions(name, plan)]
    if as_json:
        print_json(decisions)
    elif decisions:
        rows = [(d.replica, d.id, d.action, human_bytes(d.archive_bytes), ", ".join(d.reasons)) for d in decisions]
        print_table(("replica", "generation", "decision", "size", "reason"), rows, right=frozenset({"size"}))
    else:
        click.echo("there is nothing here and nothing there")


@dataclass(frozen=True, slots=True)
class _Decision:
    """One line of a plan."""

    replica: str
    id: str
    action: str
    archive_bytes: int
    reasons: tuple[str, ...]


def _decisions(replica: str, plan: ReplicationPlan) -> list[_Decision]:
    def decide(action: str, generation: Generation, reasons: tuple[str, ...]) -> _Decision:
        return _Decision(replica, generation.id, action, generation.archive_bytes, reasons)

    return [
        *(decide("would be sent", kept.generation, kept.reasons) for kept in plan.send),
        *(decide("stays", kept.generation, kept.reasons) for kept in plan.keep),
        *(decide("would go", removed.generation, (removed.reason,)) for removed in plan.remove),
    ]


def _print(report: RunReport[ReplicationDetails], *, as_json: bool) -> None:
    print_trouble(report)
    if as_json or report.outcome == "failed":
        return
    details = report.details
    sent = counted(len(details.sent), "generation")
    click.echo(f"{report.subject}: {sent} sent, {len(details.removed)} removed, {details.kept} there")
    click.echo(f"  bytes    {human_bytes(details.sent_bytes)} sent, {human_bytes(details.resumed_bytes)} spared")
    if details.verified_by:
        click.echo(f"  proven   by {' and '.join(details.verified_by)}")
    for note in report.notes:
        click.echo(f"  note     {printable(note)}")
    click.echo(f"  time     {human_duration(report.duration_s)}")
