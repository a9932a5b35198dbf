"""The HTTP responses as values: text, and the JSON of /livez, /health and /api/status.

docs/status.schema.json explains each field of /api/status.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from http import HTTPStatus
from typing import Any, Final

from backupd import __version__
from backupd.health import Freshness, Health, within_limit
from backupd.problems import Problem
from backupd.runbook import runbook_address
from backupd.status.model import History, SourceFigures, SourceHistory

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class WebResponse:
    """One response, the same for every client."""

    status: HTTPStatus
    media_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def text_response(status: HTTPStatus, *lines: str, headers: Mapping[str, str] | None = None) -> WebResponse:
    """Return lines of plain text."""
    return WebResponse(status, _TEXT, "".join(f"{line}\n" for line in lines).encode(), headers or {})


def error_response(status: HTTPStatus, error: str, hint: str, headers: Mapping[str, str] | None = None) -> WebResponse:
    """Return an error as JSON: what is wrong, and what to do next."""
    return replace(json_response(status, {"error": error, "hint": hint}), headers=headers or {})


def livez_response(reasons: tuple[str, ...]) -> WebResponse:
    """Return 200 while `reasons`, why the daemon does not work, are empty, else 503."""
    return json_response(
        HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK, {"alive": not reasons, "reasons": reasons}
    )


def health_response(health: Health) -> WebResponse:
    """Return 200 while everything is healthy, else 503; ages are in seconds at the time of the check."""
    facts = {
        "healthy": health.healthy,
        "checked_at": _iso(health.checked_at),
        "reasons": health.reasons,
        "warnings": health.warnings,
        "problems": [problem_facts(problem) for problem in health.problems],
        "freshness": [freshness_facts(freshness, health.checked_at) for freshness in health.freshness],
    }
    return json_response(HTTPStatus.OK if health.healthy else HTTPStatus.SERVICE_UNAVAILABLE, facts)


def problem_facts(problem: Problem) -> dict[str, object]:
    """Return one problem for everyone: without the error text of a run, which may name paths."""
    return {
        "kind": problem.kind,
        "severity": problem.severity,
        "task": problem.task,
        "subject": problem.subject,
        "cause": problem.cause,
        "since": _iso(problem.since),
        "headline": str(problem),
        "next_step": problem.next_step,
    }


def freshness_facts(freshness: Freshness, now: datetime) -> dict[str, object]:
    """Return the age of the latest backup, off-site copy or drill, and its limit."""
    last_at = freshness.last_at
    return {
        "task": freshness.task,
        "subject": freshness.subject,
        "last_at": _iso(last_at),
        "age_s": None if last_at is None else round((now - last_at).total_seconds(), 3),
        "limit_s": freshness.limit_s,
        "within_limit": within_limit(freshness, now),
    }


def timeout_response(key: str, timeout_s: float) -> WebResponse:
    """Return 503, because no status was available within `timeout_s`; `key` is the field that is false."""
    return json_response(HTTPStatus.SERVICE_UNAVAILABLE, {key: False, "reasons": [f"no answer within {timeout_s:g} s"]})


def internal_error_response() -> WebResponse:
    """Return 500 without details, because anyone may read it; the log has them."""
    return error_response(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error", "see the log of backupd")


def status_response(history: History) -> WebResponse:
    """Return everything in `history` as JSON."""
    text = json.dumps(_plain(status_facts(history)), allow_nan=False)  # an indent makes it several times as slow
    return WebResponse(HTTPStatus.OK, _JSON, text.encode() + b"\n")


def status_facts(history: History) -> dict[str, Any]:
    """Return the fields of /api/status; times are aware, days are of the configured time zone."""
    status, health = history.status, history.status.health
    figures = {source.source: source for source in status.sources}
    return {
        "instance": history.instance.name,
        "version": __version__,
        "sqlite_version": status.sqlite_version,
        "taken_at": status.taken_at,
        "started_at": status.started_at,
        "timezone": history.timezone,
        "state": history.stage,
        "healthy": health.healthy,
        "reasons": health.reasons,
        "warnings": health.warnings,
        "problems": [
            problem_facts(problem)
            | {
                "detail": problem.detail,
                "hint": problem.hint,
                "runbook": runbook_address(problem.topic, docs_url=history.instance.docs_url),
            }
            for problem in health.problems
        ],
        "unread": history.unread,
        "exposed": history.exposed,
        "proofs": [freshness_facts(freshness, health.checked_at) for freshness in health.freshness],
        "tasks": [asdict(task) | {"stages": task.stages or {}} for task in status.tasks],
        "next_runs": [asdict(run) for run in status.next_runs],
        "restore_points": [asdict(point) for point in history.points],
        "sources": [_source(source, figures.get(source.source)) for source in history.histories],
        "drills": [asdict(drill) for drill in history.drills],
        "replicas": [asdict(replica) for replica in history.replicas],
        "disk": asdict(history.disk) if history.disk else None,
        "messages": asdict(status.messages),
        "pings": [asdict(ping) for ping in status.pings],
        "log": [asdict(line) for line in history.log],
    }


def _source(source: SourceHistory, figures: SourceFigures | None) -> dict[str, Any]:
    return {
        "source": source.source,
        "configured": bool(source.days),
        "frozen": figures.frozen if figures else None,
        "generation_count": source.generation_count,
        "verified_count": figures.verified if figures else None,
        "stored_bytes": source.stored_bytes,
        "files": asdict(source.files) if source.files else None,
        "generations": [_flat(generation) for generation in source.generations],
        "days": [_flat(day) for day in source.days if day.state != "none"],
        "points": [_flat(point) for point in source.points],
    }


def _flat(value: Any) -> dict[str, Any]:  # noqa: ANN401 - a dataclass of plain values
    """Return the fields of a dataclass as they are: there are too many of these to copy them deeply, as asdict does."""
    return {name: getattr(value, name) for name in value.__slots__}


def _plain(value: Any) -> Any:  # noqa: ANN401 - values of any type become values of JSON
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, date) else value  # a datetime is a date


def json_response(status: HTTPStatus, facts: Mapping[str, object]) -> WebResponse:
    """Return facts as JSON."""
    return WebResponse(status, _JSON, json.dumps(facts, indent=2).encode() + b"\n")


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds")
