"""Prove that a replica can be reached and written to, before the first night."""

from collections.abc import Iterator
from typing import Final

from backupd.errors import BackupdError
from backupd.jobs.finding import Finding, finding
from backupd.jobs.replicate import Connect
from backupd.jobs.send import told_of
from backupd.jobs.words import human_bytes
from backupd.stores.contract import Probed

# Names tell the time in UTC: another host that is minutes off would only confuse its admin.
_CLOCK_S: Final = 120.0


def examine_replica(name: str, connect: Connect) -> Iterator[Finding]:
    """Yield what a connection to replica `name` finds: login, host key, writing, renaming, room, clock."""
    probed: list[Probed] = []

    def look() -> str:
        with told_of(name), connect() as replica:
            probed.append(replica.probe())
        lacks = f"; its server lacks {', '.join(probed[0].lacks)}, which is done without" if probed[0].lacks else ""
        return f"host key, login, write, read back, rename and delete work{lacks}"

    yield finding(f"replica {name}", look)
    if probed:
        yield from _figures(name, probed[0])


def _figures(name: str, probed: Probed) -> Iterator[Finding]:
    if probed.free_bytes is not None:
        yield Finding(f"space at {name}", ok=True, detail=f"{human_bytes(probed.free_bytes)} free")
    if probed.clock_ahead_s is not None:
        yield finding(f"clock of {name}", lambda: _clock(probed.clock_ahead_s or 0.0))


def _clock(ahead_s: float) -> str:
    if abs(ahead_s) > _CLOCK_S:
        word = "ahead" if ahead_s > 0 else "behind"
        raise BackupdError(f"its clock is {abs(ahead_s):.0f} s {word}", "set the clock there, or here (NTP)")
    return f"{abs(ahead_s):.0f} s apart"
