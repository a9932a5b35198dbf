"""`backupd prune` does what its dry run printed, and nothing while a source is held."""

import re
import subprocess
from pathlib import Path

import pytest
from keyboard import Keyboard

from backupd.model import Hold
from backupd.system.file_lock import file_lock
from backupd.tasks.context import TaskContext
from support.command import Backupd, log_lines
from support.generations import backdated

POLICY = {f"BACKUPD_RETENTION__{rule}": count for rule, count in {"DAILY": "3", "WEEKLY": "2", "WITHIN": "0"}.items()}


@pytest.fixture
def generations(backups: Path, generation: str) -> list[str]:
    """Twenty of them, newest first, one for each day."""
    return [generation, *(backdated(backups, generation, days=number) for number in range(1, 20))]


def present(backups: Path) -> set[str]:
    """Return the ids whose archive and manifest are both there."""
    archives = {path.name.removesuffix(".sqlite3.gz") for path in backups.glob("*.sqlite3.gz")}
    assert archives == {path.name.removesuffix(".manifest.json") for path in backups.glob("*.manifest.json")}
    return archives


def freeze(context: TaskContext) -> None:
    context.holds.set(Hold("tasks", "shrink", context.clock(), "task went from 900 to 3 rows", None))


def test_prune_does_what_dry_run_printed(backupd: Backupd, backups: Path, generations: list[str]) -> None:
    rehearsal = backupd("prune", "--dry-run", "--json", **POLICY)
    assert (rehearsal.code, rehearsal.err) == (0, "")
    assert present(backups) == set(generations)
    assert {fact["id"] for fact in rehearsal.json} == set(generations)
    assert all(fact["reasons"] and fact["source"] == "tasks" for fact in rehearsal.json)
    kept = {fact["id"] for fact in rehearsal.json if fact["action"] == "keep"}
    assert {generations[0], generations[1], generations[2]} <= kept
    assert len(kept) in (3, 4), "the newest of last week is one of the 3 days on a Monday and a Tuesday"
    done = backupd("prune", "--json", **POLICY)
    assert (done.code, done.json) == (0, rehearsal.json)
    assert present(backups) == kept
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=backups, capture_output=True, check=True)
    assert len(checked.stdout.splitlines()) == len(kept)
    again = backupd("prune", "--json", **POLICY)
    assert [fact["action"] for fact in again.json] == ["keep"] * len(kept)


def test_prune_prints_each_decision_with_reason(typed: Keyboard, backups: Path, generations: list[str]) -> None:
    rehearsal = typed("prune", "--dry-run", **POLICY).out.splitlines()
    done = typed("prune", **POLICY).out.splitlines()
    assert re.split(r"\s{2,}", rehearsal[0]) == ["generation", "decision", "reason"]
    assert len(rehearsal) == len(done) == 1 + len(generations)
    assert re.match(rf"{generations[0]}  +stays +daily .*, last-verified$", rehearsal[1])
    words = [re.split(r"\s{2,}", line)[1] for line in rehearsal[1:]]
    assert [re.split(r"\s{2,}", line)[1] for line in done[1:]] == [
        word.replace("would be removed", "removed") for word in words
    ]
    assert words.count("stays") == len(present(backups))


def test_prune_logs_each_removal_with_reason(typed: Keyboard, backups: Path, generations: list[str]) -> None:
    typed("prune", **POLICY)
    removed = [line for line in log_lines(backups) if line["event.action"] == "generation.removed"]
    assert {line["backupd.generation"] for line in removed} == set(generations) - present(backups)
    assert all(line["backupd.reason"] for line in removed)


def test_prune_of_held_source_removes_nothing_until_released(
    typed: Keyboard, context: TaskContext, backups: Path, generations: list[str]
) -> None:
    freeze(context)
    answer = typed("prune", "--json", **POLICY)
    assert answer.code == 0
    assert {fact["action"] for fact in answer.json} == {"keep"}
    assert all("held: shrink" in fact["reasons"] for fact in answer.json)
    assert present(backups) == set(generations)
    answer = typed("prune", "--unfreeze", **POLICY)
    assert (answer.code, answer.err) == (0, "tasks: pruning goes on\n")
    assert len(present(backups)) < len(generations)
    assert typed("prune", "--unfreeze", **POLICY).err == "tasks: pruning was not on hold\n"


def test_prune_dry_run_releases_no_hold(typed: Keyboard, context: TaskContext, generation: str) -> None:
    freeze(context)
    answer = typed("prune", "--dry-run", "--unfreeze")
    assert answer.code == 2
    assert "do not go together" in answer.err
    assert context.holds.get("tasks") is not None
    assert generation not in answer.out


def test_prune_that_cannot_start_reports_no_removals(typed: Keyboard, backups: Path, generations: list[str]) -> None:
    with file_lock(backups / ".backupd" / "lock", "backup"):
        answer = typed("prune", BACKUPD_LOCK__TIMEOUT_S="0", **POLICY)
        facts = typed("prune", "--json", BACKUPD_LOCK__TIMEOUT_S="0", **POLICY)
    assert (answer.code, answer.out) == (75, "")
    assert (facts.code, facts.json["outcome"], facts.json["exit_code"]) == (75, "failed", 75)
    assert facts.json["error"].partition(" started ")[0] in answer.err  # its age differs
    assert "error: prune of tasks: " in answer.err
    assert "removed" not in answer.out
    assert present(backups) == set(generations)


def test_refused_manifest_is_kept_and_degrades_prune(typed: Keyboard, backups: Path, generations: list[str]) -> None:
    (backups / f"{generations[-1]}.manifest.json").write_bytes(b"{}")
    answer = typed("prune", **POLICY)
    assert answer.code == 3
    assert generations[-1] in present(backups)
    assert re.search(rf"{generations[-1]}  +stays +damaged: not counted", answer.out)


def test_prune_dry_run_writes_nothing(typed: Keyboard, backups: Path, generations: list[str]) -> None:
    log = (backups / "backup.log").read_bytes()
    assert typed("prune", "--dry-run", **POLICY).code == 0
    assert (backups / "backup.log").read_bytes() == log
    assert present(backups) == set(generations)


def test_prune_of_empty_store_does_nothing(typed: Keyboard, backups: Path) -> None:
    assert typed("prune", "--dry-run").out == "no generations\n"
    assert not backups.exists()


def test_prune_with_policy_that_keeps_nothing_is_refused(typed: Keyboard, backups: Path, generation: str) -> None:
    answer = typed("prune", BACKUPD_RETENTION__WITHIN="0", BACKUPD_RETENTION__DAILY="0", BACKUPD_RETENTION__WEEKLY="0")
    assert (answer.code, "would prune every generation" in answer.err) == (78, True)
    assert present(backups) == {generation}
