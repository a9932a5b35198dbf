"""`backupd restore` in place: verified first, swapped last, with the old database kept and each step reported."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from keyboard import Keyboard

from backupd.tasks.context import TaskContext
from support.app import running_app
from support.bank import is_balanced, spend
from support.command import Backupd, log_lines
from support.directories import beside, sha256
from support.generations import manifest_of


def test_restore_in_place_replaces_database_and_undo_puts_old_one_back(
    backupd: Backupd, context: TaskContext, database: Path, generation: str, newer: str
) -> None:
    answer = backupd("restore", "latest", "--json")
    assert (answer.code, answer.err) == (0, "")
    facts = answer.json
    kept = Path(facts["kept"])
    assert sha256(database) == facts["snapshot_sha256"] == manifest_of(context, generation).snapshot.sha256
    assert sha256(kept) == newer
    assert beside(database) == {kept.name, f"{kept.name}.json"}
    assert (database.stat().st_nlink, kept.stat().st_nlink) == (1, 1)
    undone = backupd(*facts["undo"].split()[1:], "--json")
    assert undone.code == 0
    assert sha256(database) == newer
    again = Path(undone.json["kept"]).name
    assert beside(database) == {again, f"{again}.json"}
    assert sha256(Path(undone.json["kept"])) == facts["snapshot_sha256"]


def test_restore_in_place_prints_kept_database_and_undo_command(
    typed: Keyboard, database: Path, generation: str, newer: str
) -> None:
    assert newer
    said = typed("restore").out
    assert f"restored {generation} to {database}" in said
    assert f"kept     {database}.pre-restore-" in said
    assert "undo     backupd restore --undo --source tasks" in said


def test_restore_in_place_is_recorded_in_log_and_catalog(
    typed: Keyboard, backups: Path, generation: str, newer: str
) -> None:
    facts = typed("restore", "--json").json
    (line,) = [line for line in log_lines(backups) if line["event.action"] == "generation.restored"]
    assert (line["backupd.snapshot_sha256"], line["backupd.kept"]) == (facts["snapshot_sha256"], facts["kept"])
    assert sha256(Path(facts["kept"])) == newer
    assert line["backupd.undo"] == facts["undo"]
    assert f"restore of tasks: done {generation}" in log_lines(backups)[-1]["message"]
    assert any(run["task"] == "restore" for run in typed("show", generation, "--json").json["history"]["runs"])


@pytest.mark.root
def test_restore_in_place_keeps_owner_mode_and_attributes(typed: Keyboard, newer: str, database: Path) -> None:
    assert newer
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # where its owner can reach it
        Path(name).chmod(0o755)
        moved = Path(shutil.copy(database, name))
        os.chown(moved, 12345, 54321)
        os.chown(name, 12345, 54321)
        moved.chmod(0o664)
        os.setxattr(moved, "user.note", b"mine")
        facts = typed("restore", "--json", BACKUPD_DATABASE=str(moved)).json
        for path in (moved, Path(facts["kept"])):
            state = path.stat()
            assert (state.st_uid, state.st_gid, state.st_mode & 0o7777) == (12345, 54321, 0o664)
            assert os.getxattr(path, "user.note") == b"mine"
        assert typed("restore", "--undo", BACKUPD_DATABASE=str(moved)).code == 0
        assert sha256(moved) == newer


def test_vacuumed_generation_is_restored_with_journal_mode_of_app(typed: Keyboard, database: Path) -> None:
    facts = typed("backup", "--json", BACKUPD_SOURCES__TASKS__METHOD="vacuum")
    assert facts.code == 0, facts.err
    spend(database)
    assert typed("restore").code == 0
    assert database.read_bytes()[18] == 2
    assert is_balanced(database)


def test_restore_through_link_keeps_link_and_replaces_its_target(
    typed: Keyboard, database: Path, newer: str, tmp_path: Path
) -> None:
    real = tmp_path / "elsewhere" / "real.db"
    real.parent.mkdir()
    shutil.move(database, real)
    database.symlink_to(real)
    facts = typed("restore", "--json").json
    assert database.is_symlink()
    assert facts["target"] == str(real)
    assert sha256(real) == facts["snapshot_sha256"] != newer
    assert sha256(Path(facts["kept"])) == newer


def test_restore_in_place_dry_run_prints_plan_and_changes_nothing(
    typed: Keyboard, database: Path, backups: Path, newer: str
) -> None:
    log = (backups / "backup.log").read_bytes()
    answer = typed("restore", "--dry-run")
    assert answer.code == 0
    assert "would restore" in answer.out
    assert (sha256(database), beside(database)) == (newer, set())
    assert (backups / "backup.log").read_bytes() == log
    with running_app(database) as app:
        app.sql("SELECT 1 FROM ledger")
        assert typed("restore", "--dry-run").code == 75
    assert typed("restore", "--undo", "--dry-run").code == 1


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_leftovers_of_killed_restore_are_swept_with_side_files_only(
    typed: Keyboard, database: Path, generation: str, mode: str
) -> None:
    assert generation
    part, other = database.with_name(".tasks.db.0123abcd.part"), database.with_name(".tasks.db.0123abcd.part-notes")
    shutil.copy(database, part)
    with running_app(part) as app:
        app.sql(f"PRAGMA journal_mode={mode}")
        app.sql("BEGIN")
        app.sql("PRAGMA cache_size=2")
        app.sql("UPDATE account SET owner = owner || 'y'")
        app.kill()
    part.unlink()
    other.touch()
    assert f"{part.name}-{'wal' if mode == 'wal' else 'journal'}" in beside(database)
    assert typed("restore").code == 0
    assert {name for name in beside(database) if ".part" in name} == {other.name}
