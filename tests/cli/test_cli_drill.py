"""`backupd drill`, from a replica on a real SFTP server."""

from pathlib import Path

import pytest
from keyboard import Keyboard, Pair

from backupd.model import ARCHIVE_SUFFIX
from support.command import log_lines
from support.generations import flip_byte
from support.replicas import complete_generations
from support.sshd import Sshd


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


@pytest.fixture
def offsite(sshd: Sshd, there: Path, typed: Keyboard, generation: str) -> dict[str, str]:
    """The environment of a replica over SFTP that has the generation."""
    environ = {
        "BACKUPD_REPLICAS__OFFSITE__URL": f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{there}",
        "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": sshd.host_key(),
        "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE": str(sshd.key),
    }
    assert typed("replicate", **environ).code == 0
    assert complete_generations(there) == {generation}
    return environ


def test_drill_from_replica_is_reported_in_json_log_and_status(
    typed: Keyboard, generation: str, offsite: dict[str, str], backups: Path
) -> None:
    for path in backups.glob("tasks-*"):
        path.unlink()  # nothing of the local store is needed
    answer = typed("drill", "--json", **offsite)
    (report,) = answer.json
    assert (answer.code, report["outcome"], report["generation"]) == (0, "done", generation)
    drill = report["drill"]
    assert (drill["store"], drill["proven"]) == ("offsite", ["digests", "integrity_check", "contents"])
    assert 0 <= drill["age_s"] < drill["max_age_s"]
    assert 0 < drill["recovery_s"] <= report["duration_s"]
    last = log_lines(backups)[-1]
    assert last["message"].startswith(f"drill of tasks: done {generation}, ")
    assert "from offsite" in last["message"]
    assert last["backupd.drill"]["taken_at"] == drill["taken_at"]
    status = typed("status", "--json", **offsite).json
    (figures,) = [task for task in status["tasks"] if task["task"] == "drill"]
    assert (figures["drill"], figures["generation"]) == (drill, generation)
    assert f"measured         tasks: back from offsite in {drill['recovery_s']:.1f} s" in typed("status", **offsite).out
    plain = typed("drill", **offsite)
    assert plain.code == 0
    assert f"{generation} at offsite restores" in plain.out


def test_flipped_byte_at_replica_fails_drill(
    typed: Keyboard, generation: str, offsite: dict[str, str], there: Path
) -> None:
    flip_byte(there / f"{generation}{ARCHIVE_SUFFIX}")
    answer = typed("drill", **offsite)
    assert answer.code == 1
    assert f"drill of tasks: {generation}: " in answer.err
    assert typed("drill", "--from", "local", **offsite).code == 0
    assert typed("replicate", "--json", **offsite).json[0]["sent"] == [generation]
    assert typed("drill", **offsite).code == 0


def test_copy_older_than_limit_fails_drill(typed: Keyboard, offsite: dict[str, str]) -> None:
    answer = typed("drill", BACKUPD_DRILL__MAX_AGE_S="0.001", **offsite)
    assert answer.code == 1
    assert "a restore would lose everything since then" in answer.err
    assert "backupd replicate" in answer.err


def test_unreachable_server_is_retried_until_time_limit(typed: Keyboard, offsite: dict[str, str]) -> None:
    away = {
        **offsite,
        "BACKUPD_REPLICAS__OFFSITE__URL": "sftp://backup@127.0.0.1:1/x",
        "BACKUPD_REPLICAS__OFFSITE__TIMEOUT_S": "0.1",
    }
    assert typed("drill", **away).code == 75


def test_drill_covers_each_source_or_named_one(pair: Pair) -> None:
    typed = Keyboard({})
    assert typed("backup", "--config", pair.config).code == 0
    both = typed("drill", "--json", "--config", pair.config)
    assert (both.code, [report["source"] for report in both.json]) == (0, ["tasks", "notes"])
    one = typed("drill", "--source", "notes", "--config", pair.config)
    assert one.code == 0
    assert "notes: notes-" in one.out
    assert "note     restored from the local store: no replica is configured" in one.out


def test_failed_drill_command_is_shown_with_output_and_exit_code(typed: Keyboard, generation: str) -> None:
    assert generation
    answer = typed("drill", BACKUPD_DRILL__COMMAND="sh -c 'echo no accounts; exit 9'")
    assert answer.code == 1
    assert "the command sh failed (exit code 9): no accounts" in answer.err
    assert "  command  no accounts" in answer.out


def test_unknown_store_or_source_of_drill_is_usage_error(typed: Keyboard) -> None:
    assert typed("drill", "--from", "nowhere").code == 2
    assert typed("drill", "--source", "nothing").code == 2


def test_doctor_checks_place_and_command_of_drill(typed: Keyboard, database: Path, tmp_path: Path) -> None:
    place = tmp_path / "tasks.db"
    answer = typed("doctor", "--json", BACKUPD_DRILL__PLACE_AT=str(place), BACKUPD_DRILL__COMMAND="/no/such/program")
    found = {finding["check"]: finding for finding in answer.json}
    assert (found["drill place"]["ok"], found["drill command"]["ok"], answer.code) == (True, False, 1)
    assert not place.exists()
    (tmp_path / "elsewhere").symlink_to(database.parent)
    answer = typed("doctor", "--json", BACKUPD_DRILL__PLACE_AT=str(tmp_path / "elsewhere" / "tasks.db"))
    (finding,) = [finding for finding in answer.json if finding["check"] == "drill place"]
    assert (finding["ok"], "is where the app's database" in finding["detail"]) == (False, True)
