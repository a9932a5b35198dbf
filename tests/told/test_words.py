"""What a message says, word for word, and that it fits everywhere.

After a change that is meant, write the golden files anew, and read the difference:

    PYTHONPATH=tests python tests/told/test_words.py --write-golden && git diff tests/golden/messages
"""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from backupd.catalog import LastRun, RunRecord, Told
from backupd.catalog.unavailable import CatalogUnavailable
from backupd.health import HealthFacts, Standing
from backupd.model import DrillReport, Hold, Outcome, RunReport
from backupd.told.plan import Item, plan_messages
from backupd.told.trouble import FIRST_DAY, PASSING, Look, facts_of
from backupd.told.words import Message, compose, compose_lines

GOLDEN = Path(__file__).parents[1] / "golden" / "messages"
NOW = datetime(2026, 11, 25, 11, 30, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
HOUR = timedelta(hours=1)
OURS = frozenset({"tasks", "notes", "offsite", "local"})
WELL = Look(HealthFacts((Standing("backup", "tasks", NOW - HOUR, 93_600),)), OURS)


def last_run(task: str = "backup", source: str = "tasks", outcome: Outcome = "failed", code: int | None = 1) -> LastRun:
    error, hint = "no database at /app/data/tasks.db", "check [sources.tasks].path and the volume mount"
    drill = DrillReport("offsite", 748_800) if task == "drill" else None
    report = RunReport(task, source, NOW - HOUR, outcome, error=error, hint=hint, duration_s=12.3, drill=drill)
    run = RunRecord(
        1,
        task,
        source,
        NOW - HOUR,
        NOW - HOUR,
        outcome,
        None,
        report.error,
        code,
        12.3,
        None if code is None else report,
    )
    return LastRun(run, NOW - HOUR if outcome == "failed" else None)


HELD = Hold("tasks", "corrupt", NOW - HOUR, "row 7 missing from index i", "tasks-20261124-0400")
SHRUNK = Hold("notes", "shrink", NOW - HOUR, "notes shrank since notes-20261124-0400: 980 of 1000 rows are gone", None)
UNREADABLE = replace(HELD, reason="it is encrypted", unreadable=True)
STANDINGS = (
    Standing("backup", "tasks", NOW - 30 * HOUR, 93_600),
    Standing("replicate", "offsite", NOW - 9 * 24 * HOUR, 655_200),
    Standing("drill", "offsite", NOW + HOUR, 2_901_600),
)
LOOKS = {
    "well": WELL,
    "failed": replace(WELL, runs=(last_run(),)),
    "killed": replace(WELL, runs=(last_run(code=None),)),
    "corrupt-and-shrunk": replace(WELL, health=HealthFacts(WELL.health.standings, (HELD, SHRUNK))),
    "unreadable": replace(WELL, health=HealthFacts(WELL.health.standings, (UNREADABLE,))),
    "too-old": replace(WELL, health=HealthFacts(STANDINGS)),
    "damaged": replace(WELL, damaged={"tasks-20261120-0400": "tasks"}),
    "drill-proven": replace(WELL, runs=(last_run("drill", outcome="done"),)),
    "drill-failed": replace(WELL, runs=(last_run("drill"),)),
    "nothing-can-be-seen": replace(
        WELL,
        health=HealthFacts(STANDINGS, unknown=("the directory of the backups cannot be read",)),
        runs=None,
        catalog_error=CatalogUnavailable("the catalog cannot be used", "run `backupd catalog rebuild`"),
    ),
}


def said(look: Look, now: datetime = NOW, told: dict[str, Told] | None = None) -> Message | None:
    """Return what is said of `look` by a daemon that has seen it for a day already, so that nothing waits any more."""
    seen = (
        dict(plan_messages(facts_of(look, now - 24 * HOUR), told or {}, now - 24 * HOUR).told) if told is None else told
    )
    unsaid = {key: replace(one, told_at=None) for key, one in seen.items() if not key.startswith("news")}
    plan = plan_messages(facts_of(look, now), unsaid, now)
    return compose(plan.items, "tasks", BERLIN, now) if plan.items else None


def text_of(message: Message | None) -> str:
    return f"{message.mood}\n{message.title}\n\n{message.body}\n" if message else "nothing\n"


def texts() -> dict[str, str]:
    """Return every golden text by the name of its file."""
    first = plan_messages(facts_of(LOOKS["failed"], NOW), {}, NOW)
    later = NOW + 24 * HOUR
    still = plan_messages(facts_of(LOOKS["failed"], later), first.told, later)
    over = plan_messages(facts_of(WELL, later + HOUR), still.told, later + HOUR)
    return {name: text_of(said(look)) for name, look in LOOKS.items()} | {
        "still": text_of(compose(still.items, "tasks", BERLIN, later)),
        "over": text_of(compose(over.items, "tasks", BERLIN, later + HOUR)),
    }


def test_each_kind_of_trouble_what_lasts_and_what_is_over_reads_as_it_should() -> None:
    assert texts() == {path.stem: path.read_text() for path in GOLDEN.iterdir()}


def test_on_the_first_day_and_for_what_may_pass_nobody_is_woken() -> None:
    never = replace(WELL, health=HealthFacts((Standing("backup", "tasks", None, 93_600),)))
    plan = plan_messages(facts_of(never, NOW), {}, NOW)
    assert plan.items == ()
    (late,) = plan_messages(facts_of(never, NOW + FIRST_DAY), plan.told, NOW + FIRST_DAY).items
    assert late.headline == "there is no verified backup of tasks yet"
    busy = replace(last_run(code=75), failing_since=NOW)
    plan = plan_messages(facts_of(replace(WELL, runs=(busy,)), NOW), {}, NOW)
    assert plan.items == ()
    plan = plan_messages(facts_of(replace(WELL, runs=(busy,)), NOW + PASSING), plan.told, NOW + PASSING)
    assert [item.headline for item in plan.items] == ["the backup of tasks failed"]


def test_a_drill_that_is_old_news_is_not_told_when_the_book_is_lost() -> None:
    drill = last_run("drill", outcome="done")
    old = replace(drill, run=replace(drill.run, finished_at=NOW - 48 * HOUR))
    assert said(replace(WELL, runs=(old,))) is None


def test_runs_and_damage_of_what_others_look_after_are_their_affair() -> None:
    assert said(replace(WELL, runs=(last_run(source="theirs"),))) is None


def test_whatever_is_quoted_a_message_is_short_and_has_no_control_characters() -> None:
    hostile = Item("failure", "x\x1b[2J\nfake" + "y" * 10_000, "z" * 10_000, NOW, "\x00")
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
    one, same = (compose((Item("info", "x"),), "tasks", UTC, NOW) for _ in range(2))
    assert one == same
    assert one.reference in one.body
    assert compose((Item("info", "x"),), "tasks", UTC, NOW + HOUR).reference != one.reference


if __name__ == "__main__" and "--write-golden" in sys.argv:
    for name, text in texts().items():
        (GOLDEN / f"{name}.txt").write_text(text)
