"""Send what a replica lacks, newest first, and let go there what its own policy lets go: plan, then act.

The plan is made from the replica's own listing, never by mirroring: losing the local disk must not empty it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from backupd.archive.manifest import decode_manifest
from backupd.errors import (
    ForeignCopies,
    GenerationMissing,
    ManifestInvalid,
    NoSpace,
    NothingToSend,
)
from backupd.formatting import human_bytes
from backupd.model import Generation, Hold, Kept, Manifest, Pin, Removed
from backupd.report import ReplicationDetails, RunReport
from backupd.retention import NO_PINS, plan_retention
from backupd.stores.contract import Replica, find_manifest
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.inventory import Inventory, histories
from backupd.tasks.provenance import ForeignGenerations, adopt, adopt_local, provenance_of, refusal
from backupd.tasks.replica import Connect, Retry, inventory_of, remove_there, replica_errors, require_ours
from backupd.tasks.reporter import GenerationSent
from backupd.tasks.requests import ReplicationRequest
from backupd.tasks.run import ReplicationRun
from backupd.tasks.verify import digest_archive, record_verification


def send(manifest: Manifest, replica: Replica, run: ReplicationRun, context: TaskContext) -> None:
    """Send it and tell, unless it was pruned here meanwhile, or turns out to be damaged here.

    Raises GenerationTaken, NoSpace, CopyCorrupt, ReplicaUnreachable, OSError.
    """
    key = manifest.id
    try:
        with run.stage("read"):
            found = digest_archive(manifest, context.store)
        encoded = context.store.manifest(key)
    except GenerationMissing:
        run.note(f"{key} was pruned meanwhile, and not sent")
        return
    if found.damaged:
        record_verification(key, context, sound=False, detail=found.detail)
    if not found.sound:
        run.warn(f"{key} was not sent: {found.detail}")
        return
    require_ours(manifest, _manifest_at(replica, key), replica.name)
    _require_room(manifest, replica)
    context.progress.stage(f"send {key}", manifest.archive.size_bytes)
    with run.stage("send"), _counted(replica, run):
        replica.publish(key, context.store.archive_path(key), encoded)
    _record_sent(manifest, replica, run)


@dataclass(frozen=True, slots=True)
class ReplicationPlan:
    """What would travel, newest first, and what would go there; nothing has been done yet.

    Where another store has sent generations of the source as well, they are `foreign`, and nothing goes.
    """

    send: tuple[Kept, ...]
    keep: tuple[Kept, ...]
    remove: tuple[Removed, ...]
    foreign: tuple[ForeignGenerations, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the replica belongs to another store: all that counts there of the source is foreign."""
        return bool(self.foreign) and not any(kept.generation.verified for kept in (*self.keep, *self.send))


def plan_replication(
    local: Iterable[Generation],
    there: Iterable[Generation],
    request: ReplicationRequest,
    now: datetime,
    hold: Hold | None = None,
    pins: Mapping[str, Pin] = NO_PINS,
    foreign: tuple[ForeignGenerations, ...] = (),
) -> ReplicationPlan:
    """Decide for one source what a replica gets and lets go, given what is here and what is there.

    Sent is what its policy or one of the `pins` would keep, is verified here, and is not there in good order. Nothing
    goes under a `hold`, nor from an append-only replica, nor where other stores have sent `foreign` generations: those
    take no place, and where nothing else counts there, nothing is sent. Raises PolicyEmpty.
    """
    taken = frozenset(key for group in foreign for key in group.ids)
    local = [generation for generation in local if generation.id not in taken]
    there = [generation for generation in there if generation.id not in taken]
    if foreign and not any(generation.verified for generation in there):
        local = []
    good_there = {generation.id for generation in there if generation.verified}
    verified = (generation for generation in local if generation.verified)
    lacking = {generation.id: generation for generation in verified if generation.id not in good_there}
    present = {generation.id: generation for generation in there if generation.id not in lacking}
    plan = plan_retention(
        (present | lacking).values(), request.retention.policy, now, request.retention.timezone, hold, pins
    )
    send = tuple(kept for kept in plan.keep if kept.generation.id in lacking)
    keep = tuple(kept for kept in plan.keep if kept.generation.id in present)
    remove = tuple(removed for removed in plan.remove if removed.generation.id in present)
    return ReplicationPlan(send, keep, () if request.append_only or foreign else remove, foreign)


def plan_all(
    request: ReplicationRequest, here: Inventory, there: Inventory, context: TaskContext
) -> tuple[ReplicationPlan, ...]:
    """Return the plan for each source of ours, the configured ones and those in the local store."""
    claims, now, pins = provenance_of(here, context), context.clock(), context.pins.all()

    def plan(source: str) -> ReplicationPlan:
        hold, foreign = context.holds.get(source), claims.foreign(there, source)
        others = {key for group in foreign for key in group.ids}
        sides = [side.without(others) if others and side is there else side for side in (here, there)]
        known = {g.id: g for side in sides for g in side.of(source)}
        manifests = {m.id: m for side in sides for m in side.manifests_of(source)}
        plans = []
        for history in histories(known.values(), manifests.values()):
            ids = {generation.id for generation in history}
            local, remote = ([g for g in side.of(source) if g.id in ids] for side in sides)
            plans.append(plan_replication(local, remote, request, now, hold, pins, foreign))
        return ReplicationPlan(
            tuple(kept for each in plans for kept in each.send),
            tuple(kept for each in plans for kept in each.keep),
            tuple(removed for each in plans for removed in each.remove),
            foreign,
        )

    return tuple(map(plan, _sources(request, here)))


def replicate(
    request: ReplicationRequest, connect: Connect, retry: Retry, context: TaskContext
) -> RunReport[ReplicationDetails]:
    """Send now. Foreseen trouble does not raise: it is in the report; what was sent by then stays sent.

    A connection that is lost is made anew, as `retry` says, and what was proven there is not sent again.
    """
    details = ReplicationDetails()
    with context.run("replicate", request.name, details) as run, context.task_lock(f"replicate-{request.name}"):
        run.start()
        retry(lambda: _session(request, connect, run, context))
    return run.report


def _session(request: ReplicationRequest, connect: Connect, run: ReplicationRun, context: TaskContext) -> None:
    """Do what is left to do, over one connection."""
    with replica_errors(request.name), connect() as replica:
        replica.prepare()
        here, there = local_inventory(context), inventory_of(request.name, replica, context)
        adopt_local(here, context)
        if request.adopt and _adopted(request, here, there, run, context):
            request = replace(request, append_only=True)  # whoever erred can still see it before anything goes
        plans = plan_all(request, here, there, context)
        if plans and all(plan.refused for plan in plans):
            raise refused_by(plans, request.name, context)
        if recovered := tuple(replica.recover()):
            context.log_recovered(recovered)
            there = inventory_of(request.name, replica, context)
            plans = plan_all(request, here, there, context)
        lacking = [kept.generation for plan in plans for kept in plan.send]
        context.log_recovered(replica.sweep({generation.id for generation in lacking}))
        for generation in sorted(lacking, key=lambda g: (g.taken_at, g.id), reverse=True):
            send(here.manifests[generation.id], replica, run, context)
        foreign = {key for plan in plans for group in plan.foreign for key in group.ids}
        for manifest in here.manifests.values():
            if manifest.id not in foreign:
                require_ours(manifest, there.manifests.get(manifest.id), request.name)
        _expire(request, here, replica, run, context)


def _expire(
    request: ReplicationRequest, here: Inventory, replica: Replica, run: ReplicationRun, context: TaskContext
) -> None:
    """Remove what the policy lets go, planned anew from what is really there now."""
    there = inventory_of(request.name, replica, context)
    plans = plan_all(request, here, there, context)
    going = {removed.generation.id: removed.reason for plan in plans for removed in plan.remove}
    remove_there(going, request, replica, there, context)
    run.details = replace(run.details, kept=sum(len(plan.keep) for plan in plans), removed=tuple(going))
    if any(plan.foreign for plan in plans):
        raise refused_by(plans, request.name, context)
    bare = [source for source in request.sources if not any(generation.verified for generation in there.of(source))]
    if bare:  # no success: the task stays due, and health red
        raise NothingToSend(
            f"there is no verified generation of {', '.join(bare)} at {request.name}, and none here to send",
            "take a backup first (backupd backup)",
        )


def _sources(request: ReplicationRequest, here: Inventory) -> list[str]:
    return sorted({*request.sources, *(generation.source for generation in here.generations)})


def _adopted(
    request: ReplicationRequest, here: Inventory, there: Inventory, run: ReplicationRun, context: TaskContext
) -> bool:
    """Adopt the stores whose copies of our sources are there; tells whether there were any. Raises AdoptionRefused."""
    claims = provenance_of(here, context)
    foreign = [group for source in _sources(request, here) for group in claims.foreign(there, source)]
    adopt(foreign, here, there, request.name, context, force=request.force)
    for group in foreign:
        run.note(f"adopted at {request.name}: {group.words(context.clock())}")
    if not foreign and not run.report.notes:
        run.note(f"{request.name} holds nothing that another store has made: there was nothing to adopt")
    return bool(foreign)


def refused_by(plans: Sequence[ReplicationPlan], name: str, context: TaskContext) -> ForeignCopies:
    """Return why the run fails: beside copies of another store nothing is removed, and where all are, nothing sent."""
    foreign = [group for plan in plans for group in plan.foreign]
    nothing = "sent or removed" if all(plan.refused for plan in plans if plan.foreign) else "removed"
    return refusal(foreign, name, f"nothing of that source was {nothing}", context.clock())


@contextmanager
def _counted(replica: Replica, run: ReplicationRun) -> Iterator[None]:
    """Add what travels in the block to the report, also when it was in vain."""
    before = replica.sent_bytes
    try:
        yield
    finally:
        sent_bytes = run.details.sent_bytes + replica.sent_bytes - before
        run.details = replace(run.details, sent_bytes=sent_bytes)


def _manifest_at(replica: Replica, generation_id: str) -> Manifest | None:
    encoded = find_manifest(replica, generation_id)
    try:
        return None if encoded is None else decode_manifest(encoded, generation_id)
    except ManifestInvalid:  # damaged: about to be replaced
        return None


def _require_room(manifest: Manifest, replica: Replica) -> None:
    free = replica.free_space()
    needed = manifest.archive.size_bytes - replica.partial_bytes(manifest.id)
    if free is not None and free < needed:
        raise NoSpace(
            f"{manifest.id} needs {human_bytes(needed)} at {replica.name}, where {human_bytes(free)} are free",
            "free space there",
        )


def _record_sent(manifest: Manifest, replica: Replica, run: ReplicationRun) -> None:
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
