"""Hooks around a backup: a command or a URL before the first copy, and one after the last is published.

`after` is called whatever happened, and again where a signal cut it off. Only a `before` that asks to try again later
has changed nothing that `after` would have to put right.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from backupd.errors import HookFailed, Postponed, TemporaryError
from backupd.model import Outcome
from backupd.system.command import Command
from backupd.system.os_errors import foreseen_error
from backupd.system.process import environment_without
from backupd.system.signals import delay_signals
from backupd.tasks.events import HookCalled, HookEvent
from backupd.tasks.requests import Hook, Hooks
from backupd.tasks.run import BackupRun

# For `after` once the run is told to end: the daemon kills it a second later.
STOPPING_S: Final = 3.0
_NOT_NOW: Final = frozenset((HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS))
_WORST_FIRST: Final[tuple[Outcome, ...]] = ("failed", "degraded", "published", "unchanged")
_HINTS: Final[Mapping[str, str]] = {
    "late": "let the hook end sooner, or raise hooks.timeout_s",
    "unusable": "check hooks.before and PATH",
}


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a hook is told; several sources and generations have spaces between them."""

    event: HookEvent
    source: str
    generation: str = ""
    outcome: str = ""

    def environ(self) -> dict[str, str]:
        """Return the variables of a command."""
        own = {f"BACKUPD_{name.upper()}": text for name, text in asdict(self).items() if name != "event"}
        return environment_without(frozenset(), os.environ) | own


@dataclass(frozen=True, slots=True)
class _Answer:
    """How a hook ended; `failure` is in words, empty where it succeeded."""

    failure: str = ""
    how: Literal["ended", "late", "unusable"] = "ended"
    not_now: bool = False
    said: str = ""  # the last line of a command


@contextmanager
def hooks(wanted: Hooks, runs: Sequence[BackupRun]) -> Iterator[None]:
    """Call the hooks around the block, which makes the backups of `runs`.

    A failure of `after` degrades `runs`, and changes nothing else. Raises HookFailed, Postponed and ProcessRefused:
    then the block was not entered.
    """
    try:
        try:
            if wanted.before is not None:
                _before(wanted.before, wanted.timeout_s, runs)
            yield
        except Postponed:
            raise
        except Exception:
            _after(wanted.after, wanted.timeout_s, runs, "failed")
            raise
        _after(wanted.after, wanted.timeout_s, runs, _worst(runs))
    except (SystemExit, KeyboardInterrupt):
        _after(wanted.after, min(wanted.timeout_s, STOPPING_S), runs, "failed")
        raise


def _before(hook: Hook, timeout_s: float, runs: Sequence[BackupRun]) -> None:
    answer = _call(hook, _Facts("before", _sources(runs)), timeout_s, runs)
    if answer.not_now:
        raise Postponed(
            f"hooks.before asks to try again later ({answer.failure})",
            "run it again later; the daemon does so by itself",
        )
    if answer.failure:
        hint = _HINTS.get(answer.how, "look at the log of the app, or run the hook by hand (docs/hooks.md)")
        raise HookFailed(f"hooks.before: {answer.failure}", hint)


def _after(hook: Hook | None, timeout_s: float, runs: Sequence[BackupRun], outcome: Outcome) -> None:
    if hook is None:
        return
    generations = " ".join(run.report.generation for run in runs if run.report.generation)
    try:
        failure = _call(hook, _Facts("after", _sources(runs), generations, outcome), timeout_s, runs).failure
    except Exception as error:
        foreseen = foreseen_error(error)
        if foreseen is None:
            raise
        failure = foreseen.message
    if failure:
        for run in runs:
            run.warn(f"hooks.after: {failure}")


def _sources(runs: Sequence[BackupRun]) -> str:
    return " ".join(run.report.subject for run in runs)


def _worst(runs: Sequence[BackupRun]) -> Outcome:
    outcomes = {run.outcome for run in runs}
    return next((one for one in _WORST_FIRST if one in outcomes), "failed")


def _call(hook: Hook, facts: _Facts, timeout_s: float, runs: Sequence[BackupRun]) -> _Answer:
    """Call `hook` and report that. Raises ProcessRefused, OSError."""
    began = time.monotonic()
    try:
        answer = _post(hook.url, facts, timeout_s) if hook.url else _run(hook.command, facts, timeout_s)
    finally:
        for run in runs:
            run.add_stage(f"hook {facts.event}", time.monotonic() - began)
    runs[0].emit(HookCalled(facts.event, facts.source, answer.failure, answer.said, not_now=answer.not_now))
    return answer


def _run(words: tuple[str, ...], facts: _Facts, timeout_s: float) -> _Answer:
    with Command(words, facts.environ(), Path("/")) as command:
        end = command.wait(timeout_s)
    not_now = facts.event == "before" and end.code == TemporaryError.exit_code
    return _Answer(end.failure, end.how, not_now, "" if end.failure else command.last_line())


def _post(url: str, facts: _Facts, timeout_s: float) -> _Answer:
    with delay_signals():  # `after` needs it too
        from backupd.system.http import HttpRequest, RequestFailed, send_request  # slow to import, and rarely needed

    request = HttpRequest(url, json.dumps(asdict(facts)).encode(), headers={"Content-Type": "application/json"})
    query = urlsplit(url).query
    shown = url.partition("?")[0]
    try:
        response = send_request(request, timeout_s=timeout_s, direct=True)
    except RequestFailed as error:
        return _Answer(f"{shown}: {error}")
    if response.ok:
        return _Answer()
    return _Answer(f"{shown} {response.words(query)}", not_now=facts.event == "before" and response.status in _NOT_NOW)
