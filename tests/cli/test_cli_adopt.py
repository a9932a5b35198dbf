"""Copies of another store at a replica: after the loss of a machine, and with two apps."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from keyboard import Keyboard

from backupd.model import MANIFEST_SUFFIX
from support.bank import is_balanced, make_bank, spend
from support.command import log_lines
from support.generations import backdated, rewritten


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "nas" / "my-app"


@pytest.fixture
def lost(typed: Keyboard, generation: str, backups: Path, there: Path) -> str:
    """The generation that a lost machine had sent the day before: nothing else is left of its store."""
    there.parent.mkdir()
    assert typed("replicate", **nas(there)).code == 0
    shutil.rmtree(backups)
    older = backdated(there, generation, days=1)
    for path in there.glob(f"{generation}*"):
        path.unlink()
    return older


def ids(there: Path) -> set[str]:
    return {path.name.removesuffix(MANIFEST_SUFFIX) for path in there.glob(f"*{MANIFEST_SUFFIX}")}


def nas(there: Path) -> dict[str, str]:
    return {"BACKUPD_REPLICAS__NAS__URL": f"file:{there}"}


def test_copies_of_lost_machine_are_usable_without_adoption_and_their_origin_is_reported(
    typed: Keyboard, lost: str, there: Path, tmp_path: Path, database: Path
) -> None:
    answer = typed("restore", "--from", "nas", "--to", tmp_path / "back.db", **nas(there))
    assert (answer.code, is_balanced(tmp_path / "back.db")) == (0, True), answer.err
    assert f", of {database}, the newest {lost}, 24 h old" in answer.err
    assert "backupd replicate --to nas --adopt" in answer.err
    (listed,) = typed("list", "--store", "nas", "--json", **nas(there)).json
    assert (listed["id"], listed["stores"], len(listed["other_store"])) == (lost, ["nas"], 16)
    assert f"of another store ({listed['other_store']})" in typed("list", "--store", "nas", **nas(there)).out
    assert typed("verify", "--store", "nas", **nas(there)).code == 0
    assert typed("restore", "--from", "nas", **nas(there)).code == 0
    assert typed("backup", **nas(there)).code in (0, 3)


def test_new_machine_with_own_backups_uses_copies_of_lost_machine_only_after_adoption(
    typed: Keyboard, lost: str, there: Path, tmp_path: Path, database: Path, backups: Path
) -> None:
    spend(database, 3)
    newer = typed("backup", "--json", **nas(there)).json["generation"]
    target = tmp_path / "back.db"
    for wanted in ("latest", lost):
        refused = typed("restore", wanted, "--from", "nas", "--to", target, **nas(there))
        assert (refused.code, "another store has made" in refused.err, target.exists()) == (1, True, False)
        assert "the same command with --adopt" in refused.err
    for command in (("verify", "--store", "nas"), ("verify", lost, "--store", "nas"), ("replicate", "--dry-run")):
        assert (typed(*command, **nas(there)).code, ids(there)) == (1, {lost})
    tried = typed("restore", "--from", "nas", "--to", target, "--adopt", "--dry-run", **nas(there))
    assert (tried.code, lost in tried.out) == (0, True), tried.err
    assert typed("replicate", **nas(there)).code == 1
    answer = typed("restore", "--from", "nas", "--to", target, "--adopt", **nas(there))
    assert (answer.code, lost in answer.out, is_balanced(target)) == (0, True, True), answer.err
    assert [line["backupd.source"] for line in log_lines(backups) if line["event.action"] == "store.adopted"] == [
        "tasks"
    ]
    assert typed("replicate", **nas(there)).code == 0
    assert ids(there) == {lost, newer}
    assert typed("drill", **nas(there)).code == 0


def test_adopt_option_is_accepted_only_where_adoption_is_possible(
    typed: Keyboard, generation: str, there: Path
) -> None:
    there.parent.mkdir()
    assert typed("restore", generation, "--adopt", "--dry-run", **nas(there)).code == 2
    assert typed("replicate", "--force", **nas(there)).code == 2
    assert typed("replicate", "--adopt", "--dry-run", **nas(there)).code == 2
    answer = typed("replicate", "--adopt", **nas(there))
    assert (answer.code, "there was nothing to adopt" in answer.out) == (0, True)


def test_copies_of_two_stores_are_one_history_if_consecutive_and_ambiguous_if_simultaneous(
    typed: Keyboard, lost: str, there: Path, tmp_path: Path, backups: Path, database: Path
) -> None:
    backdated(there, lost, days=9)
    spend(database, 3)
    second = typed("backup", "--json", **nas(there)).json["generation"]
    assert typed("replicate", "--adopt", **nas(there)).code == 0
    shutil.rmtree(backups)
    answer = typed("restore", "--from", "nas", "--to", tmp_path / "back.db", **nas(there))
    assert (answer.code, second in answer.out) == (0, True), answer.err
    backdated(there, second, days=5)
    ambiguous = typed("restore", "--from", "nas", "--to", tmp_path / "more.db", **nas(there))
    assert (ambiguous.code, "name it by its id" in ambiguous.err) == (1, True)
    refused = typed("replicate", "--adopt", **nas(there))
    assert (refused.code, "several stores have sent copies of tasks" in refused.err) == (1, True)
    assert typed("restore", lost, "--from", "nas", "--to", tmp_path / "more.db", **nas(there)).code == 0
    assert typed("replicate", "--adopt", "--force", **nas(there)).code == 0


def test_restore_from_replica_with_several_sources_uses_configured_source(
    typed: Keyboard, generation: str, there: Path, tmp_path: Path, backups: Path
) -> None:
    there.parent.mkdir()
    backdated(backups, generation, days=-0.001, source="notes")
    assert typed("replicate", **nas(there)).code == 0
    answer = typed("restore", "--from", "nas", "--to", tmp_path / "back.db", **nas(there))
    assert (answer.code, f"restored {generation}" in answer.out) == (0, True), answer.err
    notes = next(key for key in ids(there) if key.startswith("notes"))
    rewritten(there, notes, lambda manifest: replace(manifest, store="f" * 16))
    for path in backups.glob("notes-*"):
        path.unlink()
    assert [check["id"] for check in typed("verify", "--all", "--store", "nas", "--json", **nas(there)).json] == [
        generation
    ]
    assert [check["id"] for check in typed("verify", notes, "--store", "nas", "--json", **nas(there)).json] == [notes]
    drilled = typed("drill", "--json", **nas(there))
    assert (drilled.code, drilled.json[0]["generation"]) == (0, generation)
    make_bank(tmp_path / "other.db", rows=3)
    other = {"BACKUPD_DATABASE": str(tmp_path / "other.db"), "BACKUPD_BACKUPS_DIR": str(tmp_path / "others")}
    missing = typed("restore", "--from", "nas", "--to", tmp_path / "none.db", **nas(there), **other)
    assert (missing.code, "notes, tasks" in missing.err) == (1, True), missing.err


def test_replica_that_links_to_local_store_is_refused(
    typed: Keyboard, generation: str, there: Path, backups: Path
) -> None:
    there.parent.mkdir()
    there.symlink_to(backups)
    answer = typed("replicate", **nas(there))
    assert (answer.code, "the directory of the backups itself" in answer.err) == (78, True)
    there.unlink()
    other = {"BACKUPD_BACKUPS_DIR": str(there.parent / "others")}
    assert typed("backup", **other).code == 0
    there.symlink_to(there.parent / "others")
    assert (typed("replicate", **nas(there)).code, len(ids(there))) == (78, 1)
    assert not all(finding["ok"] for finding in typed("doctor", "--json", **nas(there)).json)
    assert generation in ids(backups)


def test_missing_database_is_restored_from_another_store_only_at_recorded_path(
    typed: Keyboard, lost: str, there: Path, tmp_path: Path, database: Path
) -> None:
    other = {"BACKUPD_DATABASE": str(tmp_path / "tasks.db"), "BACKUPD_BACKUPS_DIR": str(tmp_path / "others")}
    refused = typed("restore", "--if-missing", "--allow-none", **nas(there), **other)
    assert (refused.code, "another store has made" in refused.err) == (1, True), refused
    assert not (tmp_path / "tasks.db").exists()
    database.unlink()
    answer = typed("restore", "--if-missing", **nas(there))
    assert (answer.code, lost in answer.out, is_balanced(database)) == (0, True, True), answer


def test_restore_from_replica_succeeds_with_unreadable_local_store(
    typed: Keyboard, generation: str, there: Path, tmp_path: Path
) -> None:
    there.parent.mkdir()
    assert typed("replicate", **nas(there)).code == 0
    (tmp_path / "loop").symlink_to("loop")  # refuses to be read, as a broken disk does
    broken = {"BACKUPD_BACKUPS_DIR": str(tmp_path / "loop")}
    answer = typed("restore", "--from", "nas", "--to", tmp_path / "back.db", **nas(there), **broken)
    assert (answer.code, f"restored {generation}" in answer.out) == (0, True), answer.err
    assert "cannot be read (Too many levels of symbolic links)" in answer.err


def test_backups_disk_of_lost_machine_is_read_as_replica(
    typed: Keyboard, generation: str, backups: Path, tmp_path: Path
) -> None:
    backups.rename(tmp_path / "old-disk")
    target = tmp_path / "back.db"
    hinted = typed("restore", "--from", tmp_path / "old-disk", "--to", target)
    assert (hinted.code, "BACKUPD_REPLICAS__OLD__URL=file:/PATH" in hinted.err) == (2, True)
    old = {"BACKUPD_REPLICAS__OLD__URL": f"file:{tmp_path / 'old-disk'}"}
    answer = typed("restore", "--from", "old", "--to", target, **old)
    assert (answer.code, generation in answer.out, is_balanced(target)) == (0, True, True), answer.err
    assert typed("replicate", **old).code == 78


def test_adopted_generations_are_kept_beyond_policy_for_a_month(typed: Keyboard, lost: str, there: Path) -> None:
    older = backdated(there, lost, days=400)
    one = {f"BACKUPD_RETENTION__{rule}": count for rule, count in (("WITHIN", "0"), ("DAILY", "1"), ("WEEKLY", "0"))}
    assert typed("replicate", "--adopt", **one, **nas(there)).code == 0
    typed("backup", **one, **nas(there))
    assert typed("replicate", **one, **nas(there)).code == 0
    facts = {fact["id"]: fact for fact in typed("list", "--store", "nas", "--json", **one, **nas(there)).json}
    assert facts[older]["pin_reason"] == "adopted from a lost machine"
    assert typed("unpin", older).code == 0
    assert typed("replicate", **one, **nas(there)).code == 0
    assert older not in ids(there)
    assert lost in ids(there)
