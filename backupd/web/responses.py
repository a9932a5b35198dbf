"""The answers themselves: pure functions from what the service says to status code and bytes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus

from backupd.health import Freshness, Health, within_limit
from backupd.problems import Problem

_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, whoever asked."""

    status: HTTPStatus
    media_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def text(status: HTTPStatus, *lines: str) -> Answer:
    """Answer with lines for people."""
    return Answer(status, _TEXT, "".join(f"{line}\n" for line in lines).encode())


def livez(reasons: tuple[str, ...]) -> Answer:
    """Answer 200 while `reasons`, which say why the daemon does not work, are empty."""
    return _json(_red_if(bool(reasons)), {"alive": not reasons, "reasons": reasons})


def health(judged: Health) -> Answer:
    """Answer 200 while all is well; each age is in seconds, at the time of the judgement."""
    facts = {
        "healthy": judged.healthy,
        "checked_at": _iso(judged.checked_at),
        "reasons": judged.reasons,
        "warnings": judged.warnings,
        "problems": [problem_facts(problem) for problem in judged.problems],
        "freshness": [standing_facts(standing, judged.checked_at) for standing in judged.freshness],
    }
    return _json(_red_if(not judged.healthy), facts)


def problem_facts(problem: Problem) -> dict[str, object]:
    """Return one problem as JSON tells it to everyone: without the words of a run, which may name paths."""
    return {
        "kind": problem.kind,
        "severity": problem.severity,
        "task": problem.task,
        "subject": problem.subject,
        "cause": problem.cause,
        "since": None if problem.since is None else _iso(problem.since),
        "headline": str(problem),
        "next_step": problem.next_step,
    }


def standing_facts(standing: Freshness, now: datetime) -> dict[str, object]:
    """Return how old one kind of proof is, as JSON tells it."""
    last_at = standing.last_at
    return {
        "task": standing.task,
        "subject": standing.subject,
        "last_at": None if last_at is None else _iso(last_at),
        "age_s": None if last_at is None else round((now - last_at).total_seconds(), 3),
        "limit_s": standing.limit_s,
        "within_limit": within_limit(standing, now),
    }


def late(key: str, patience_s: float) -> Answer:
    """Answer that the service has said nothing for `patience_s`; `key` is what is false then."""
    return _json(HTTPStatus.SERVICE_UNAVAILABLE, {key: False, "reasons": [f"no answer within {patience_s:g} s"]})


def internal_error() -> Answer:
    """Answer that something unforeseen went wrong, and not what: strangers read this."""
    return _json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "internal error: backupd's log says more"})


def _red_if(red: bool) -> HTTPStatus:  # noqa: FBT001 - the name of the function says what it means
    return HTTPStatus.SERVICE_UNAVAILABLE if red else HTTPStatus.OK


def _json(status: HTTPStatus, facts: Mapping[str, object]) -> Answer:
    return Answer(status, "application/json", json.dumps(facts, indent=2).encode() + b"\n")


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
