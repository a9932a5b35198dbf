"""What stands at the top of the page: the three ages with their limits, and what to do next; pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from backupd.health import STORE_UNREADABLE, Standing, Trouble, within_limit
from backupd.service.status import Status, TaskFigures
from backupd.service.survey import Survey
from backupd.service.web.phrases import PHRASES
from backupd.service.web.tongue import Tongue

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


def mood_of(survey: Survey) -> Mood:
    """Return the colour of the whole."""
    return _MOODS[survey.stage]


def cards(survey: Survey, tongue: Tongue) -> tuple[Card, ...]:
    """Return a card for each proof that has a limit, and one for each kind that is not set up."""
    return tuple(card for task in PROOFS for card in _cards(task, survey, tongue))


def to_dos(survey: Survey, tongue: Tongue) -> tuple[ToDo, ...]:
    """Return what is not well and what to do about it, the gravest first; empty where nothing is."""
    found = [ToDo("", tongue.say(key)) for key in _beginnings(survey)]
    unread = (f"unread.{name}" for name in survey.unread)
    found += [ToDo(tongue.say(key), tongue.say(f"advice.{key}")) for key in unread]
    found += [_of_trouble(trouble, tongue) for trouble in _told(survey)]
    found += [_failure(task, survey.status.taken_at, tongue) for task in survey.failures]
    found += _unheard(survey.status, tongue)
    if survey.stage == "degraded" and not found:
        found += [
            ToDo("", tongue.say("next.degraded-day", source=history.source))
            for history in survey.histories
            if history.last_state not in ("none", "verified")
        ]
    return tuple(found)


def _unheard(status: Status, tongue: Tongue) -> Iterator[ToDo]:
    """Tell what does not get through: whoever waits for it would never know."""
    advice = tongue.say("advice.unheard")
    if status.messages.failing:
        yield ToDo(tongue.say("unheard.messages", count=status.messages.waiting), advice)
    for ping in status.pings:
        if ping.failing:
            name = ", ".join(filter(None, (tongue.task(ping.task), ping.source)))
            yield ToDo(tongue.say("unheard.ping", ping=name), advice, tongue.quote(ping.reason))


def _beginnings(survey: Survey) -> tuple[str, ...]:
    if survey.stage == "first-day":
        return ("next.first-day",)
    if survey.stage != "empty":
        return ()
    return ("next.empty", "next.empty.replica") if survey.replicas else ("next.empty",)


def _told(survey: Survey) -> Iterable[Trouble]:
    """Return the troubles that are not told already: by what could not be read, or by there being no copy at all."""
    troubles = survey.status.health.troubles
    if survey.stage == "first-day":
        return (trouble for trouble in troubles if trouble.kind != "never")
    if "store" in survey.unread:
        return (trouble for trouble in troubles if trouble.kind not in ("never", "unknown"))
    if survey.stage == "empty":
        return (trouble for trouble in troubles if (trouble.kind, trouble.task) != ("never", "backup"))
    return troubles


def _cards(task: str, survey: Survey, tongue: Tongue) -> Iterator[Card]:
    standings = [standing for standing in survey.status.health.standings if standing.task == task]
    yield from (_card(standing, survey, tongue) for standing in standings)
    if not standings:
        word, advice = tongue.say("not-set-up"), tongue.say(f"unset.{task}")
        yield Card(tongue.say(f"proof.{task}"), "", "warn", word, "", None, "", 0.0, "", advice)


def _card(standing: Standing, survey: Survey, tongue: Tongue) -> Card:
    now = survey.status.health.checked_at
    well = within_limit(standing, now)
    age_s = (now - standing.last_at).total_seconds() if standing.last_at else 0.0
    due = min((run.at for run in survey.next_runs if _renews(run.task, run.source, standing)), default=None)
    return Card(
        title=tongue.say(f"proof.{standing.task}"),
        subject=tongue.quote(standing.subject),
        mood="good" if well else "warn" if survey.stage == "first-day" else "bad",
        word=tongue.say(_word(standing, well=well, age_s=age_s)),
        age=_age(standing, age_s, tongue),
        at=standing.last_at,
        limit=tongue.say("limit", limit=tongue.span(standing.limit_s)),
        share=min(1.0, max(0.0, age_s / standing.limit_s)) if standing.last_at and standing.limit_s else 0.0,
        # What was never done is done at once, and tried again until it succeeds.
        next_at=tongue.say("next-run", at=tongue.at(due)) if due and standing.last_at else "",
    )


def _renews(task: str, source: str, standing: Standing) -> bool:
    """Tell whether a run brings this proof anew; how a drill's run is named is its own affair."""
    return task == standing.task and (task == "drill" or source == standing.subject)


def _word(standing: Standing, *, well: bool, age_s: float) -> str:
    if well:
        return "within"
    if standing.last_at is None:
        return "none"
    return "clock" if age_s < 0 else "beyond"


def _age(standing: Standing, age_s: float, tongue: Tongue) -> str:
    if standing.last_at is None:
        return tongue.say("age.never")
    return tongue.say("age.ago" if age_s >= 0 else "age.ahead", age=tongue.span(abs(age_s)))


def _of_trouble(trouble: Trouble, tongue: Tongue) -> ToDo:
    if trouble.kind == "unknown":
        advice = tongue.say("advice.store") if trouble.words == STORE_UNREADABLE else ""
        return ToDo(tongue.known(trouble.words), advice)
    key = f"trouble.{trouble.kind}"
    key = key if key in PHRASES else f"{key}.{trouble.task}"
    advice = f"advice.{trouble.kind}" if f"advice.{trouble.kind}" in PHRASES else f"advice.{trouble.task}"
    return ToDo(
        what=tongue.say(
            key, subject=trouble.subject, age=tongue.span(trouble.age_s), limit=tongue.span(trouble.limit_s)
        )
        if key in PHRASES
        else tongue.quote(str(trouble)),
        advice=tongue.say(advice) if advice in PHRASES else "",
    )


def _failure(task: TaskFigures, now: datetime, tongue: Tongue) -> ToDo:
    age = tongue.span(max(0.0, (now - task.failed_at).total_seconds())) if task.failed_at else ""
    return ToDo(
        what=tongue.say("failure", task=tongue.task(task.task), source=task.source, age=age),
        advice=tongue.say("to-do.says", hint=task.hint) if task.hint else "",
        quoted=tongue.quote(task.error),
    )
