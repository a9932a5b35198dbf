"""`backupd restore --if-missing`: before each start of the app, as an init container runs it."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from keyboard import Keyboard, Pair

from support.bank import spend, transfers
from support.command import Backupd, CommandResult
from support.directories import beside, sha256
from support.processes import die_in_a_transaction

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
AT_START = ("restore", "--if-missing")


@pytest.fixture
def offsite(backupd: Backupd, tmp_path: Path) -> Backupd:
    """The command with a replica, to which the bank was sent."""
    url = f"file:{tmp_path}/offsite"
    with_replica = replace(backupd, environ={**backupd.environ, "BACKUPD_REPLICAS__OFFSITE__URL": url})
    (tmp_path / "offsite").mkdir()
    assert with_replica("backup").code == 0
    assert with_replica("replicate").code == 0
    return with_replica


def test_existing_database_is_kept_and_no_store_is_opened(typed: Keyboard, database: Path, backups: Path) -> None:
    before = sha256(database)
    unreachable = {"BACKUPD_REPLICAS__OFFSITE__URL": "file:/nowhere/at/all"}
    answer = typed(*AT_START, "--from", "offsite", **unreachable)
    assert (answer.code, sha256(database), beside(database)) == (0, before, set())
    assert f"{database} exists: nothing to restore" in answer.out
    assert not backups.exists()


@pytest.mark.parametrize("left", [None, b"", b"\0"], ids=["no file", "an empty file", "a file of one byte"])
def test_missing_or_empty_database_is_restored_from_first_store_with_copy(
    offsite: Backupd, database: Path, backups: Path, left: bytes | None
) -> None:
    database.unlink()
    if left is not None:
        database.write_bytes(left)
    planned = offsite(*AT_START, "--dry-run", "--json")
    assert (planned.code, planned.json[0]["dry_run"]) == (0, True)
    assert (database.read_bytes() if database.exists() else None) == left
    shutil.rmtree(backups)
    answer = offsite(*AT_START, "--json")
    assert answer.code == 0, answer
    assert (answer.json[0]["outcome"], transfers(database)) == ("restored", 0)
    assert offsite(*AT_START).out.endswith("nothing to restore\n")


@pytest.mark.parametrize("place", ["file", "directory"])
def test_newest_point_of_single_database_is_its_newest_generation(
    offsite: Backupd, database: Path, backups: Path, place: str
) -> None:
    at_start = (*AT_START, "--point", "latest", "--allow-none")
    whole = {"BACKUPD_DATABASE": str(database if place == "file" else database.parent)}
    database.unlink()
    shutil.rmtree(backups)
    answer = offsite(*at_start, "--json", **whole)
    assert (answer.code, [one["outcome"] for one in answer.json]) == (0, ["restored"]), answer
    assert transfers(database) == 0
    assert offsite(*at_start, **whole).out.endswith("nothing to restore\n")


def test_missing_database_without_copies_fails_unless_allowed(typed: Keyboard, database: Path) -> None:
    database.unlink()
    answer = typed(*AT_START)
    assert answer.code == 1
    assert "--allow-none" in answer.err
    allowed = typed(*AT_START, "--allow-none", "--json")
    assert (allowed.code, allowed.json) == (0, [{"source": "tasks", "outcome": "none"}])
    assert not database.exists()


@pytest.mark.parametrize("trouble", ["damaged copy", "unreachable replica", "other name", "replica that is not set"])
def test_other_problems_fail_so_that_app_does_not_start_empty(
    offsite: Backupd, database: Path, backups: Path, tmp_path: Path, trouble: str
) -> None:
    database.unlink()
    shutil.rmtree(backups)
    environ, arguments = {}, [*AT_START, "--allow-none"]
    if trouble == "damaged copy":
        for archive in (tmp_path / "offsite").glob("*.gz"):
            archive.write_bytes(archive.read_bytes()[:-9])
    elif trouble == "unreachable replica":
        environ = {"BACKUPD_REPLICAS__OFFSITE__URL": "sftp://user@127.0.0.1:1/backups"}
        environ["BACKUPD_REPLICAS__OFFSITE__HOST_KEY"] = HOST_KEY
    elif trouble == "other name":
        environ = {"BACKUPD_DATABASE": str(database.with_name("jobs.db"))}
    else:
        arguments += ["--from", "elsewhere"]
    answer = offsite(*arguments, **environ)
    assert answer.code not in {0, 3}, answer
    assert not database.exists()
    assert not database.with_name("jobs.db").exists()


def test_side_files_without_database_are_kept_and_restore_is_refused(
    typed: Keyboard, generation: str, database: Path
) -> None:
    assert generation
    die_in_a_transaction(database)
    database.unlink()
    found = {name: (database.parent / name).read_bytes() for name in beside(database) if not name.endswith("-shm")}
    assert found
    answer = typed(*AT_START)
    assert answer.code == 1
    assert "it may hold its data" in answer.err
    assert {name: (database.parent / name).read_bytes() for name in found} == found
    assert not database.exists()


def test_each_missing_database_of_several_sources_is_restored(typed: Keyboard, pair: Pair) -> None:
    assert typed("backup", "--config", str(pair.config)).code == 0
    pair.notes.unlink()
    spend(pair.tasks)
    answer = typed(*AT_START, "--config", str(pair.config), "--json")
    assert [(each["source"], each["outcome"]) for each in answer.json] == [("tasks", "there"), ("notes", "restored")]
    assert (answer.code, transfers(pair.tasks), transfers(pair.notes)) == (0, 1, 0)


def test_one_of_two_simultaneous_runs_restores_and_other_finds_database(
    offsite: Backupd, database: Path, tmp_path: Path
) -> None:
    database.unlink()

    def start(store: str) -> CommandResult:
        return offsite(*AT_START, "--from", "offsite", "--json", BACKUPD_BACKUPS_DIR=f"{tmp_path}/{store}")

    with ThreadPoolExecutor() as pool:  # two that have no store in common
        answers = [*pool.map(start, ("one", "other"))]
    assert [answer.code for answer in answers] == [0, 0], answers
    assert sorted(answer.json[0]["outcome"] for answer in answers) == ["restored", "there"]
    assert not [name for name in beside(database) if name.startswith(".")]


@pytest.mark.parametrize(
    "arguments",
    [["--allow-none"], ["--if-missing", "--online"], ["--if-missing", "--undo"], ["--if-missing", "--to", "/tmp/x"]],
)
def test_options_that_contradict_if_missing_are_refused(typed: Keyboard, arguments: list[str]) -> None:
    assert typed("restore", *arguments).code == 2
