"""Prove that a replica can be reached and written to, before the first night."""

from collections.abc import Iterator
from typing import Final

from backupd.errors import CheckFailed
from backupd.formatting import counted, human_bytes
from backupd.stores.contract import ProbeResult
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.doctor.finding import Finding, finding
from backupd.tasks.inventory import take_inventory
from backupd.tasks.provenance import provenance_of, refusal
from backupd.tasks.replica import Connect, replica_errors
from backupd.tasks.requests import ReplicationRequest

# Names tell the time in UTC: another host that is minutes off would only confuse its admin.
_CLOCK_S: Final = 120.0


def examine_replica(request: ReplicationRequest, connect: Connect, context: TaskContext) -> Iterator[Finding]:
    """Yield what a connection to a replica finds: login, host key, writing, renaming, room, clock, whose copies."""
    name = request.name
    probed: list[ProbeResult] = []

    def look() -> str:
        with replica_errors(name), connect() as replica:
            probed.append(replica.probe())
        lacks = (
            f"; its server lacks {', '.join(probed[0].missing_features)}, which is done without"
            if probed[0].missing_features
            else ""
        )
        return f"host key, login, write, read back, rename and delete work{lacks}"

    yield finding(f"replica {name}", look)
    if probed:
        yield from _figures(name, probed[0])
        yield finding(f"copies at {name}", lambda: _copies(request, connect, context))


def _figures(name: str, probed: ProbeResult) -> Iterator[Finding]:
    if probed.free_bytes is not None:
        yield Finding(f"space at {name}", ok=True, detail=f"{human_bytes(probed.free_bytes)} free")
    if probed.clock_ahead_s is not None:
        yield finding(f"clock of {name}", lambda: _clock(probed.clock_ahead_s or 0.0))


def _copies(request: ReplicationRequest, connect: Connect, context: TaskContext) -> str:
    here = read_inventory(context)
    with replica_errors(request.name), connect() as replica:
        there = take_inventory(replica, context.clock())
    claims, ours = provenance_of(here, context), {*request.sources, *(g.source for g in here.generations)}
    foreign = [group for source in sorted(ours) for group in claims.foreign(there, source)]
    if foreign:
        raise refusal(foreign, request.name, "they are neither added to nor removed", context.clock())
    own = sum(generation.source in ours for generation in there.generations)
    return f"{counted(own, 'generation')} of this store"


def _clock(ahead_s: float) -> str:
    if abs(ahead_s) > _CLOCK_S:
        word = "ahead" if ahead_s > 0 else "behind"
        raise CheckFailed(f"its clock is {abs(ahead_s):.0f} s {word}", "set the clock there, or here (NTP)")
    return f"{abs(ahead_s):.0f} s apart"
