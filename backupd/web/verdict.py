"""What the page begins with, as values: the state in a sentence, and what to do; pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from backupd.formatting import human_duration
from backupd.problems import Problem
from backupd.runbook import Topic
from backupd.status.model import History, NextRun, Status, Unread
from backupd.web.hints import translate_hint
from backupd.web.localizer import Localizer
from backupd.web.translations import TRANSLATIONS

PROOFS: Final = ("backup", "replicate", "drill")
_NIGHT_BEGINS, _NIGHT_ENDS = 21, 6  # hours in the time zone of the schedule
_NIGHT: Final = timedelta(hours=12)
_UNREAD_TOPICS: Final[dict[Unread, Topic]] = {"store": "unhealthy", "catalog": "catalog-broken", "log": "unhealthy"}


@dataclass(frozen=True, slots=True)
class ToDo:
    """One problem, the next step as `advice`, and as `quoted` the error text of the run, which is not translated.

    `topic` is the section of the runbook on it, `hint` that of the run, if it could not be translated.
    """

    what: str
    advice: str
    quoted: str = ""
    topic: Topic | None = None
    hint: str = ""


def headline(history: History, localizer: Localizer) -> str:
    """Return the state in one sentence: what is wrong, and how much more; or when the first backup starts."""
    if history.stage == "first-day" and (due := due_run(history, "backup")):
        return localizer.translate("first-day.now" if due.overdue else "first-day.at", at=localizer.at(due.at))
    problems = history.status.health.problems if history.stage in ("failing", "degraded") else ()
    if not problems:
        return localizer.translate(f"stage.{history.stage}")
    words = _translated(f"state.{_state(problems[0], history, localizer)}", problems[0], history.status, localizer)
    more = len(problems) - 1
    return f"{words} {localizer.translate('state.more', count=more)}" if more else words


def to_dos(history: History, localizer: Localizer) -> tuple[ToDo, ...]:
    """Return the problems and their next steps, the most severe first; empty where there are none."""
    found = list(_first_steps(history, localizer))
    found += [
        ToDo(localizer.translate(f"unread.{part}"), localizer.translate(f"advice.{part}"), topic=_UNREAD_TOPICS[part])
        for part in history.unread
    ]
    found += [_to_do(problem, history, localizer) for problem in _problems_to_show(history)]
    found += _undelivered(history.status, localizer)
    if history.exposed:
        found.append(ToDo(localizer.translate("exposed"), localizer.translate("advice.exposed")))
    if history.stage == "degraded" and not found:
        found += [
            ToDo("", localizer.translate("next.degraded-day", source=source.source), topic="runs-degraded")
            for source in history.histories
            if source.last_state not in ("none", "verified")
        ]
    return tuple(found)


def due_run(history: History, task: str | None, subject: str = "") -> NextRun | None:
    """Return the next run of `task` for `subject`; of any subject without one, and for a drill."""
    runs = [run for run in history.status.next_runs if run.task == task]
    if subject and task != "drill":  # whose runs have the name of their source, not of its store
        runs = [run for run in runs if run.source == subject]
    return min(runs, key=lambda run: run.at, default=None)


def first_run(due: NextRun | None, localizer: Localizer) -> str:
    """Return when the first run of a task starts; empty where that is not known."""
    if due is None:
        return ""
    return localizer.translate("first-run.now" if due.overdue else "first-run.at", at=localizer.at(due.at))


def _first_steps(history: History, localizer: Localizer) -> Iterator[ToDo]:
    """Yield what to do while there is no copy."""
    if history.stage == "first-day":
        yield ToDo("", localizer.translate("next.first-day"))
    elif history.stage == "empty":
        yield ToDo("", localizer.translate("next.empty"), topic="restore")
        if history.replicas:
            yield ToDo("", localizer.translate("next.empty.replica"), topic="restore")


def _problems_to_show(history: History) -> tuple[Problem, ...]:
    """Return the problems, except those that the unreadable parts or the missing first copy already imply."""
    implied = {"store", "catalog"} & set(history.unread)
    no_copy = {"first-day": PROOFS, "empty": ("backup",)}.get(history.stage, ())
    return tuple(
        problem
        for problem in history.status.health.problems
        if problem.kind not in implied and not (problem.kind == "never" and problem.task in no_copy)
    )


def _undelivered(status: Status, localizer: Localizer) -> Iterator[ToDo]:
    """Yield messages and pings that failed: their receivers cannot notice."""
    advice = localizer.translate("advice.unheard")
    if status.messages.failing:
        what = localizer.translate("unheard.messages", count=status.messages.waiting)
        yield ToDo(what, advice, topic="undelivered")
    for ping in status.pings:
        if ping.failing:
            name = ", ".join(filter(None, (localizer.task(ping.task), ping.source)))
            what = localizer.translate("unheard.ping", ping=name)
            yield ToDo(what, advice, localizer.quote(ping.reason), "undelivered")


def _to_do(problem: Problem, history: History, localizer: Localizer) -> ToDo:
    """Return a problem by the text of its kind, or of its kind and task."""
    steps = [_translated(key, problem, history.status, localizer)] if (key := _phrase("advice", problem)) else []
    if problem.kind == "never":
        steps.insert(0, first_run(due_run(history, problem.task, problem.subject), localizer))
    if problem.restore:
        steps.append(localizer.translate(_of_kind("advice.restore", problem), command=problem.restore))
    hint = translate_hint(problem.hint, localizer.language)
    if hint:
        steps.append(localizer.translate("to-do.says", hint=hint))
    what = _phrase("problem", problem)
    return ToDo(
        what=_translated(what, problem, history.status, localizer) if what else localizer.quote(str(problem)),
        advice=" ".join(filter(None, steps)),
        quoted=localizer.quote(problem.detail),
        topic=problem.topic,
        hint="" if hint else localizer.quote(problem.hint),
    )


def _state(problem: Problem, history: History, localizer: Localizer) -> str:
    """Return which sentence states the problem, in the words of an operator in the morning."""
    kind, task = problem.kind, problem.task
    if kind == "failed" and task == "backup" and problem.since:
        now, since = (localizer.local(moment) for moment in (history.status.taken_at, problem.since))
        if now - since < _NIGHT and _is_night(since):
            return "failed.tonight" if _is_night(now) else "failed.last-night"
    if kind == "failed" and problem.runs > 1 and f"state.failed-again.{task}" in TRANSLATIONS:
        return f"failed-again.{task}"
    return f"{kind}.{task}" if kind in ("never", "late", "failed") else kind


def _is_night(moment: datetime) -> bool:
    return not _NIGHT_ENDS <= moment.hour < _NIGHT_BEGINS


def _translated(key: str, problem: Problem, status: Status, localizer: Localizer) -> str:
    lasted_s = (status.taken_at - problem.since).total_seconds() if problem.since else 0.0
    return localizer.translate(
        _of_kind(key, problem),
        subject=problem.subject,
        task=localizer.task(problem.task or ""),
        runs=problem.runs,
        reference=problem.reference,
        age=human_duration(problem.age_s or max(0.0, lasted_s)),
        limit=human_duration(problem.limit_s),
    )


def _of_kind(key: str, problem: Problem) -> str:
    """Return the key of the text on a set of files, where the problem is of one and there is another text for it."""
    of_files = f"{key}.files"
    return of_files if problem.of_files and of_files in TRANSLATIONS else key


def _phrase(part: str, problem: Problem) -> str:
    keys = (f"{part}.{problem.kind}", f"{part}.{problem.kind}.{problem.task}", f"{part}.{problem.task}")
    return next((key for key in keys if key in TRANSLATIONS), "")
