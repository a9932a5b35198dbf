"""`/api/status`: all that the page tells, as JSON; docs/status.schema.json explains each field."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from http import HTTPStatus
from typing import Any

from backupd import __version__
from backupd.status.model import History, SourceFigures, SourceHistory, TaskFigures
from backupd.web.responses import Answer, problem_facts, standing_facts


def status_answer(survey: History) -> Answer:
    """Answer with everything that `survey` tells."""
    text = json.dumps(_plain(status_facts(survey)), indent=1, allow_nan=False)
    return Answer(HTTPStatus.OK, "application/json", text.encode() + b"\n")


def status_facts(survey: History) -> dict[str, Any]:
    """Return the fields of the answer; times are aware, days are of the configured time zone."""
    status, health = survey.status, survey.status.health
    figures = {source.source: source for source in status.sources}
    return {
        "version": __version__,
        "sqlite_version": status.sqlite_version,
        "taken_at": status.taken_at,
        "started_at": status.started_at,
        "timezone": survey.timezone,
        "state": survey.stage,
        "healthy": health.healthy,
        "reasons": health.reasons,
        "warnings": health.warnings,
        "problems": [
            problem_facts(problem) | {"detail": problem.detail, "hint": problem.hint} for problem in health.problems
        ],
        "unread": survey.unread,
        "proofs": [standing_facts(standing, health.checked_at) for standing in health.freshness],
        "tasks": [_task(task) for task in status.tasks],
        "next_runs": [asdict(run) for run in status.next_runs],
        "sources": [_source(history, figures.get(history.source)) for history in survey.histories],
        "drills": [asdict(drill) for drill in survey.drills],
        "replicas": [asdict(replica) for replica in survey.replicas],
        "disk": asdict(survey.disk) if survey.disk else None,
        "messages": asdict(status.messages),
        "pings": [asdict(ping) for ping in status.pings],
        "log": [asdict(line) for line in survey.log],
    }


def _task(task: TaskFigures) -> dict[str, Any]:
    return {**asdict(task), "stages": task.stages or {}}


def _source(history: SourceHistory, figures: SourceFigures | None) -> dict[str, Any]:
    return {
        "source": history.source,
        "configured": bool(history.days),
        "frozen": figures.frozen if figures else None,
        "generation_count": history.generation_count,
        "verified_count": figures.verified if figures else None,
        "stored_bytes": history.stored_bytes,
        "generations": [asdict(generation) for generation in history.generations],
        "days": [asdict(day) for day in history.days if day.state != "none"],
        "points": [asdict(point) for point in history.points],
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value of ours comes out as one that JSON knows
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, date) else value  # a datetime is a date
