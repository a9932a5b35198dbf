"""What stands at the top of the page: the three ages with their limits, and what to do next; pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from backupd.health import Freshness, within_limit
from backupd.problems import Problem
from backupd.status.model import History, NextRun, Status
from backupd.web.localizer import Localizer
from backupd.web.translations import TRANSLATIONS

Mood = Literal["good", "warn", "bad"]

PROOFS: Final = ("backup", "replicate", "drill")
_MOODS: Final[dict[str, Mood]] = {
    "healthy": "good",
    "degraded": "warn",
    "failing": "bad",
    "empty": "bad",
    "first-day": "warn",
}


@dataclass(frozen=True, slots=True)
class Card:
    """One proof: how old it is beside how old it may be (`share`, 0 to 1, of the limit), and a word for how that is."""

    title: str
    subject: str
    mood: Mood
    word: str
    age: str
    at: datetime | None
    limit: str
    share: float
    next_at: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class ToDo:
    """One thing that is not well: `quoted` is what a run said of it, in the log's words, and `advice` the next step."""

    what: str
    advice: str
    quoted: str = ""


def mood_of(survey: History) -> Mood:
    """Return the colour of the whole."""
    return _MOODS[survey.stage]


def cards(survey: History, tongue: Localizer) -> tuple[Card, ...]:
    """Return a card for each proof that has a limit, and one for each kind that is not set up."""
    return tuple(card for task in PROOFS for card in _cards(task, survey, tongue))


def to_dos(survey: History, tongue: Localizer) -> tuple[ToDo, ...]:
    """Return what is not well and what to do about it, the gravest first; empty where nothing is."""
    found = [ToDo("", tongue.say(key)) for key in _beginnings(survey)]
    unread = (f"unread.{name}" for name in survey.unread)
    found += [ToDo(tongue.say(key), tongue.say(f"advice.{key}")) for key in unread]
    found += [_to_do(problem, survey.status.taken_at, tongue) for problem in _not_told_yet(survey)]
    found += _unheard(survey.status, tongue)
    if survey.stage == "degraded" and not found:
        found += [
            ToDo("", tongue.say("next.degraded-day", source=history.source))
            for history in survey.histories
            if history.last_state not in ("none", "verified")
        ]
    return tuple(found)


def _unheard(status: Status, tongue: Localizer) -> Iterator[ToDo]:
    """Tell what does not get through: whoever waits for it would never know."""
    advice = tongue.say("advice.unheard")
    if status.messages.failing:
        yield ToDo(tongue.say("unheard.messages", count=status.messages.waiting), advice)
    for ping in status.pings:
        if ping.failing:
            name = ", ".join(filter(None, (tongue.task(ping.task), ping.source)))
            yield ToDo(tongue.say("unheard.ping", ping=name), advice, tongue.quote(ping.reason))


def _beginnings(survey: History) -> tuple[str, ...]:
    if survey.stage == "first-day":
        return ("next.first-day",)
    if survey.stage != "empty":
        return ()
    return ("next.empty", "next.empty.replica") if survey.replicas else ("next.empty",)


def _not_told_yet(survey: History) -> Iterable[Problem]:
    """Return the problems that are not told already: by what could not be read, or by there being no copy at all."""
    told = {"store", "catalog"} & set(survey.unread)
    problems = [problem for problem in survey.status.health.problems if problem.kind not in told]
    if survey.stage == "first-day":
        return (problem for problem in problems if problem.kind != "never")
    if survey.stage == "empty":
        return (problem for problem in problems if (problem.kind, problem.task) != ("never", "backup"))
    return problems


def _cards(task: str, survey: History, tongue: Localizer) -> Iterator[Card]:
    freshness = [standing for standing in survey.status.health.freshness if standing.task == task]
    yield from (_card(standing, survey, tongue) for standing in freshness)
    if not freshness:
        word, advice = tongue.say("not-set-up"), tongue.say(f"unset.{task}")
        yield Card(tongue.say(f"proof.{task}"), "", "warn", word, "", None, "", 0.0, "", advice)


def _card(standing: Freshness, survey: History, tongue: Localizer) -> Card:
    now = survey.status.health.checked_at
    well = within_limit(standing, now)
    age_s = (now - standing.last_at).total_seconds() if standing.last_at else 0.0
    runs = (run for run in survey.status.next_runs if _renews(run.task, run.source, standing))
    due = min(runs, key=lambda run: run.at, default=None)
    return Card(
        title=tongue.say(f"proof.{standing.task}"),
        subject=tongue.quote(standing.subject),
        mood="good" if well else "warn" if survey.stage == "first-day" else "bad",
        word=tongue.say(_word(standing, well=well, age_s=age_s)),
        age=_age(standing, age_s, tongue),
        at=standing.last_at,
        limit=tongue.say("limit", limit=tongue.span(standing.limit_s)),
        share=min(1.0, max(0.0, age_s / standing.limit_s)) if standing.last_at and standing.limit_s else 0.0,
        next_at=_next_at(due, tongue) if due else "",
    )


def _next_at(run: NextRun, tongue: Localizer) -> str:
    if run.overdue:
        return tongue.say("next-run.now")
    return tongue.say("next-run.retry" if run.retry else "next-run", at=tongue.at(run.at))


def _renews(task: str, source: str, standing: Freshness) -> bool:
    """Tell whether a run brings this proof anew; how a drill's run is named is its own affair."""
    return task == standing.task and (task == "drill" or source == standing.subject)


def _word(standing: Freshness, *, well: bool, age_s: float) -> str:
    if well:
        return "within"
    if standing.last_at is None:
        return "none"
    return "clock" if age_s < 0 else "beyond"


def _age(standing: Freshness, age_s: float, tongue: Localizer) -> str:
    if standing.last_at is None:
        return tongue.say("age.never")
    return tongue.say("age.ago" if age_s >= 0 else "age.ahead", age=tongue.span(abs(age_s)))


def _to_do(problem: Problem, now: datetime, tongue: Localizer) -> ToDo:
    """Tell a problem: by the phrase of its kind, or of its kind and task."""
    what, advice = (_phrase(part, problem) for part in ("problem", "advice"))
    lasted_s = (now - problem.since).total_seconds() if problem.since else 0.0
    values: dict[str, object] = {
        "subject": problem.subject,
        "task": tongue.task(problem.task or ""),
        "runs": problem.runs,
        "reference": problem.reference,
        "age": tongue.span(problem.age_s or max(0.0, lasted_s)),
        "limit": tongue.span(problem.limit_s),
    }
    steps = [tongue.say(advice, **values)] if advice else []
    if problem.restore:
        steps.append(tongue.say("advice.restore", command=problem.restore))
    if problem.hint:
        steps.append(tongue.say("to-do.says", hint=problem.hint))
    return ToDo(
        what=tongue.say(what, **values) if what else tongue.quote(str(problem)),
        advice=" ".join(steps),
        quoted=tongue.quote(problem.detail),
    )


def _phrase(part: str, problem: Problem) -> str:
    keys = (f"{part}.{problem.kind}", f"{part}.{problem.kind}.{problem.task}", f"{part}.{problem.task}")
    return next((key for key in keys if key in TRANSLATIONS), "")
