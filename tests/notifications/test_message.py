"""The exact text of messages, which fits every service.

After an intended change, write the golden files again, and read the difference:

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
from backupd.notifications.planner import FIRST_DAY, Notice, Observation, facts_of, plan_notices
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
OBSERVATIONS = {
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


def message_for(look: Observation, record: dict[str, NoticeRecord] | None = None) -> Message | None:
    """Return the message about `look` when it has lasted for a day, so that no delay holds it back."""
    yesterday = NOW - 24 * HOUR
    known = dict(plan_notices(facts_of(look, yesterday), {}, yesterday).record) if record is None else record
    unsaid = {key: replace(one, notified_at=None) for key, one in known.items() if not key.startswith("occurrence")}
    plan = plan_notices(facts_of(look, NOW), unsaid, NOW)
    return compose(plan.notices, "tasks", BERLIN, NOW) if plan.notices else None


def text_of(message: Message | None) -> str:
    return f"{message.severity}\n{message.title}\n\n{message.body}\n" if message else "nothing\n"


def texts() -> dict[str, str]:
    """Return every golden text by the name of its file."""
    first = plan_notices(facts_of(OBSERVATIONS["failed"], NOW), {}, NOW)
    later = NOW + 24 * HOUR
    still = plan_notices(facts_of(OBSERVATIONS["failed"], later), first.record, later)
    over = plan_notices(facts_of(WELL, later + HOUR), still.record, later + HOUR)
    return {name: text_of(message_for(look)) for name, look in OBSERVATIONS.items()} | {
        "still": text_of(compose(still.notices, "tasks", BERLIN, later)),
        "resolved": text_of(compose(over.notices, "tasks", BERLIN, later + HOUR)),
    }


def test_message_of_each_kind_matches_its_golden_text() -> None:
    assert texts() == {path.stem: path.read_text() for path in GOLDEN.iterdir()}


def test_first_day_and_transient_failures_are_not_reported_at_once() -> None:
    never = replace(WELL, health=HealthFacts((Freshness("backup", "tasks", None, 93_600),)))
    plan = plan_notices(facts_of(never, NOW), {}, NOW)
    assert plan.notices == ()
    (late,) = plan_notices(facts_of(never, NOW + FIRST_DAY), plan.record, NOW + FIRST_DAY).notices
    assert late.headline == "there is no verified backup of tasks yet"
    busy = Failure("backup", "tasks", "busy", NOW, 2)
    plan = plan_notices(facts_of(replace(WELL, health=replace(WELL.health, failures=(busy,))), NOW), {}, NOW)
    assert plan.notices == ()
    again, later = replace(busy, runs=3), NOW + REPEATED_FOR
    look = replace(WELL, health=replace(WELL.health, failures=(again,)))
    plan = plan_notices(facts_of(look, later), plan.record, later)
    assert [notice.headline for notice in plan.notices] == [
        "the backup of tasks failed 3 times in a row: something else was using it"
    ]


def test_each_problem_links_to_its_section_below_own_documentation() -> None:
    notices = plan_notices(facts_of(OBSERVATIONS["missing"], NOW), {}, NOW).notices
    body = compose(notices, "tasks", UTC, NOW, "https://wiki.example/b").body
    assert [line for line in body.splitlines() if line.startswith("runbook: ")] == [
        "runbook: https://wiki.example/b/runbook.md#source-unusable"
    ]


def test_old_drill_is_not_reported_when_the_record_is_lost() -> None:
    old = replace(drill(), finished_at=NOW - 48 * HOUR)
    assert message_for(replace(WELL, drills=(old,))) is None


def test_drill_of_another_daemons_source_is_not_reported() -> None:
    assert message_for(replace(WELL, drills=(drill("theirs"),))) is None


def test_unhealthy_problem_is_reported_as_failure_and_warning_as_warning() -> None:
    for look in OBSERVATIONS.values():
        severities = {str(problem): problem.severity for problem in find_problems(look.health, NOW)}
        reported = {alert.notice.headline: alert.notice.severity for alert in facts_of(look, NOW).alerts}
        assert reported == {
            headline: "failure" if severity == "unhealthy" else "warning" for headline, severity in severities.items()
        }


def test_hostile_text_gives_a_short_message_without_control_characters() -> None:
    hostile = Notice("failure", "x\x1b[2J\nfake" + "y" * 10_000, "z" * 10_000, NOW, "\x00")
    message = compose((hostile,) * 50, "a\nb" + "n" * 1000, UTC, NOW)
    assert len(message.body) < 4_000
    assert len(message.title) < 500
    assert message.body.replace("\n", "").isprintable()
    assert message.title.isprintable()
    assert message.title.endswith("n…: 50 problems")
    assert "and 4" in message.body
    lines = compose_lines(["healthy", "x" * 1000], "status", "tasks", NOW)
    assert lines.title == "backupd tasks: status"
    assert len(lines.body) < 500


def test_equal_messages_have_equal_references_and_others_do_not() -> None:
    one, same = (compose((Notice("info", "x"),), "tasks", UTC, NOW) for _ in range(2))
    assert one == same
    assert one.reference in one.body
    assert compose((Notice("info", "x"),), "tasks", UTC, NOW + HOUR).reference != one.reference


if __name__ == "__main__" and "--write-golden" in sys.argv:
    for name, text in texts().items():
        (GOLDEN / f"{name}.txt").write_text(text)
