"""`backupd restore` on a terminal: the plan, one question, and no change before the answer."""

import re
from pathlib import Path

import pytest
from keyboard import Keyboard, Pair, on_terminal

from backupd.model import MANIFEST_SUFFIX
from support.app import running_app
from support.command import Backupd
from support.directories import beside, sha256
from support.generations import backdated

QUESTION = "Restore it? Type yes to continue:"


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


@pytest.mark.parametrize("typing", ["no\n", "\n", "\x04"], ids=["no", "empty line", "end of file"])
def test_answer_other_than_yes_changes_nothing(backupd: Backupd, database: Path, newer: str, typing: str) -> None:
    code, said = on_terminal(backupd, "restore", typing=typing)
    assert (code, sha256(database), beside(database)) == (1, newer, set()), said
    assert "not restored: nothing was changed" in said


def test_plan_describes_changes_and_undo(
    backupd: Backupd, database: Path, backups: Path, generation: str, newer: str
) -> None:
    code, said = on_terminal(backupd, "restore", typing="yes\n")
    plan = plain(said).partition(QUESTION)[0]
    assert code == 0, said
    assert f"would restore {generation} to {database} (" in plan
    assert re.search(r"^  taken    \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+$", plan, re.MULTILINE)
    assert re.search(r"^  age      [\d.]+ (s|min)$", plan, re.MULTILINE)
    assert re.search(r"^  verified full; ", plan, re.MULTILINE)
    assert f"  from     local, {backups} (archive: " in plan
    assert re.search(r"^  database is replaced \([\d.]+ KiB\)$", plan, re.MULTILINE)
    assert "  kept     beside it, as tasks.db.pre-restore-TIME, for at least 30 days" in plan
    assert "  app      stopped: no process has the database open" in plan
    assert "  undo     backupd restore --undo --source tasks" in plan
    assert sha256(database) != newer
    (kept,) = database.parent.glob("tasks.db.pre-restore-*Z")
    assert sha256(kept) == newer


@pytest.mark.parametrize("options", [("latest",), ("--yes",), ("--json",), ("--from", "local")])
def test_restore_with_id_or_options_asks_nothing(
    backupd: Backupd, database: Path, newer: str, options: tuple[str, ...]
) -> None:
    code, said = on_terminal(backupd, "restore", *options)
    assert (code, QUESTION in said, sha256(database) == newer) == (0, False, False), said


def test_restore_without_terminal_asks_nothing(backupd: Backupd, database: Path, newer: str) -> None:
    answer = backupd("restore")
    assert (answer.code, QUESTION in answer.err, sha256(database) == newer) == (0, False, False)


def test_confirmation_names_one_of_several_sources(backupd: Backupd, pair: Pair, database: Path) -> None:
    config = ("--config", str(pair.config))
    environ = Backupd({}, backupd.cwd)
    assert environ("backup", *config).code == 0
    code, said = on_terminal(environ, "restore", "--source", "notes", *config, typing="yes\n")
    assert (code, QUESTION in said) == (0, True), said
    (kept,) = database.parent.glob("*.pre-restore-*Z")
    assert kept.name.startswith("notes.db")


def test_older_generation_is_part_of_single_confirmation(backupd: Backupd, backups: Path, generation: str) -> None:
    older = backdated(backups, generation, days=1)
    (backups / f"{generation}{MANIFEST_SUFFIX}").write_bytes(b"{}")
    code, said = on_terminal(backupd, "restore", typing="yes\n")
    warning, _, plan = plain(said).partition("would restore")
    assert (code, generation in warning, older in plan, said.count("Type yes")) == (3, True, True, 1), said


def test_yes_option_accepts_no_older_generation(
    backupd: Backupd, backups: Path, database: Path, generation: str
) -> None:
    backdated(backups, generation, days=1)
    (backups / f"{generation}{MANIFEST_SUFFIX}").write_bytes(b"{}")
    code, said = on_terminal(backupd, "restore", "--yes")
    assert (code, "Type yes" in said, "--accept-older" in said) == (1, False, True), said
    assert list(database.parent.glob("*pre-restore*")) == []


def test_dry_run_with_running_app_prints_whole_plan(typed: Keyboard, database: Path, generation: str) -> None:
    free = typed("restore", "--dry-run")
    with running_app(database) as app:
        app.sql("SELECT 1 FROM ledger")
        used = typed("restore", "--dry-run")
        online = typed("restore", "--dry-run", "--online")
    assert (free.code, used.code, online.code) == (0, 75, 0)
    assert "  app      must be stopped first: a process has the database open\n" in used.out
    assert "  app      keeps running: " in online.out
    for answer in (free, used, online):
        assert answer.out.startswith(f"would restore {generation} to {database} (")
        assert "  undo     backupd restore --undo --source tasks\n" in answer.out
    names = [re.findall(r"^  (\w+) ", answer.out, re.MULTILINE) for answer in (free, used)]
    assert names[0] == [*names[1], "sha256", "mode"]


def test_dry_run_without_database_announces_new_database(typed: Keyboard, database: Path, generation: str) -> None:
    assert generation
    for path in database.parent.glob("tasks.db*"):
        path.unlink()
    planned = typed("restore", "--dry-run")
    assert planned.code == 0
    assert "  database does not exist: it is created\n" in planned.out
    assert "  undo     impossible" in planned.out
