"""`backupd replicate`, and other commands with a replica."""

from pathlib import Path

import pytest
from keyboard import Keyboard

from backupd.model import ARCHIVE_SUFFIX
from support.bank import is_balanced
from support.command import log_lines
from support.generations import flip_byte
from support.replicas import complete_generations
from support.sshd import Sshd


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


@pytest.fixture
def offsite(sshd: Sshd, there: Path) -> dict[str, str]:
    """The environment of a replica over SFTP."""
    return {
        "BACKUPD_REPLICAS__OFFSITE__URL": f"sftp://{sshd.user}@127.0.0.1:{sshd.port}{there}",
        "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": sshd.host_key(),
        "BACKUPD_REPLICAS__OFFSITE__PRIVATE_KEY_FILE": str(sshd.key),
    }


def test_replicate_dry_run_lists_transfers_with_reasons_and_changes_nothing(
    typed: Keyboard, generation: str, offsite: dict[str, str], there: Path
) -> None:
    answer = typed("replicate", "--dry-run", "--json", **offsite)
    (decision,) = answer.json
    assert (decision["id"], decision["action"], decision["replica"]) == (generation, "would be sent", "offsite")
    assert decision["reasons"]
    assert not there.exists()
    assert typed("replicate", **offsite).code == 0
    assert [d["action"] for d in typed("replicate", "--dry-run", "--json", **offsite).json] == ["stays"]


def test_replicate_reports_number_of_sent_bytes(
    typed: Keyboard, generation: str, offsite: dict[str, str], there: Path
) -> None:
    (report,) = typed("replicate", "--json", **offsite).json
    assert report["sent"] == [generation]
    assert report["sent_bytes"] == (there / f"{generation}{ARCHIVE_SUFFIX}").stat().st_size
    assert "0 generations sent" in typed("replicate", **offsite).out


def test_damaged_copy_at_replica_is_found_and_sent_again(
    typed: Keyboard, generation: str, offsite: dict[str, str], there: Path
) -> None:
    assert typed("replicate", **offsite).code == 0
    assert typed("verify", "--all", "--store", "offsite", **offsite).code == 0
    flip_byte(there / f"{generation}{ARCHIVE_SUFFIX}")
    assert typed("replicate", "--json", **offsite).json[0]["sent"] == []
    found = typed("verify", "--all", "--store", "offsite", **offsite)
    assert (found.code, generation in found.out + found.err) == (1, True)
    assert typed("verify", "--all", **offsite).code == 0
    assert typed("replicate", "--json", **offsite).json[0]["sent"] == [generation]
    assert complete_generations(there) == {generation}
    assert typed("verify", "--all", "--store", "offsite", **offsite).code == 0


def test_restore_from_replica_needs_no_local_store(
    typed: Keyboard, generation: str, offsite: dict[str, str], backups: Path, tmp_path: Path
) -> None:
    assert typed("replicate", **offsite).code == 0
    for path in backups.glob("tasks-*"):
        path.unlink()
    target = tmp_path / "restored.db"
    answer = typed("restore", "latest", "--from", "offsite", "--to", target, **offsite)
    assert answer.code == 0, answer.err
    assert is_balanced(target)
    assert generation in typed("list", "--store", "offsite", **offsite).out


def test_doctor_tests_replica_and_names_problem(
    typed: Keyboard, offsite: dict[str, str], there: Path, sshd: Sshd
) -> None:
    found = {f["check"]: f for f in typed("doctor", "--json", **offsite).json}
    assert found["replica offsite"]["ok"]
    assert {"space at offsite", "clock of offsite"} <= set(found)
    assert not list(there.rglob("probe-*"))
    wrong = {**offsite, "BACKUPD_REPLICAS__OFFSITE__HOST_KEY": (sshd.directory / "client.pub").read_text()}
    answer = typed("doctor", "--json", **wrong)
    finding = next(f for f in answer.json if f["check"] == "replica offsite")
    assert (answer.code, finding["ok"], bool(finding["hint"])) == (1, False, True)


def test_unreachable_host_is_retried_until_time_limit(
    typed: Keyboard, generation: str, offsite: dict[str, str], backups: Path
) -> None:
    nobody = {
        **offsite,
        "BACKUPD_REPLICAS__OFFSITE__URL": "sftp://backup@127.0.0.1:1/x",
        "BACKUPD_REPLICAS__OFFSITE__TIMEOUT_S": "1",
    }
    answer = typed("replicate", **nobody)
    assert answer.code == 75
    assert generation in typed("list", **nobody).out
    assert [line["backupd.store"] for line in log_lines(backups) if line["event.action"] == "replica.retried"]


def test_backup_after_failed_replication_is_degraded_until_replication_succeeds(
    typed: Keyboard, generation: str, tmp_path: Path
) -> None:
    assert generation
    there = tmp_path / "nas"
    nas = {"BACKUPD_REPLICAS__NAS__URL": f"file:{there}"}
    assert typed("backup", **nas).code == 0
    there.write_text("no directory")
    assert typed("replicate", **nas).code == 1
    report = typed("backup", "--json", **nas)
    assert report.code == 3
    assert "the last replication to nas failed: " in report.json["warnings"][0]
    there.unlink()
    assert typed("replicate", **nas).code == 0
    assert typed("backup", **nas).code == 0
