"""`backupd restore --at`: the meaning of a time, and how it is printed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from keyboard import Keyboard

from backupd.tasks.context import TaskContext
from support.generations import backdated, manifest_of

AUCKLAND = ZoneInfo("Pacific/Auckland")


def minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def test_at_selects_newest_generation_before_time_in_zone_of_schedule(
    typed: Keyboard, context: TaskContext, backups: Path, generation: str, target: Path
) -> None:
    keys = [generation, *(backdated(backups, generation, days=number) for number in (1, 2))]
    for zone in (ZoneInfo("UTC"), ZoneInfo("Pacific/Auckland")):
        for key, before in zip(keys, [*keys[1:], None], strict=True):
            taken_at = manifest_of(context, key).taken_at.astimezone(zone)
            found = [
                typed(
                    *("restore", "--at", minute(time), "--to", target, "--dry-run", "--json"),
                    BACKUPD_SCHEDULE__TIMEZONE=str(zone),
                ).json
                for time in (taken_at + timedelta(minutes=1), taken_at - timedelta(minutes=1))
            ]
            assert [facts.get("generation") for facts in found] == [key, before]
    oldest = manifest_of(context, keys[-1]).taken_at.astimezone(AUCKLAND)
    asked = (oldest - timedelta(minutes=1)).replace(second=59)
    assert found[-1]["error"] == (
        f"there is no verified generation at or before {asked:%F %T %Z}; "
        f"the oldest is {keys[-1]}, taken at {oldest:%F %T %Z}"
    )


def test_at_with_minute_or_day_includes_whole_minute_or_day(
    typed: Keyboard, context: TaskContext, backups: Path, generation: str, target: Path
) -> None:
    taken_at = manifest_of(context, generation).taken_at
    wanted = (taken_at - timedelta(days=1)).replace(hour=4, minute=0, second=3, microsecond=500_000)
    backdated(backups, generation, days=(taken_at - wanted) / timedelta(days=1))
    day = f"{wanted:%F}"
    for text, code in ((f"{day} 04:00", 0), (day, 0), (f"{day} 04:00:02", 1), (f"{day}T03:59Z", 1)):
        answer = typed("restore", "--at", text, "--to", target, "--dry-run")
        assert answer.code == code, (text, answer.err)
        assert (f"  taken    {day} 04:00:03 UTC\n" in answer.out) == (code == 0)


def test_time_of_generation_is_printed_in_zone_of_schedule(
    typed: Keyboard, context: TaskContext, generation: str, target: Path
) -> None:
    answer = typed("restore", "--to", target, "--dry-run", BACKUPD_SCHEDULE__TIMEZONE="Pacific/Auckland")
    taken_at = manifest_of(context, generation).taken_at
    assert f"{taken_at.astimezone(AUCKLAND):%F %T} Pacific/Auckland ({taken_at:%F %T} UTC)" in answer.out


def test_at_with_explicit_zone_uses_that_zone(
    typed: Keyboard, context: TaskContext, backups: Path, generation: str, target: Path
) -> None:
    older = backdated(backups, generation, days=1)
    time = manifest_of(context, older).taken_at.astimezone(AUCKLAND) + timedelta(hours=1)
    answer = typed("restore", "--at", time.isoformat(), "--to", target, "--dry-run", "--json")
    assert answer.json["generation"] == older


def test_at_skips_unverified_generation_only_with_accept_older(
    typed: Keyboard, backups: Path, generation: str, target: Path
) -> None:
    older = backdated(backups, generation, days=1)
    (backups / f"{generation}.manifest.json").write_bytes(b"{}")
    command = ("restore", "--at", minute(datetime.now(UTC) + timedelta(days=1)), "--to", target, "--json")
    refused = typed(*command)
    assert (refused.code, generation in refused.err, "--accept-older" in refused.err) == (1, True, True)
    accepted = typed(*command, "--accept-older")
    assert (accepted.code, accepted.json["generation"], generation in accepted.err) == (3, older, True)


def test_at_with_repeated_local_time_means_second_occurrence(typed: Keyboard, generation: str, target: Path) -> None:
    assert generation
    arguments = ("restore", "--at", "2020-10-25 02:30", "--to", target, "--json")
    answer = typed(*arguments, BACKUPD_SCHEDULE__TIMEZONE="Europe/Berlin")
    assert "at or before 2020-10-25 02:30:59 CET" in answer.json["error"]
