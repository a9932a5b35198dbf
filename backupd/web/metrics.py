"""`/metrics`: the status as Prometheus text, built anew for each scrape; docs/monitoring.md explains every metric.

Names and units as in prometheus.io/docs/practices/naming: times, not ages, so that what nobody renews grows old.
"""

import platform
from collections.abc import Iterable, Iterator
from datetime import datetime
from http import HTTPStatus
from typing import get_args

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from backupd import __version__
from backupd.catalog import PingRecord
from backupd.formatting import printable
from backupd.health import Health
from backupd.model import Outcome
from backupd.status.model import MessageFigures, SourceFigures, Status, TaskFigures
from backupd.web.responses import Answer

_Samples = Iterable[tuple[tuple[str, ...], float | None]]


def metrics_answer(status: Status) -> Answer:
    """Answer with all figures of `status`, and those of this process."""
    registry = CollectorRegistry()
    registry.register(_Figures(status))
    ProcessCollector(registry=registry)
    return Answer(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry))


class _Figures(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        yield from _of_the_daemon(self._status)
        yield from _of_health(self._status.health)
        yield from _of_tasks(self._status.tasks)
        yield from _of_drills(self._status.tasks)
        yield from _of_sources(self._status.sources)
        yield from _of_messages(self._status.messages)
        yield from _of_pings(self._status.pings)


def _of_the_daemon(status: Status) -> Iterator[Metric]:
    started_ms = round(status.started_at.timestamp() * 1000)
    yield _gauge("app_started_at", "When the daemon started, in milliseconds since the epoch.", (), [((), started_ms)])
    works = [((), float(status.migrations_ok))]
    yield _gauge("migrations_ok", "1 while the catalog has its newest schema and answers, else 0.", (), works)
    versions = (__version__, platform.python_version(), status.sqlite_version)
    yield _gauge(
        "backupd_build_info",
        "Always 1; the labels tell the versions of backupd, Python and SQLite.",
        ("version", "python", "sqlite"),
        [(versions, 1)],
    )
    free = [((store,), size) for store, size in status.free_bytes.items()]
    yield _gauge("backupd_free_bytes", "Free space where the store keeps its generations.", ("store",), free)


def _of_health(health: Health) -> Iterator[Metric]:
    yield _gauge("backupd_healthy", "1 while /health answers 200, else 0.", (), [((), float(health.healthy))])
    yield _gauge("backupd_warnings", "How many warnings /health tells.", (), [((), len(health.warnings))])
    yield _gauge(
        "backupd_problem",
        "1 for each problem that /health tells, unhealthy or a warning; absent once it is over.",
        ("kind", "unhealthy", "task", "subject"),
        {(one.kind, str(one.unhealthy).lower(), one.task or "", one.subject): 1.0 for one in health.problems}.items(),
    )
    labels = ("task", "subject")
    proofs = [((standing.task, standing.subject), standing) for standing in health.freshness]
    yield _gauge(
        "backupd_proof_timestamp_seconds",
        "When the last verified backup, off-site copy or proven restore was made; absent while there was none.",
        labels,
        [(values, _seconds(standing.last_at)) for values, standing in proofs],
    )
    yield _gauge(
        "backupd_proof_limit_seconds",
        "How old that proof may become before /health turns red.",
        labels,
        [(values, standing.limit_s) for values, standing in proofs],
    )


def _of_tasks(tasks: tuple[TaskFigures, ...]) -> Iterator[Metric]:
    labels = ("task", "source")
    figures = [((task.task, task.source), task) for task in tasks]
    yield _gauge(
        "backupd_last_success_timestamp_seconds",
        "When the last successful run of the task began; absent while there was none.",
        labels,
        [(values, _seconds(task.last_success_at)) for values, task in figures],
    )
    runs = CounterMetricFamily(
        "backupd_runs", "Runs of the task by outcome, as the catalog counts them.", labels=(*labels, "outcome")
    )
    for values, task in figures:
        for outcome, count in {**dict.fromkeys(get_args(Outcome), 0), **task.runs}.items():
            runs.add_metric([printable(value) for value in (*values, outcome)], count)
    yield runs
    yield _gauge(
        "backupd_run_duration_seconds",
        "How long the last successful run of the task took.",
        labels,
        [(values, task.duration_s) for values, task in figures],
    )
    yield _gauge(
        "backupd_stage_duration_seconds",
        "How long each stage of the last successful run of the task took.",
        (*labels, "stage"),
        [((*values, stage), took_s) for values, task in figures for stage, took_s in (task.stages or {}).items()],
    )


def _of_drills(tasks: tuple[TaskFigures, ...]) -> Iterator[Metric]:
    labels = ("source", "store")
    drills = [((task.source, task.drill.store), task.drill) for task in tasks if task.drill]
    yield _gauge(
        "backupd_drill_recovery_seconds",
        "How long the last successful drill took from the first look at the store to the last proof.",
        labels,
        [(values, drill.recovery_s) for values, drill in drills],
    )
    yield _gauge(
        "backupd_drill_data_age_seconds",
        "How old the data was that the last successful drill restored, when it began.",
        labels,
        [(values, drill.age_s) for values, drill in drills],
    )
    yield _gauge(
        "backupd_drill_generation_timestamp_seconds",
        "When the generation was taken that the last successful drill restored.",
        labels,
        [(values, _seconds(drill.taken_at)) for values, drill in drills],
    )


def _of_sources(sources: tuple[SourceFigures, ...]) -> Iterator[Metric]:
    figures = [((source.source,), source) for source in sources]
    yield _gauge(
        "backupd_snapshot_size_bytes",
        "Size of the newest verified generation as a database.",
        ("source",),
        [(values, source.snapshot_bytes) for values, source in figures],
    )
    yield _gauge(
        "backupd_archive_size_bytes",
        "Size of the newest verified generation as it is stored.",
        ("source",),
        [(values, source.archive_bytes) for values, source in figures],
    )
    yield _gauge(
        "backupd_generation_timestamp_seconds",
        "When the newest verified generation was taken; older than the last backup where nothing has changed since.",
        ("source",),
        [(values, _seconds(source.newest_at)) for values, source in figures],
    )
    yield _gauge(
        "backupd_generations",
        "Generations in the local store: verified ones, and those found damaged.",
        ("source", "state"),
        [((*values, state), count) for values, source in figures for state, count in _by_state(source)],
    )
    yield _gauge(
        "backupd_rotation_frozen",
        "1 while nothing of the source is pruned, because it is damaged or has shrunk.",
        ("source",),
        [(values, float(source.frozen)) for values, source in figures],
    )


def _of_messages(messages: MessageFigures) -> Iterator[Metric]:
    yield _gauge(
        "backupd_messages_waiting",
        "Messages that a channel has not taken yet; they are tried again.",
        (),
        [((), messages.waiting)],
    )
    yield _gauge(
        "backupd_message_last_success_timestamp_seconds",
        "When a channel last took a message; absent while there was none.",
        (),
        [((), _seconds(messages.accepted_at))],
    )
    yield _gauge(
        "backupd_message_last_failure_timestamp_seconds",
        "When a channel last did not take a message; absent while that never happened.",
        (),
        [((), _seconds(messages.refused_at))],
    )


def _of_pings(pings: tuple[PingRecord, ...]) -> Iterator[Metric]:
    labels = ("task", "source")
    figures = [((ping.task, ping.source), ping) for ping in pings]
    counts = CounterMetricFamily(
        "backupd_pings", "Pings that a monitor took, and those that it did not.", labels=(*labels, "outcome")
    )
    for values, ping in figures:
        for outcome, count in (("accepted", ping.accepted), ("failed", ping.failed)):
            counts.add_metric([printable(value) for value in (*values, outcome)], count)
    yield counts
    yield _gauge(
        "backupd_ping_last_success_timestamp_seconds",
        "When a monitor last took a ping; absent while there was none.",
        labels,
        [(values, _seconds(ping.accepted_at)) for values, ping in figures],
    )
    yield _gauge(
        "backupd_ping_last_failure_timestamp_seconds",
        "When a monitor last did not take a ping; absent while that never happened.",
        labels,
        [(values, _seconds(ping.failed_at)) for values, ping in figures],
    )


def _by_state(source: SourceFigures) -> tuple[tuple[str, int], ...]:
    return (("verified", source.verified), ("damaged", source.generations - source.verified))


def _gauge(name: str, explanation: str, labels: tuple[str, ...], samples: _Samples) -> Metric:
    """Return a family without the samples that have no value; label values are made printable, then escaped."""
    family = GaugeMetricFamily(name, explanation, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric([printable(text) for text in values], value)
    return family


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()
