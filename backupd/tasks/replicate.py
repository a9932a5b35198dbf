"""Replicate: send the generations that a replica lacks, newest first, and prune there by the replica's own policy.

The plan is made from the replica's own listing, not by mirroring: the loss of the local disk must not empty a replica.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from backupd.archive.manifest import decode_manifest
from backupd.errors import ForeignCopies, GenerationMissing, ManifestInvalid, NoSpace, NothingToSend, ReplicaFailed
from backupd.formatting import human_bytes
from backupd.model import AnyManifest, Generation, Hold, Kept, Pin, Removed
from backupd.report import ReplicationDetails, RunReport
from backupd.retention import NO_PINS, plan_retention
from backupd.stores.contract import Replica, find_manifest, generation_taken
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.events import CopyForgotten, GenerationSent
from backupd.tasks.inventory import Inventory, by_database
from backupd.tasks.provenance import ForeignGenerations, adopt, adopt_local, provenance_of, refusal
from backupd.tasks.replica import Connect, Retry, remove_copies, replica_errors, replica_inventory
from backupd.tasks.requests import ReplicationRequest
from backupd.tasks.run import ReplicationRun
from backupd.tasks.verify import digest_archive, record_verification

_MAX_NAMED: Final = 200  # characters


def send(manifest: AnyManifest, replica: Replica, run: ReplicationRun, context: TaskContext) -> None:
    """Send one generation, unless it has been pruned since the plan was made, or its local archive is damaged.

    Raises GenerationTaken, NoSpace, CopyCorrupt, ReplicaUnreachable, OSError.
    """
    generation_id = manifest.id
    try:
        with run.stage("read"):
            found = digest_archive(manifest, context.store)
        encoded = context.store.manifest(generation_id)
    except GenerationMissing:
        run.note(f"{generation_id} was pruned during the run, and not sent")
        return
    if found.damaged:
        record_verification(generation_id, context, sound=False, detail=found.detail)
    if not found.sound:
        run.warn(f"{generation_id} was not sent: {found.detail}")
        return
    there = _manifest_at(replica, generation_id)
    if there is not None and there.archive.sha256 != manifest.archive.sha256:
        raise generation_taken(generation_id, replica.name)
    _require_room(manifest, replica)
    context.progress.stage(f"send {generation_id}", manifest.archive.size_bytes)
    with run.stage("send"), _counted(replica, run):
        replica.publish(generation_id, context.store.archive_path(generation_id), encoded, manifest.kind)
    _record_sent(manifest, replica, run)


@dataclass(frozen=True, slots=True)
class ReplicationPlan:
    """What to do for one source at a replica, each newest first."""

    send: tuple[Kept, ...]
    keep: tuple[Kept, ...]
    remove: tuple[Removed, ...]
    foreign: tuple[ForeignGenerations, ...] = ()  # made by other stores; where there are any, nothing is removed

    @property
    def refused(self) -> bool:
        """Whether all generations of the source at the replica that count are foreign: nothing is sent either."""
        return bool(self.foreign) and not any(kept.generation.verified for kept in (*self.keep, *self.send))


def plan_replication(
    local: Iterable[Generation],
    remote: Iterable[Generation],
    request: ReplicationRequest,
    now: datetime,
    hold: Hold | None = None,
    pins: Mapping[str, Pin] = NO_PINS,
    foreign: tuple[ForeignGenerations, ...] = (),
) -> ReplicationPlan:
    """Decide for one source what to send to a replica and what to remove there, from both listings.

    A generation is sent that the replica's policy or one of the `pins` would keep, that is verified locally, and that
    the replica lacks or has damaged. Nothing is removed under a `hold`, from an append-only replica, or beside
    `foreign` generations: those fill no place of the policy, and where no others count, nothing is sent. Raises
    PolicyEmpty.
    """
    taken = frozenset(generation_id for group in foreign for generation_id in group.ids)
    local = [generation for generation in local if generation.id not in taken]
    remote = [generation for generation in remote if generation.id not in taken]
    if foreign and not any(generation.verified for generation in remote):
        local = []
    good_there = {generation.id for generation in remote if generation.verified}
    verified = (generation for generation in local if generation.verified)
    lacking = {generation.id: generation for generation in verified if generation.id not in good_there}
    present = {generation.id: generation for generation in remote if generation.id not in lacking}
    plan = plan_retention(
        (present | lacking).values(), request.retention.policy, now, request.retention.timezone, hold, pins
    )
    send = tuple(kept for kept in plan.keep if kept.generation.id in lacking)
    keep = tuple(kept for kept in plan.keep if kept.generation.id in present)
    remove = tuple(removed for removed in plan.remove if removed.generation.id in present)
    return ReplicationPlan(send, keep, () if request.append_only or foreign else remove, foreign)


def plan_all(
    request: ReplicationRequest, local: Inventory, remote: Inventory, context: TaskContext
) -> tuple[ReplicationPlan, ...]:
    """Return the plan for each source that is configured or in the local store."""
    provenance, now, pins = provenance_of(local, context), context.clock(), context.pins.all()
    local = local.without(remote.unreadable | remote.replaced)  # what is there may be good, and is not overwritten
    remote = remote.without(remote.lost)

    def plan(source: str) -> ReplicationPlan:
        hold, foreign = context.holds.get(source), provenance.foreign(remote, source)
        others = {generation_id for group in foreign for generation_id in group.ids}
        sides = [side.without(others) if others and side is remote else side for side in (local, remote)]
        known = {g.id: g for side in sides for g in side.of(source)}
        manifests = {m.id: m for side in sides for m in side.manifests_of(source)}
        send, keep, remove = list[Kept](), list[Kept](), list[Removed]()
        for history in by_database(known.values(), manifests.values()):
            ids = {generation.id for generation in history}
            local_part, remote_part = ([g for g in side.of(source) if g.id in ids] for side in sides)
            part = plan_replication(local_part, remote_part, request, now, hold, pins, foreign)
            send += part.send
            keep += part.keep
            remove += part.remove
        return ReplicationPlan(tuple(send), tuple(keep), tuple(remove), foreign)

    return tuple(map(plan, _sources(request, local)))


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
        if plans and all(plan.refused for plan in plans):
            raise foreign_copies_error(plans, request.name, context)
        _report_lost(request, remote, plans, run, context)
        if recovered := tuple(replica.recover()):
            context.report_recovered(recovered)
            remote = replica_inventory(request.name, replica, context)
            plans = plan_all(request, local, remote, context)
        lacking = [kept.generation for plan in plans for kept in plan.send]
        context.report_recovered(replica.sweep({generation.id for generation in lacking}))
        for generation in sorted(lacking, key=lambda g: (g.taken_at, g.id), reverse=True):
            send(local.manifests[generation.id], replica, run, context)
        remote.require_readable()
        foreign = {generation_id for plan in plans for group in plan.foreign for generation_id in group.ids}
        for generation_id in sorted(remote.replaced - foreign):
            raise generation_taken(generation_id, request.name)
        _prune(request, local, replica, run, context)


def _report_lost(
    request: ReplicationRequest,
    remote: Inventory,
    plans: Iterable[ReplicationPlan],
    run: ReplicationRun,
    context: TaskContext,
) -> None:
    """Report, once, which copies are no longer at the replica.

    At an append-only one those are expected to go that its policy does not keep: its administrator prunes there.
    """
    missed = remote.lost
    if request.append_only:
        missed &= {kept.generation.id for plan in plans for kept in plan.send}
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
    removals = {removed.generation.id: removed.reason for plan in plans for removed in plan.remove}
    remove_copies(removals, request, replica, remote, context)
    run.details = replace(run.details, kept=sum(len(plan.keep) for plan in plans), removed=tuple(removals))
    if any(plan.foreign for plan in plans):
        raise foreign_copies_error(plans, request.name, context)
    without_copy = [
        source for source in request.sources if not any(generation.verified for generation in remote.of(source))
    ]
    if without_copy:  # no success: the task stays due, and health red
        raise NothingToSend(
            f"there is no verified generation of {', '.join(without_copy)} at {request.name}, and none here to send",
            "take a backup first (backupd backup)",
        )


def _sources(request: ReplicationRequest, local: Inventory) -> list[str]:
    return sorted({*request.sources, *(generation.source for generation in local.generations)})


def _adopted(
    request: ReplicationRequest, local: Inventory, remote: Inventory, run: ReplicationRun, context: TaskContext
) -> bool:
    """Adopt the stores that sent copies of our sources; returns whether there were any. Raises AdoptionRefused."""
    provenance = provenance_of(local, context)
    foreign = [group for source in _sources(request, local) for group in provenance.foreign(remote, source)]
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


@contextmanager
def _counted(replica: Replica, run: ReplicationRun) -> Iterator[None]:
    """Add the bytes that the block sends to the report, also when it fails."""
    before = replica.sent_bytes
    try:
        yield
    finally:
        sent_bytes = run.details.sent_bytes + replica.sent_bytes - before
        run.details = replace(run.details, sent_bytes=sent_bytes)


def _manifest_at(replica: Replica, generation_id: str) -> AnyManifest | None:
    encoded = find_manifest(replica, generation_id)
    try:
        return None if encoded is None else decode_manifest(encoded, generation_id)
    except ManifestInvalid:  # damaged: about to be replaced
        return None


def _require_room(manifest: AnyManifest, replica: Replica) -> None:
    free = replica.free_space()
    needed = manifest.archive.size_bytes - replica.partial_bytes(manifest.id)
    if free is not None and free < needed:
        raise NoSpace(
            f"{manifest.id} needs {human_bytes(needed)} at {replica.name}, where {human_bytes(free)} are free",
            "free space there",
        )


def _record_sent(manifest: AnyManifest, replica: Replica, run: ReplicationRun) -> None:
    transfer, details = replica.last_transfer, run.details
    run.details = replace(
        details,
        sent=(*details.sent, manifest.id),
        resumed_bytes=details.resumed_bytes + transfer.resumed_bytes,
        verified_by=tuple(sorted({*details.verified_by, transfer.verified_by})),
    )
    if transfer.fallback_reason:
        run.note(f"copies at {replica.name} were read back: {transfer.fallback_reason}")
    run.emit(GenerationSent(manifest, replica.name, transfer))
