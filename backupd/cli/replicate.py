"""`backupd replicate`."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from backupd.bootstrap.replicas import replica_connector, replica_names, replica_retry, replication_request
from backupd.cli import complete
from backupd.cli.common import command, open_context, worst_exit
from backupd.cli.output import echo, print_json, print_notes, print_problems, print_table, print_warning, shown_progress
from backupd.config import REPLICAS, Config, KeyPath
from backupd.errors import UsageError
from backupd.formatting import human_bytes, human_duration
from backupd.report import ReplicationDetails, RunReport, report_facts, sent_text
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.replica import replica_errors, replica_inventory
from backupd.tasks.replicate import foreign_copies_error, replicate
from backupd.tasks.replication_plan import ReplicationPlans, plan_all


def _secrets(_config: Config, arguments: Mapping[str, Any]) -> Iterable[KeyPath]:
    """Return those of the replicas that are sent to."""
    return [(REPLICAS, name) for name in arguments["names"]] or ((REPLICAS,),)


@command(
    "replicate",
    "backupd replicate --to offsite --dry-run",
    {0: "everything is sent", 3: "", 75: ""},
    secrets=_secrets,
    pings=True,
)
@click.option(
    *("--to", "names"),
    multiple=True,
    metavar="NAME",
    shell_complete=complete.replicas,
    help="Only to this replica (repeatable).",
)
@click.option("--dry-run", is_flag=True, help="Show what would be sent and removed, and why; change nothing.")
@click.option("--adopt", is_flag=True, help="Adopt the copies that a lost machine sent to the replica.")
@click.option("--force", is_flag=True, help="With --adopt: even if that machine seems to be running.")
def replicate_command(
    config: Config, names: tuple[str, ...], *, dry_run: bool, adopt: bool, force: bool, as_json: bool
) -> None:
    """Then prune the replica by its retention policy.

    A lost connection is opened again, and sending resumes after the last verified byte. A replica that holds copies of
    the source by another store is not changed.
    """
    if force and not adopt:
        raise UsageError("--force goes with --adopt", "leave it out")
    if adopt and dry_run:
        raise UsageError(
            "--adopt and --dry-run do not go together", "backupd list --store NAME shows which store made the copies"
        )
    wanted = replica_names(config, names)
    with shown_progress(quiet=as_json) as progress:
        context = open_context(config, progress, writing=not dry_run)
        if dry_run:
            plans = {name: _plan(config, name, context) for name in wanted}
        else:
            requests = [replication_request(config, name, adopt=adopt, force=force) for name in wanted]
            reports = [
                replicate(
                    one, replica_connector(config, one.name, context), replica_retry(config, one.name, context), context
                )
                for one in requests
            ]
    if dry_run:
        _print_plans(plans, as_json=as_json)
        for name, found in plans.items():
            if refused := [plan for plan in found.sources if plan.foreign]:
                raise foreign_copies_error(refused, name, context)
        return
    if as_json:
        print_json([report_facts(report) for report in reports])
    for report in reports:
        _print(report, as_json=as_json)
    sys.exit(worst_exit(reports))


def _plan(config: Config, name: str, context: TaskContext) -> ReplicationPlans:
    here = local_inventory(context)
    with replica_errors(name), replica_connector(config, name, context)() as replica:
        there = replica_inventory(name, replica, context)
    there.require_readable()
    if lost := there.lost_warning():
        print_warning(lost)
    return plan_all(replication_request(config, name), here, there, context)


def _print_plans(plans: dict[str, ReplicationPlans], *, as_json: bool) -> None:
    decisions = [(name, *decision) for name, found in plans.items() for decision in _decisions(found)]
    if as_json:
        names = ("replica", "id", "action", "archive_bytes", "reasons")
        print_json([dict(zip(names, decision, strict=True)) for decision in decisions])
    elif decisions:
        rows = [(name, key, action, human_bytes(size), ", ".join(why)) for name, key, action, size, why in decisions]
        print_table(("replica", "generation", "decision", "size", "reason"), rows)
    else:
        echo("no generations in the local store or at the replica")


def _decisions(plans: ReplicationPlans) -> Iterator[tuple[str, str, int, tuple[str, ...]]]:
    points = plans.points
    for kept in points.plan.keep:
        sent = any(point.id == kept.generation.id for point in points.send)
        if sent or kept.generation.id in points.there:
            yield kept.generation.id, "would be sent" if sent else "stays", 0, kept.reasons
    yield from ((removed.generation.id, "would be removed", 0, (removed.reason,)) for removed in points.remove)
    for plan in plans.sources:
        found = [("would be sent", kept.generation, kept.reasons) for kept in plan.send]
        found += [("stays", kept.generation, kept.reasons) for kept in plan.keep]
        found += [("would be removed", removed.generation, (removed.reason,)) for removed in plan.remove]
        yield from ((one.id, action, one.archive_bytes, reasons) for action, one, reasons in found)


def _print(report: RunReport[ReplicationDetails], *, as_json: bool) -> None:
    print_problems(report)
    if as_json or report.outcome == "failed":
        return
    details = report.details
    echo(f"{report.subject}: {sent_text(details)} sent, {len(details.removed)} removed, {details.kept} kept")
    echo(f"  bytes    {human_bytes(details.sent_bytes)} sent, {human_bytes(details.resumed_bytes)} resumed")
    if details.verified_by:
        echo(f"  verified by {' and '.join(details.verified_by)}")
    print_notes(report.notes)
    echo(f"  time     {human_duration(report.duration_s)}")
