"""`backupd restore --to`: verified first, renamed last, and never over an existing file."""

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from keyboard import Keyboard, Pair

from backupd.model import Manifest
from backupd.tasks.context import TaskContext
from support.backup_runs import NO_CAPABILITIES
from support.bank import is_balanced
from support.command import Backupd, log_lines
from support.generations import backdated, flip_byte, manifest_of, rewritten
from support.rights import Rights


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@contextmanager
def mounted(kind: str, options: str, source: str, place: Path) -> Iterator[None]:
    """Mount while the block runs. Needs root."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, "-o", options, source, str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_latest_generation_is_restored_byte_for_byte_and_reported(
    backupd: Backupd, context: TaskContext, backups: Path, generation: str, target: Path
) -> None:
    backdated(backups, generation, days=1)
    answer = backupd("restore", "latest", "--to", target, "--json")
    assert (answer.code, answer.err) == (0, "")
    facts = answer.json
    assert (facts["generation"], facts["target"], facts["dry_run"]) == (generation, str(target), False)
    data = target.read_bytes()
    assert (
        facts["snapshot_sha256"] == hashlib.sha256(data).hexdigest() == manifest_of(context, generation).snapshot.sha256
    )
    assert facts["snapshot_bytes"] == len(data)
    assert is_balanced(target)
    assert names(target.parent) == {"tasks.db"}
    assert target.stat().st_nlink == 1
    (line,) = [line for line in log_lines(backups) if line["event.action"] == "generation.restored"]
    assert (line["backupd.generation"], line["backupd.target"]) == (generation, str(target))


def test_restore_prints_target_and_verification(typed: Keyboard, generation: str, target: Path) -> None:
    answer = typed("restore", "--to", target)
    assert answer.out.startswith(f"restored {generation} to {target} (")
    assert ", integrity checked\n" in answer.out


def test_older_generation_is_restored_by_id(typed: Keyboard, backups: Path, generation: str, target: Path) -> None:
    older = backdated(backups, generation, days=3)
    assert typed("restore", older, "--to", target, "--json").json["generation"] == older
    assert is_balanced(target)


def test_relative_target_is_in_working_directory(backupd: Backupd, generation: str, tmp_path: Path) -> None:
    answer = backupd("restore", generation, "--to", "here.db", "--json")
    assert answer.json["target"] == str(tmp_path / "here.db")
    assert is_balanced(tmp_path / "here.db")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444])
def test_restored_file_has_mode_of_source(typed: Keyboard, database: Path, target: Path, mode: int) -> None:
    database.chmod(mode)
    assert typed("backup").code == 0
    umask = os.umask(0o077)
    try:
        assert typed("restore", "--to", target).code == 0
    finally:
        os.umask(umask)
    assert oct(stat.S_IMODE(target.stat().st_mode)) == oct(mode)


def of_another(manifest: Manifest) -> Manifest:
    """Return `manifest` as if the source had belonged to somebody else."""
    return replace(manifest, origin=replace(manifest.origin, uid=4321, gid=8765))


@pytest.mark.root
def test_file_restored_by_root_has_owner_of_source(
    typed: Keyboard, backups: Path, generation: str, target: Path
) -> None:
    rewritten(backups, generation, of_another)
    answer = typed("restore", "--to", target)
    assert "owner 4321:8765" in answer.out
    assert (target.stat().st_uid, target.stat().st_gid) == (4321, 8765)


@pytest.mark.root
def test_file_restored_by_root_without_chown_capability_belongs_to_root_with_note(
    backupd: Backupd, backups: Path, generation: str, target: Path
) -> None:
    rewritten(backups, generation, of_another)
    powerless = replace(backupd, rights=Rights(("dac_override", "dac_read_search", "setuid", "setgid")))
    done = powerless("restore", "--to", target)
    assert (done.code, "owner is you" in done.out) == (0, True), done
    assert target.stat().st_uid == 0
    assert is_balanced(target)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--at", "yesterday"),
        ("--at", "2026-13-01 00:00"),
        ("tasks-20261123-0400", "--at", "2026-11-23 04:00"),
        ("latest", "--from", "nas"),
        ("latest", "--source", "nonsense"),
    ],
    ids=" ".join,
)
def test_invalid_arguments_are_usage_error(
    typed: Keyboard, generation: str, target: Path, arguments: tuple[str, ...]
) -> None:
    answer = typed("restore", *arguments, "--to", target, "--json")
    assert (answer.code, answer.json["exit_code"]) == (2, 2)
    assert answer.json["hint"]
    assert generation not in answer.out
    assert names(target.parent) == set()


def test_restore_to_path_with_several_sources_needs_source_name(pair: Pair, target: Path) -> None:
    typed = Keyboard({})
    typed("backup", "--config", pair.config)
    answer = typed("restore", "--config", pair.config, "--to", target, "--json")
    assert (answer.code, answer.json["error"]) == (2, "which source: notes, tasks?")
    answer = typed("restore", "--config", pair.config, "--source", "notes", "--to", target, "--json")
    assert answer.json["generation"].startswith("notes-")


def test_generation_of_unconfigured_source_is_restored_by_source_name(
    typed: Keyboard, backups: Path, generation: str, target: Path
) -> None:
    left = backdated(backups, generation, days=1, source="retired")
    assert typed("restore", "--source", "retired", "--to", target, "--json").json["generation"] == left


# --- Nothing is replaced, nothing is left behind ---


def test_restore_to_path_dry_run_prints_plan_and_changes_nothing(
    typed: Keyboard, backups: Path, generation: str, target: Path
) -> None:
    log = (backups / "backup.log").read_bytes()
    rehearsal = typed("restore", "--to", target, "--dry-run", "--json").json
    assert names(target.parent) == set()
    assert (backups / "backup.log").read_bytes() == log
    done = typed("restore", "--to", target, "--json").json
    assert rehearsal == {**done, "dry_run": True}
    assert typed("restore", "--to", target.with_name("b.db"), "--dry-run").out.startswith(f"would restore {generation}")


def plant_file(path: Path) -> None:
    path.write_bytes(b"mine")


def plant_link(path: Path) -> None:
    path.symlink_to("/no/such/file")


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)], ids=["real", "dry run"])
@pytest.mark.parametrize("plant", [plant_file, plant_link, Path.mkdir], ids=["file", "dead link", "directory"])
def test_existing_target_is_never_replaced(
    typed: Keyboard, generation: str, target: Path, plant: object, dry_run: tuple[str, ...]
) -> None:
    plant(target)  # type: ignore[operator]
    before = target.lstat()
    answer = typed("restore", generation, "--to", target, "--json", *dry_run)
    assert (answer.code, answer.json["error"]) == (
        1,
        f"{target} is a directory" if target.is_dir() else f"{target} already exists",
    )
    assert (target.lstat().st_ino, target.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(target.parent) == {"tasks.db"}


def test_target_with_trailing_slash_is_refused(typed: Keyboard, generation: str, target: Path) -> None:
    answer = typed("restore", generation, "--to", f"{target}/", "--json")
    assert (answer.code, answer.json["hint"]) == (2, "give the path of a new file in it")
    assert names(target.parent) == set()


@pytest.mark.root
def test_unwritable_target_is_reported_with_hint_about_permissions(
    backupd: Backupd, generation: str, target: Path
) -> None:
    target.parent.chmod(0o555)
    done = replace(backupd, rights=NO_CAPABILITIES)("restore", generation, "--to", target)
    assert done.code == 1
    assert f"what to do: user {os.geteuid()}:{os.getegid()} lacks the rights to {target.parent}" in done.err


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_target_beside_stale_side_file_is_refused(typed: Keyboard, generation: str, target: Path, suffix: str) -> None:
    Path(f"{target}{suffix}").write_bytes(b"stale")
    answer = typed("restore", generation, "--to", target, "--json")
    assert (answer.code, f"{target}{suffix}" in answer.json["error"]) == (1, True)
    assert "move it away" in answer.json["hint"]
    assert names(target.parent) == {f"tasks.db{suffix}"}


def test_missing_target_directory_is_named(typed: Keyboard, generation: str, target: Path) -> None:
    answer = typed("restore", generation, "--to", target / "deeper" / "x.db", "--json")
    assert (answer.code, answer.json["error"]) == (1, f"the directory {target / 'deeper'} does not exist")


def test_damaged_archive_leaves_no_files(typed: Keyboard, backups: Path, generation: str, target: Path) -> None:
    flip_byte(backups / f"{generation}.sqlite3.gz")
    answer = typed("restore", generation, "--to", target, "--json")
    assert (answer.code, "damaged" in answer.json["error"]) == (1, True)
    assert "another" in answer.json["hint"]
    assert names(target.parent) == set()


def test_unknown_generation_is_reported_as_unknown(typed: Keyboard, generation: str, target: Path) -> None:
    answer = typed("restore", f"{generation}-9", "--to", target, "--json")
    assert (answer.code, answer.json["error"]) == (1, f"there is no generation {generation}-9")


def test_restore_from_empty_store_fails_and_creates_no_store(typed: Keyboard, backups: Path, target: Path) -> None:
    assert typed("restore", "--to", target).code == 1
    assert not backups.exists()


def test_hint_for_empty_store_names_next_command(typed: Keyboard, database: Path, target: Path, tmp_path: Path) -> None:
    replica = {"BACKUPD_REPLICAS__NAS__URL": str(tmp_path / "nas")}
    here = typed("restore", "--to", target, "--json").json["hint"]
    assert here == "run backupd backup first"
    assert typed("restore", "--json", **replica).json["hint"] == f"{here}; or restore from a replica: --from nas"
    database.unlink()
    assert typed("restore", "--json", **replica).json["hint"] == "restore from a replica: --from nas"
    lost = typed("restore", "--json").json["hint"]
    assert ("backupd backup" in lost, "--from NAME" in lost, "backups_dir" in lost) == (False, True, True)
    failed = typed("backup", "--json").json
    assert (failed["outcome"], "if the database is lost: backupd restore" in failed["hint"]) == ("failed", True)


@pytest.mark.root
def test_target_without_space_is_refused_before_writing(typed: Keyboard, generation: str, target: Path) -> None:
    with mounted("tmpfs", "size=64k", "small", target.parent):
        for dry_run in ((), ("--dry-run",)):
            answer = typed("restore", generation, "--to", target, "--json", *dry_run)
            assert (answer.code, "KiB are free" in answer.json["error"]) == (1, True)
            assert names(target.parent) == set()
    assert typed("restore", generation, "--to", target).code == 0


@pytest.mark.root
def test_restore_from_read_only_disk_succeeds(
    typed: Keyboard, backups: Path, generation: str, target: Path, tmp_path: Path
) -> None:
    with mounted("tmpfs", "size=8m", "disk", tmp_path / "disk"):
        for path in backups.glob("tasks-*"):  # as somebody copied them there, without .backupd
            shutil.copy(path, tmp_path / "disk")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        answer = typed("restore", "--to", target, "--json", BACKUPD_BACKUPS_DIR=str(tmp_path / "disk"))
    assert answer.code == 0, answer.err
    assert answer.json["generation"] == generation
    assert is_balanced(target)


@pytest.mark.root
def test_restore_on_file_system_without_hard_links_succeeds(typed: Keyboard, generation: str, target: Path) -> None:
    with mounted("tmpfs", "size=8m,nr_inodes=2", "no-links", target.parent):  # room for one name
        answer = typed("restore", generation, "--to", target, "--json")
        assert answer.code == 0, answer.err
        assert is_balanced(target)
        assert names(target.parent) == {"tasks.db"}
