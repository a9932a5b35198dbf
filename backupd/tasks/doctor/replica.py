"""Check that a replica can be reached and written, and whose copies it holds."""

from collections.abc import Iterator
from functools import partial
from typing import Final

from backupd.errors import CheckFailed
from backupd.formatting import counted, human_bytes
from backupd.stores.contract import ProbeResult
from backupd.tasks.context import TaskContext, read_inventory
from backupd.tasks.doctor import Finding, run_check
from backupd.tasks.provenance import provenance_of, refusal
from backupd.tasks.replica import Connect, replica_errors, replica_inventory
from backupd.tasks.requests import ReplicationRequest

# Names of generations contain the time: a host that is minutes off would confuse its administrator.
_CLOCK_S: Final = 120.0


def check_replica(request: ReplicationRequest, connect: Connect, context: TaskContext) -> Iterator[Finding]:
    """Yield a finding for login, host key and file operations, free space, clock and copies of a replica."""
    name = request.name
    probed = list[ProbeResult]()

    def probe() -> str:
        with replica_errors(name), connect() as replica:
            probed.append(replica.probe())
        missing = probed[0].missing_features
        lacks = f"; its server lacks {', '.join(missing)}, which are not required" if missing else ""
        return f"host key, login, write, read back, rename and delete work{lacks}"

    yield run_check(f"replica {name}", probe)
    if probed:
        if (free_bytes := probed[0].free_bytes) is not None:
            yield Finding(f"space at {name}", ok=True, detail=f"{human_bytes(free_bytes)} free")
        if (ahead_s := probed[0].clock_ahead_s) is not None:
            yield run_check(f"clock of {name}", partial(_clock, ahead_s))
        yield run_check(f"copies at {name}", lambda: _copies(request, connect, context))


def _copies(request: ReplicationRequest, connect: Connect, context: TaskContext) -> str:
    local = read_inventory(context)
    with replica_errors(request.name), connect() as replica:
        remote = replica_inventory(request.name, replica, context)
    remote.require_readable()
    claims, sources = provenance_of(local, context), {*request.sources, *(g.source for g in local.generations)}
    foreign = [group for source in sorted(sources) for group in claims.foreign(remote, source)]
    if foreign:
        raise refusal(foreign, request.name, "they are neither added to nor removed", context.clock())
    for generation_id in sorted(remote.replaced):
        raise remote.refusal(generation_id)
    if remote.lost:
        raise CheckFailed(
            remote.lost_warning(), "find out what removed them; backupd replicate sends what is still here"
        )
    own = sum(generation.source in sources for generation in remote.generations)
    return f"{counted(own, 'generation')} of this store"


def _clock(ahead_s: float) -> str:
    if abs(ahead_s) > _CLOCK_S:
        word = "ahead" if ahead_s > 0 else "behind"
        raise CheckFailed(f"its clock is {abs(ahead_s):.0f} s {word}", "set its clock, or the one of this host (NTP)")
    return f"{abs(ahead_s):.0f} s apart"
