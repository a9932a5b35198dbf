"""What a message says, word for word, and that it fits everywhere.

After a change that is meant, write the golden files anew, and read the difference:

    PYTHONPATH=tests python tests/notifications/test_message.py --write-golden && git diff tests/golden/messages
"""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from backupd.catalog import CatalogUnavailable, NoticeRecord, RunRecord
from backupd.errors import ErrorKind
from backupd.health import REPEATED_FOR, Failure, Freshness, HealthFacts, find_problems
from backupd.model import Hold, Outcome, Task
from backupd.notifications.message import Message, compose, compose_lines
from backupd.notifications.planner import Notice, plan_notices
from backupd.notifications.problems import FIRST_DAY, Observation, facts_of
from backupd.report import DrillDetails, DrillReport, RunReport

GOLDEN = Path(__file__).parents[1] / "golden" / "messages"
NOW = datetime(2026, 11, 25, 11, 30, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)
OURS = frozenset({"tasks", "notes", "offsite", "local"})
WELL = Observation(HealthFacts((Freshness("backup", "tasks", NOW - HOUR, 93_600),)), OURS)


def failing(
    kind: ErrorKind,
    task: Task = "backup",
    subject: str = "tasks",
    error: str = "no database at /app/data/tasks.db",
    hint: str = "check [sources.tasks].path and the volume mount",
    store: str = "",
    *,
    runs: int = 4,
) -> HealthFacts:
    return replace(WELL.health, failures=(Failure(task, subject, kind, NOW - HOUR, runs, error, hint, store),))


def drill(source: str = "tasks", outcome: Outcome = "done") -> RunRecord:
    drilled = DrillReport("offsite", 748_800)
    report = RunReport("drill", source, NOW - HOUR, DrillDetails(drill=drilled), outcome, duration_s=12.3)
    return RunRecord(1, "drill", source, NOW - HOUR, NOW - HOUR, outcome, None, None, 0, 12.3, report)


HELD = Hold("tasks", "corrupt", NOW - HOUR, "row 7 missing from index i", "tasks-20261124-0400")
SHRUNK = Hold("notes", "shrink", NOW - HOUR, "notes shrank since notes-20261124-0400: 980 of 1000 rows are gone", None)
UNREADABLE = replace(HELD, reason="it is encrypted", unreadable=True)
STANDINGS = (
    Freshness("backup", "tasks", NOW - 30 * HOUR, 93_600),
    Freshness("replicate", "offsite", NOW - 9 * 24 * HOUR, 655_200),
    Freshness("drill", "offsite", NOW + HOUR, 2_901_600),
)
LOOKS = {
    "well": WELL,
    "missing": replace(WELL, health=failing("missing", runs=1)),
    "refused": replace(WELL, health=failing("unusable", error="/app/data/tasks.db is a directory", runs=1)),
    "failed": replace(WELL, health=failing("unreachable", "replicate", "offsite", "no answer", "is it up?")),
    "killed": replace(WELL, health=failing("interrupted", error="interrupted", hint="find out who killed it")),
    "corrupt-and-shrunk": replace(WELL, health=HealthFacts(WELL.health.freshness, (HELD, SHRUNK))),
    "unreadable": replace(WELL, health=HealthFacts(WELL.health.freshness, (UNREADABLE,))),
    "too-old": replace(WELL, health=HealthFacts(STANDINGS)),
    "damaged": replace(WELL, health=replace(WELL.health, damaged=(("tasks-20261120-0400", "tasks"),))),
    "drill-proven": replace(WELL, drills=(drill(),)),
    "drill-failed": replace(WELL, health=failing("unproven", "drill", error="it answered 500", store="offsite")),
    "nothing-can-be-seen": replace(
        WELL,
        health=HealthFacts(
            tuple(replace(standing, last_at=None) for standing in STANDINGS),
            store_unreadable=True,
            catalog_error=CatalogUnavailable("the catalog cannot be used", "run `backupd catalog rebuild`"),
        ),
    ),
}


def said(look: Observation, now: datetime = NOW, told: dict[str, NoticeRecord] | None = None) -> Message | None:
    """Return what is said of `look` by a daemon that has seen it for a day already, so that nothing waits any more."""
    seen = (
        dict(plan_notices(facts_of(look, now - 24 * HOUR), told or {}, now - 24 * HOUR).told) if told is None else told
    )
    unsaid = {key: replace(one, notified_at=None) for key, one in seen.items() if not key.startswith("news")}
    plan = plan_notices(facts_of(look, now), unsaid, now)
    return compose(plan.items, "tasks", BERLIN, now) if plan.items else None


def text_of(message: Message | None) -> str:
    return f"{message.severity}\n{message.title}\n\n{message.body}\n" if message else "nothing\n"


def texts() -> dict[str, str]:
    """Return every golden text by the name of its file."""
    first = plan_notices(facts_of(LOOKS["failed"], NOW), {}, NOW)
    later = NOW + 24 * HOUR
    still = plan_notices(facts_of(LOOKS["failed"], later), first.told, later)
    over = plan_notices(facts_of(WELL, later + HOUR), still.told, later + HOUR)
    return {name: text_of(said(look)) for name, look in LOOKS.items()} | {
        "still": text_of(compose(still.items, "tasks", BERLIN, later)),
        "over": text_of(compose(over.items, "tasks", BERLIN, later + HOUR)),
    }


def test_each_kind_of_trouble_what_lasts_and_what_is_over_reads_as_it_should() -> None:
    assert texts() == {path.stem: path.read_text() for path in GOLDEN.iterdir()}


def test_on_the_first_day_and_for_what_may_pass_nobody_is_woken() -> None:
    never = replace(WELL, health=HealthFacts((Freshness("backup", "tasks", None, 93_600),)))
    plan = plan_notices(facts_of(never, NOW), {}, NOW)
    assert plan.items == ()
    (late,) = plan_notices(facts_of(never, NOW + FIRST_DAY), plan.told, NOW + FIRST_DAY).items
    assert late.headline == "there is no verified backup of tasks yet"
    busy = Failure("backup", "tasks", "busy", NOW, 2)
    plan = plan_notices(facts_of(replace(WELL, health=replace(WELL.health, failures=(busy,))), NOW), {}, NOW)
    assert plan.items == ()
    again, later = replace(busy, runs=3), NOW + REPEATED_FOR
    look = replace(WELL, health=replace(WELL.health, failures=(again,)))
    plan = plan_notices(facts_of(look, later), plan.told, later)
    assert [item.headline for item in plan.items] == [
        "the backup of tasks failed 3 times in a row: something else was using it"
    ]


def test_a_drill_that_is_old_news_is_not_told_when_the_book_is_lost() -> None:
    old = replace(drill(), finished_at=NOW - 48 * HOUR)
    assert said(replace(WELL, drills=(old,))) is None


def test_drills_of_what_others_look_after_are_their_affair() -> None:
    assert said(replace(WELL, drills=(drill("theirs"),))) is None


def test_what_is_unhealthy_is_told_as_a_failure_and_a_warning_as_a_warning() -> None:
    for look in LOOKS.values():
        severities = {str(problem): problem.severity for problem in find_problems(look.health, NOW)}
        moods = {trouble.headline: trouble.severity for trouble in facts_of(look, NOW).troubles}
        assert moods == {
            headline: "failure" if severity == "unhealthy" else "warning" for headline, severity in severities.items()
        }


def test_whatever_is_quoted_a_message_is_short_and_has_no_control_characters() -> None:
    hostile = Notice("failure", "x\x1b[2J\nfake" + "y" * 10_000, "z" * 10_000, NOW, "\x00")
    message = compose((hostile,) * 50, "a\nb" + "n" * 1000, UTC, NOW)
    assert len(message.body) < 4_000
    assert len(message.title) < 500
    assert message.body.replace("\n", "").isprintable()
    assert message.title.isprintable()
    assert message.title.endswith("n…: 50 troubles")
    assert "and 4" in message.body
    lines = compose_lines(["healthy", "x" * 1000], "how it stands", "tasks", NOW)
    assert lines.title == "backupd tasks: how it stands"
    assert len(lines.body) < 500


def test_the_same_message_has_the_same_reference_and_another_has_another() -> None:
    one, same = (compose((Notice("info", "x"),), "tasks", UTC, NOW) for _ in range(2))
    assert one == same
    assert one.reference in one.body
    assert compose((Notice("info", "x"),), "tasks", UTC, NOW + HOUR).reference != one.reference


if __name__ == "__main__" and "--write-golden" in sys.argv:
    for name, text in texts().items():
        (GOLDEN / f"{name}.txt").write_text(text)
