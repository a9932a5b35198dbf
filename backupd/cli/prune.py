"""`backupd prune` and `backupd remove`: generations are removed by the retention policy, or by their ids."""

import sys
from collections.abc import Iterator

import click

from backupd.bootstrap.tasks import retention_rule, subjects_of_backups
from backupd.cli import common, complete, output
from backupd.config import Config
from backupd.model import LOCAL_STORE, Generation
from backupd.report import AnyReport
from backupd.retention import RetentionPlan
from backupd.tasks.context import local_inventory
from backupd.tasks.prune import prune, release_hold
from backupd.tasks.pruning_plan import PruningPlans
from backupd.tasks.remove import remove_at_replica, remove_local

_Decision = tuple[Generation, str, tuple[str, ...]]  # keep or remove, and why


@common.command("prune", "backupd prune --dry-run", {3: "", 75: ""}, pings=True)
@common.dry_run_option
@click.option("--unfreeze", "release", is_flag=True, help="Release the hold after a source shrank or was corrupt.")
@common.source_option
def prune_command(config: Config, names: tuple[str, ...], *, dry_run: bool, release: bool, as_json: bool) -> None:
    """Remove nothing while pruning of the source is on hold, and never its last verified generation."""
    if dry_run and release:
        raise common.refuse_together("--dry-run", "--unfreeze")
    wanted = subjects_of_backups(config, names)
    context = common.open_context(config, writing=not dry_run)
    common.require_mounted(context)
    if release:
        for name in wanted:
            was_held = release_hold(name, context)
            output.echo(f"{name}: {'pruning goes on' if was_held else 'pruning was not on hold'}", err=True)
    if dry_run:
        inventory = local_inventory(context)
        found, reports = PruningPlans(retention_rule(config), inventory, context), []
        plans = [found.points, *map(found.of, wanted)]
    else:
        done = [prune(name, retention_rule(config), context) for name in wanted]
        plans = [plan for report, plan in done if report.outcome != "failed"]
        reports = [report for report, _ in done]
    failed = [report for report in reports if report.outcome == "failed"]
    decisions = [decision for plan in plans for decision in _decisions(plan)]
    if as_json:
        output.print_json([*map(_facts, decisions), *map(_failure, failed)] if plans else _failure(failed[0]))
    elif decisions:
        words = {"keep": "stays", "remove": "would be removed" if dry_run else "removed"}
        rows = [(generation.id, words[action], ", ".join(reasons)) for generation, action, reasons in decisions]
        output.print_table(("generation", "decision", "reason"), rows)
    elif plans:
        output.echo("no generations")
    for report in reports:
        output.print_problems(report)
    sys.exit(common.worst_exit(reports))


def _failure(report: AnyReport) -> dict[str, object]:
    return {"source": report.subject, **output.failure_facts(report)}


def _decisions(plan: RetentionPlan) -> Iterator[_Decision]:
    yield from ((kept.generation, "keep", kept.reasons) for kept in plan.keep)
    yield from ((removed.generation, "remove", (removed.reason,)) for removed in plan.remove)


def _facts(decision: _Decision) -> dict[str, object]:
    generation, action, reasons = decision
    return {"id": generation.id, "source": generation.source, "action": action, "reasons": list(reasons)}


@common.command("remove", "backupd remove tasks-20261123-0400", {75: ""})
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete.generations_and_points)
@click.option("--force", is_flag=True, help="Also pinned and held ones, and the last verified one of its source.")
@common.store_option("remove them from")
def remove_command(config: Config, ids: tuple[str, ...], store: str, *, force: bool, as_json: bool) -> None:
    """Keep what is pinned, the last verified one of each source, and parts of restore points, unless --force is given.

    A restore point is removed without its parts. Copies in other stores stay: to remove a generation everywhere, remove
    it from the local store first, then from each replica.
    """
    common.require_store(store, config)
    context = common.open_context(config)
    if store == LOCAL_STORE:
        done = remove_local(ids, context, force=force)
    else:
        from backupd.bootstrap.replicas import replica_connector, replication_request  # imports paramiko

        request, connect = replication_request(config, store), replica_connector(config, store, context)
        done = remove_at_replica(ids, request, connect, context, force=force)
    if as_json:
        output.print_json([{"id": one.generation, "store": one.store, "still_in": list(one.still_in)} for one in done])
        return
    for removal in done:
        output.echo(f"{removal.generation}: removed from {removal.store}")
        if removal.still_in:
            sent_again = store != LOCAL_STORE and LOCAL_STORE in removal.still_in
            consequence = "; the next replication may send it again" if sent_again else ""
            output.print_warning(f"{removal.generation} is still in {', '.join(removal.still_in)}{consequence}")
