"""`/metrics`: the status as Prometheus text, computed for each scrape; docs/monitoring.md explains every metric.

Names and units as in prometheus.io/docs/practices/naming: times, not ages, so that a time that is not renewed ages.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Final, TypeVar, get_args

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
from backupd.web.responses import WebResponse

_Labels = tuple[str, ...]
_Figures = TypeVar("_Figures")
_HELP: Final[Mapping[str, str]] = {
    "app_started_at": "Start of the daemon, in milliseconds since the epoch.",
    "migrations_ok": "1 while the catalog is readable and has the newest schema, else 0.",
    "backupd_build_info": "Always 1; the labels are the versions of backupd, Python and SQLite.",
    "backupd_free_bytes": "Free space of the file system of the store.",
    "backupd_healthy": "1 while /health returns 200, else 0.",
    "backupd_warnings": "Number of warnings in /health.",
    "backupd_problem": "1 for each problem in /health, unhealthy or a warning; absent once it is resolved.",
    "backupd_proof_timestamp_seconds": "Time of the latest verified backup, off-site copy or restore drill; absent "
    "before the first.",
    "backupd_proof_limit_seconds": "Maximum age of that time; beyond it /health returns 503.",
    "backupd_last_success_timestamp_seconds": "Start of the last successful run of the task; absent before the first.",
    "backupd_runs": "Runs of the task by outcome, counted in the catalog.",
    "backupd_run_duration_seconds": "Duration of the last successful run of the task.",
    "backupd_stage_duration_seconds": "Duration of each stage of the last successful run of the task.",
    "backupd_drill_recovery_seconds": "Duration of the last successful drill, from reading the store to the end.",
    "backupd_drill_data_age_seconds": "Age of the data that the last successful drill restored, at its start.",
    "backupd_drill_generation_timestamp_seconds": "Time of the generation that the last successful drill restored.",
    "backupd_snapshot_size_bytes": "Size of the newest verified generation as a database, or of its files.",
    "backupd_archive_size_bytes": "Size of the newest verified generation as stored; of files, of their list.",
    "backupd_generation_timestamp_seconds": "Time of the newest verified generation; earlier than the last "
    "backup where the source has not changed since.",
    "backupd_generations": "Number of generations in the local store, verified or damaged.",
    "backupd_files": "Number of files in the newest verified generation of a set of files.",
    "backupd_files_size_bytes": "Size of all these files.",
    "backupd_point_timestamp_seconds": "Time of the newest sound restore point; absent while there is none.",
    "backupd_point_spread_seconds": "How far apart the instants of its parts are at most.",
    "backupd_point_parts": "Number of its parts.",
    "backupd_points": "Number of restore points in the local store.",
    "backupd_rotation_frozen": "1 while pruning of the source is on hold, because it is damaged or has shrunk.",
    "backupd_messages_waiting": "Messages that wait for delivery to a channel.",
    "backupd_message_last_success_timestamp_seconds": "Last delivery to a channel; absent before the first.",
    "backupd_message_last_failure_timestamp_seconds": "Last failed delivery to a channel; absent before the first.",
    "backupd_pings": "Pings of monitors by outcome, accepted or failed.",
    "backupd_ping_last_success_timestamp_seconds": "Last ping that the monitor accepted; absent before the first.",
    "backupd_ping_last_failure_timestamp_seconds": "Last ping that failed; absent before the first.",
}


def metrics_response(status: Status) -> WebResponse:
    """Return all figures of `status`, and those of this process."""
    return exposition(_status_metrics(status))


def exposition(metrics: Iterable[Metric]) -> WebResponse:
    """Return `metrics`, and those of this process, as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(_Collected(tuple(metrics)))
    ProcessCollector(registry=registry)
    return WebResponse(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry))


def gauge(name: str, about: str, labels: _Labels, samples: Iterable[tuple[_Labels, float | None]]) -> Metric:
    """Return a gauge of the samples that have a value; label values are made printable, then escaped."""
    family = GaugeMetricFamily(name, about, labels=labels)
    for values, value in samples:
        if value is not None:
            family.add_metric([printable(text) for text in values], value)
    return family


class _Collected(Collector):
    def __init__(self, metrics: tuple[Metric, ...]) -> None:
        self._metrics = metrics

    def collect(self) -> tuple[Metric, ...]:
        return self._metrics


def _status_metrics(status: Status) -> Iterator[Metric]:
    yield from _daemon_metrics(status)
    yield from _health_metrics(status.health)
    if status.runs_known:  # a counter that falls to 0 for a moment would seem to count all runs again
        yield _run_counts(status)
    yield from _task_metrics(status.tasks)
    yield from _source_metrics(status.sources)
    yield from _point_metrics(status)
    yield from _message_metrics(status.messages)
    yield from _ping_metrics(status.pings)


def _daemon_metrics(status: Status) -> Iterator[Metric]:
    yield _gauge("app_started_at", (), [((), round(status.started_at.timestamp() * 1000))])
    yield _gauge("migrations_ok", (), [((), float(status.migrations_ok))])
    versions = (__version__, platform.python_version(), status.sqlite_version)
    yield _gauge("backupd_build_info", ("version", "python", "sqlite"), [(versions, 1)])
    yield _gauge("backupd_free_bytes", ("store",), [((store,), size) for store, size in status.free_bytes.items()])


def _health_metrics(health: Health) -> Iterator[Metric]:
    yield _gauge("backupd_healthy", (), [((), float(health.healthy))])
    yield _gauge("backupd_warnings", (), [((), len(health.warnings))])
    problems = {(one.kind, str(one.unhealthy).lower(), one.task or "", one.subject): 1.0 for one in health.problems}
    yield _gauge("backupd_problem", ("kind", "unhealthy", "task", "subject"), problems.items())
    rows = [((freshness.task, freshness.subject), freshness) for freshness in health.freshness]
    yield from _gauges(
        ("task", "subject"),
        rows,
        backupd_proof_timestamp_seconds=lambda freshness: _seconds(freshness.last_at),
        backupd_proof_limit_seconds=lambda freshness: freshness.limit_s,
    )


def _run_counts(status: Status) -> Metric:
    outcomes = dict.fromkeys(get_args(Outcome), 0)
    runs: list[tuple[_Labels, Mapping[str, int]]] = [((task.task, task.source), task.runs) for task in status.tasks]
    runs += [(("restore", source), counts) for source, counts in status.restores.items()]
    return _counter("backupd_runs", ("task", "source"), [(values, {**outcomes, **counts}) for values, counts in runs])


def _task_metrics(tasks: tuple[TaskFigures, ...]) -> Iterator[Metric]:
    labels = ("task", "source")
    rows = [((task.task, task.source), task) for task in tasks]
    yield from _gauges(
        labels,
        rows,
        backupd_last_success_timestamp_seconds=lambda task: _seconds(task.last_success_at),
        backupd_run_duration_seconds=lambda task: task.duration_s,
    )
    stages = [((*values, stage), took_s) for values, task in rows for stage, took_s in (task.stages or {}).items()]
    yield _gauge("backupd_stage_duration_seconds", (*labels, "stage"), stages)
    yield from _gauges(
        ("source", "store"),
        [((task.source, task.drill.store), task.drill) for task in tasks if task.drill],
        backupd_drill_recovery_seconds=lambda drill: drill.recovery_s,
        backupd_drill_data_age_seconds=lambda drill: drill.age_s,
        backupd_drill_generation_timestamp_seconds=lambda drill: _seconds(drill.taken_at),
    )


def _source_metrics(sources: tuple[SourceFigures, ...]) -> Iterator[Metric]:
    rows = [((source.source,), source) for source in sources]
    yield from _gauges(
        ("source",),
        rows,
        backupd_snapshot_size_bytes=lambda source: source.snapshot_bytes,
        backupd_archive_size_bytes=lambda source: source.archive_bytes,
        backupd_generation_timestamp_seconds=lambda source: _seconds(source.newest_at),
        backupd_rotation_frozen=lambda source: float(source.frozen),
    )
    yield from _gauges(
        ("source",),
        [(values, source.files) for values, source in rows if source.files],
        backupd_files=lambda files: float(files.files),
        backupd_files_size_bytes=lambda files: float(files.size_bytes),
    )
    counts = [((*values, "verified"), source.verified) for values, source in rows]
    counts += [((*values, "damaged"), source.generations - source.verified) for values, source in rows]
    yield _gauge("backupd_generations", ("source", "state"), counts)


def _point_metrics(status: Status) -> Iterator[Metric]:
    yield _gauge("backupd_points", (), [((), status.points)])
    yield from _gauges(
        (),
        [((), point) for point in [status.point] if point],
        backupd_point_timestamp_seconds=lambda point: point.taken_at.timestamp(),
        backupd_point_spread_seconds=lambda point: point.spread_ms / 1000,
        backupd_point_parts=lambda point: float(len(point.parts)),
    )


def _message_metrics(messages: MessageFigures) -> Iterator[Metric]:
    yield from _gauges(
        (),
        [((), messages)],
        backupd_messages_waiting=lambda messages: messages.waiting,
        backupd_message_last_success_timestamp_seconds=lambda messages: _seconds(messages.accepted_at),
        backupd_message_last_failure_timestamp_seconds=lambda messages: _seconds(messages.refused_at),
    )


def _ping_metrics(pings: tuple[PingRecord, ...]) -> Iterator[Metric]:
    labels = ("task", "source")
    rows = [((ping.task, ping.source), ping) for ping in pings]
    counts = [(values, {"accepted": ping.accepted, "failed": ping.failed}) for values, ping in rows]
    yield _counter("backupd_pings", labels, counts)
    yield from _gauges(
        labels,
        rows,
        backupd_ping_last_success_timestamp_seconds=lambda ping: _seconds(ping.accepted_at),
        backupd_ping_last_failure_timestamp_seconds=lambda ping: _seconds(ping.failed_at),
    )


def _gauges(
    labels: _Labels, rows: Iterable[tuple[_Labels, _Figures]], **metrics: Callable[[_Figures], float | None]
) -> Iterator[Metric]:
    """Yield a gauge for each name in `metrics`; `rows` are label values and figures."""
    for name, value in metrics.items():
        yield _gauge(name, labels, [(values, value(figures)) for values, figures in rows])


def _gauge(name: str, labels: _Labels, samples: Iterable[tuple[_Labels, float | None]]) -> Metric:
    return gauge(name, _HELP[name], labels, samples)


def _counter(name: str, labels: _Labels, rows: Iterable[tuple[_Labels, Mapping[str, int]]]) -> Metric:
    """Return a counter with the further label `outcome`; `rows` are label values and counts by outcome."""
    family = CounterMetricFamily(name, _HELP[name], labels=(*labels, "outcome"))
    for values, counts in rows:
        for outcome, count in counts.items():
            family.add_metric([printable(value) for value in (*values, outcome)], count)
    return family


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()
