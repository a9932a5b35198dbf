"""`/metrics` of the gate as Prometheus text, computed for each scrape; docs/monitoring.md explains every metric."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from prometheus_client.metrics_core import Metric

from backupd.gate.model import ENDED, Deploy, Gate
from backupd.gate.outcome import newest_first
from backupd.web.metrics import exposition, gauge
from backupd.web.responses import WebResponse

_OUTCOMES: Final = tuple(sorted(ENDED))


def metrics_response(
    gates: Sequence[Gate], deploys: Sequence[Deploy], *, stopped: Collection[str] = frozenset()
) -> WebResponse:
    """Return the figures of `gates` and their `deploys`, and those of this process.

    `stopped` are the names of the gates whose thread has ended: they deploy nothing.
    """
    own = {gate.name: newest_first(deploys, gate.name) for gate in gates}
    return exposition(_metrics(own, stopped))


def _metrics(own: dict[str, tuple[Deploy, ...]], stopped: Collection[str]) -> Iterator[Metric]:
    gate, outcome = ("gate",), ("gate", "outcome")
    up = [((name,), float(name not in stopped)) for name in own]
    yield gauge("backupd_gate_up", "1 while the gate accepts pushes and deploys them, else 0.", gate, up)
    for state, about in (
        ("running", "1 while a deploy is on its way, else 0."),
        ("waiting", "Number of deploys that wait."),
    ):
        counts = [((name,), sum(one.state == state for one in deploys)) for name, deploys in own.items()]
        yield gauge(f"backupd_gate_{state}", about, gate, counts)
    ended = {name: [one for one in deploys if one.ended] for name, deploys in own.items()}
    numbers = {name: Counter(one.state for one in deploys) for name, deploys in ended.items()}
    yield gauge(
        "backupd_gate_deploys",
        "Deploys by outcome, of those that the gate still remembers.",
        outcome,
        [((name, state), counted[state]) for name, counted in numbers.items() for state in _OUTCOMES],
    )
    yield from _last_deploys(ended)


def _last_deploys(ended: dict[str, list[Deploy]]) -> Iterator[Metric]:
    """Yield what is known of the newest deploys of each gate that have ended."""
    times = {
        (name, one.state): one.ended_at.timestamp()
        for name, deploys in ended.items()
        for one in reversed(deploys)
        if one.ended_at
    }
    yield gauge(
        "backupd_gate_last_deploy_timestamp_seconds",
        "End of the last deploy with this outcome; absent before the first.",
        ("gate", "outcome"),
        times.items(),
    )
    last = {name: next((one for one in deploys if one.state != "superseded"), None) for name, deploys in ended.items()}
    yield gauge(
        "backupd_gate_last_outcome",
        "1 for the outcome of the last deploy, without those that a newer push superseded; 0 for the others.",
        ("gate", "outcome"),
        [((name, state), float(one.state == state)) for name, one in last.items() if one for state in _OUTCOMES],
    )
    yield gauge(
        "backupd_gate_step_duration_seconds",
        "Duration of each step of that deploy.",
        ("gate", "step"),
        [
            ((name, step.name), (step.ended_at - step.began_at).total_seconds())
            for name, one in last.items()
            if one
            for step in one.steps
            if step.ended_at
        ],
    )
