"""Replicate: send the generations that a replica lacks, newest first, and prune there by the replica's own policy.

The plan is made from the replica's own listing, not by mirroring: the loss of the local disk must not empty a replica.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from backupd.errors import ForeignCopies, NothingToSend, ReplicaFailed
from backupd.report import ReplicationDetails, RunReport
from backupd.stores.contract import Replica, generation_taken
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.events import CopyForgotten
from backupd.tasks.inventory import Inventory
from backupd.tasks.provenance import adopt, adopt_local, provenance_of, refusal
from backupd.tasks.replica import Connect, Retry, remove_copies, remove_points, replica_errors, replica_inventory
from backupd.tasks.replication_plan import ReplicationPlan, ReplicationPlans, plan_all, planned_sources
from backupd.tasks.requests import ReplicationRequest
from backupd.tasks.run import ReplicationRun
from backupd.tasks.sending import send, send_lost_contents, send_point
from backupd.tasks.sweep import sweep_if_due

_MAX_NAMED: Final = 200  # characters


def replicate(
    request: ReplicationRequest, connect: Connect, retry: Retry, context: TaskContext
) -> RunReport[ReplicationDetails]:
    """Send and prune now. What fails is in the report; what was sent before stays sent.

    A lost connection is made again as `retry` says, and what was verified at the replica is not sent again.
    """
    details = ReplicationDetails()
    with context.run("replicate", request.name, details) as run, context.task_lock(f"replicate-{request.name}"):
        run.start()
        retry(lambda: _session(request, connect, run, context))
    return run.report


def _session(request: ReplicationRequest, connect: Connect, run: ReplicationRun, context: TaskContext) -> None:
    """Do what is left to do over one connection."""
    with replica_errors(request.name), connect() as replica:
        replica.prepare()
        local, remote = local_inventory(context), replica_inventory(request.name, replica, context)
        adopt_local(local, remote, context)
        if not any(map(provenance_of(local, context).counts, remote.manifests.values())):
            remote.require_readable()  # it is unknown whose copies these are
        if request.adopt and _adopted(request, local, remote, run, context):
            request = replace(request, append_only=True)  # nothing is removed before a mistake can be seen
        plans = plan_all(request, local, remote, context)
        if plans.refused:
            raise foreign_copies_error(plans.sources, request.name, context)
        _report_lost(request, remote, plans, run, context)
        if recovered := tuple(replica.recover()):
            context.report_recovered(recovered)
            remote = replica_inventory(request.name, replica, context)
            plans = plan_all(request, local, remote, context)
        context.report_recovered(replica.sweep(plans.lacking.keys()))
        _send_all(plans, local, replica, run, context)
        remote.require_readable()
        foreign = {generation_id for group in plans.foreign for generation_id in group.ids}
        for generation_id in sorted(remote.replaced - foreign):
            raise generation_taken(generation_id, request.name)
        _prune(request, local, replica, run, context)


def _send_all(
    plans: ReplicationPlans, local: Inventory, replica: Replica, run: ReplicationRun, context: TaskContext
) -> None:
    """Send what the replica lacks, and what it has lost of the contents of files."""
    there = {kept.generation.id for plan in plans.sources for kept in plan.keep if kept.generation.verified}
    for generations, point in plans.in_order():
        for generation in generations:
            send(local.manifests[generation.id], replica, run, context)
        if point is not None and point.generations <= there | {*run.details.sent}:
            send_point(point, replica, run, context)
    send_lost_contents([local.manifests[key] for key in sorted(there & local.manifests.keys())], replica, run, context)


def _report_lost(
    request: ReplicationRequest,
    remote: Inventory,
    plans: ReplicationPlans,
    run: ReplicationRun,
    context: TaskContext,
) -> None:
    """Report, once, which copies are no longer at the replica.

    At an append-only one those are expected to go that its policy does not keep: its administrator prunes there.
    """
    missed = remote.lost
    if request.append_only:
        missed &= plans.lacking.keys()
    if missed:
        run.warn(replace(remote, lost=missed).lost_warning())
    for generation_id in sorted(remote.lost):
        context.emit(CopyForgotten(generation_id, request.name, lost=True))


def _prune(
    request: ReplicationRequest, local: Inventory, replica: Replica, run: ReplicationRun, context: TaskContext
) -> None:
    """Remove what the policy does not keep, by a plan made from what the replica holds now."""
    remote = replica_inventory(request.name, replica, context)
    if unlisted := {*run.details.sent} - {*remote.manifests, *remote.refused.keys() - remote.lost}:
        named = ", ".join(sorted(unlisted))[:_MAX_NAMED]
        what = f"{request.name} does not list what it has confirmed in this run: {named}"
        raise ReplicaFailed(what, "find out what removes files there; nothing was pruned")
    plans = plan_all(request, local, remote, context)
    points = {removed.generation.id: removed.reason for removed in plans.points.remove}
    removals = {removed.generation.id: removed.reason for plan in plans.sources for removed in plan.remove}
    remove_points(points, replica, context)
    remove_copies(removals, request, replica, remote, context)
    if not request.append_only:
        sweep_if_due(replica, remote.without(removals), context, run.warn)
    kept = sum(len(plan.keep) for plan in plans.sources)
    run.details = replace(run.details, kept=kept, removed=(*points, *removals))
    if plans.foreign:
        raise foreign_copies_error(plans.sources, request.name, context)
    without_copy = [
        source for source in request.sources if not any(generation.verified for generation in remote.of(source))
    ]
    if without_copy:  # no success: the task stays due, and health red
        raise NothingToSend(
            f"there is no verified generation of {', '.join(without_copy)} at {request.name}, and none here to send",
            "take a backup first (backupd backup)",
        )


def _adopted(
    request: ReplicationRequest, local: Inventory, remote: Inventory, run: ReplicationRun, context: TaskContext
) -> bool:
    """Adopt the stores that sent copies of our sources; returns whether there were any. Raises AdoptionRefused."""
    provenance = provenance_of(local, context)
    foreign = [group for source in planned_sources(request, local) for group in provenance.foreign(remote, source)]
    adopt(foreign, local, remote, request.name, context, force=request.force)
    for group in foreign:
        run.note(f"adopted at {request.name}: {group.describe(context.clock())}")
    if not foreign and not run.report.notes:
        run.note(f"{request.name} holds nothing that another store has made: there was nothing to adopt")
    return bool(foreign)


def foreign_copies_error(plans: Sequence[ReplicationPlan], name: str, context: TaskContext) -> ForeignCopies:
    """Return the error for foreign copies: nothing is removed, and where all copies are foreign, nothing is sent."""
    foreign = [group for plan in plans for group in plan.foreign]
    nothing = "sent or removed" if all(plan.refused for plan in plans if plan.foreign) else "removed"
    return refusal(foreign, name, f"nothing of that source was {nothing}", context.clock())
