"""`backupd verify` finds, reports and records damage, and reports nothing else as damage."""

import gzip
import re
from dataclasses import replace
from pathlib import Path

import pytest
from keyboard import Keyboard, Pair

from backupd.model import Manifest
from backupd.tasks.context import TaskContext
from support.bank import is_balanced
from support.command import Backupd, log_lines
from support.generations import backdated, flip_byte, inflated, rewritten
from support.held import pack_file


@pytest.fixture
def older(backups: Path, generation: str) -> str:
    """A second generation, a day older."""
    return backdated(backups, generation, days=1)


def archive_of(backups: Path, generation: str) -> Path:
    return backups / f"{generation}.sqlite3.gz"


def listed(typed: Keyboard) -> dict[str, tuple[str, list[str]]]:
    """Return verification and kept-for reasons by id."""
    return {fact["id"]: (fact["verification"], fact["kept_for"]) for fact in typed("list", "--json").json}


def events(backups: Path) -> list[str]:
    return [line["event.action"] for line in log_lines(backups)]


def test_sound_generations_are_verified_again(backupd: Backupd, backups: Path, generation: str, older: str) -> None:
    answer = backupd("verify", "--all", "--json")
    assert (answer.code, answer.err) == (0, "")
    assert [(check["id"], check["store"], check["sound"], check["detail"]) for check in answer.json] == [
        (generation, "local", True, "sound"),
        (older, "local", True, "sound"),
    ]
    assert all(check["duration_s"] > 0 for check in answer.json)
    assert events(backups).count("generation.verified") == 2
    assert not list((backups / ".backupd" / "staging").iterdir())


def test_verify_without_id_checks_newest_generation(typed: Keyboard, generation: str, older: str) -> None:
    answer = typed("verify")
    assert (answer.code, answer.out.startswith(f"{generation}: verified (")) == (0, True)
    assert older not in answer.out


def test_latest_means_same_generation_for_show_verify_and_restore(
    typed: Keyboard, backups: Path, generation: str, older: str
) -> None:
    assert typed("show", "latest", "--json").json["manifest"]["id"] == generation
    flip_byte(archive_of(backups, generation))
    assert typed("verify", "latest").code == 1
    assert typed("show", "latest", "--json").json["manifest"]["id"] == older
    assert [check["id"] for check in typed("verify", "latest", older, "--json").json] == [older]


def test_latest_with_several_sources_needs_source_name(typed: Keyboard, pair: Pair) -> None:
    typed("backup", "--config", pair.config)
    for command in ("show", "verify"):
        answer = typed(command, "latest", "--config", pair.config)
        assert (answer.code, "which source: notes, tasks?" in answer.err) == (2, True)
        assert typed(command, "latest", "--source", "nonsense", "--config", pair.config).code == 2
    shown = typed("show", "latest", "--source", "notes", "--config", pair.config, "--json")
    assert shown.json["manifest"]["source"] == "notes"
    both = typed("verify", "latest", "--source", "notes", "--source", "tasks", "--config", pair.config, "--json")
    assert [check["id"].partition("-")[0] for check in both.json] == ["notes", "tasks"]


@pytest.mark.parametrize("at", [0.0, 0.3, 0.999])
def test_flipped_byte_in_archive_is_reported_recorded_and_not_counted(
    backupd: Backupd, typed: Keyboard, backups: Path, tmp_path: Path, generation: str, older: str, at: float
) -> None:
    flip_byte(archive_of(backups, generation), at)
    assert listed(typed)[generation][0] == "full", "nobody has looked yet"
    answer = backupd("verify", generation, older)
    assert answer.code == 1
    assert answer.out.splitlines()[0].startswith(f"{generation}: DAMAGED (")
    assert answer.out.splitlines()[1].startswith(f"{older}: verified (")
    found = listed(typed)
    assert found[generation] == ("corrupt", ["damaged: not counted; backupd remove deletes it"])
    assert found[older][0] == "full"
    assert "last-verified" in found[older][1]
    assert "generation.damaged" in events(backups)
    refused = typed("restore", generation, "--to", tmp_path / "bad.db")
    assert (refused.code, (tmp_path / "bad.db").exists()) == (1, False)
    restored = typed("restore", "latest", "--to", tmp_path / "good.db", "--accept-older", "--json")
    assert (restored.code, restored.json["generation"]) == (3, older)
    assert is_balanced(tmp_path / "good.db")


def test_retention_removes_nothing_in_favour_of_damaged_generation(
    typed: Keyboard, backups: Path, generation: str, older: str
) -> None:
    flip_byte(archive_of(backups, generation))
    assert typed("verify", generation).code == 1
    policy = {"BACKUPD_RETENTION__DAILY": "0", "BACKUPD_RETENTION__WEEKLY": "0", "BACKUPD_RETENTION__LAST": "1"}
    assert typed("prune", **policy).code == 0
    assert {path.name for path in backups.glob("*.gz")} == {f"{generation}.sqlite3.gz", f"{older}.sqlite3.gz"}


def test_flipped_byte_in_manifest_is_reported_and_not_counted(
    typed: Keyboard, backups: Path, tmp_path: Path, generation: str, older: str
) -> None:
    flip_byte(backups / f"{generation}.manifest.json")
    answer = typed("verify", "--all", "--json")
    assert answer.code == 1
    assert {check["id"]: check["sound"] for check in answer.json} == {generation: False, older: True}
    assert "do not match its own digest" in answer.json[0]["detail"]
    assert listed(typed)[generation] == ("corrupt", ["damaged: not counted; backupd remove deletes it"])
    refused = typed("restore", generation, "--to", tmp_path / "bad.db", "--json")
    assert (refused.code, "its own digest" in refused.json["error"]) == (1, True)
    assert typed("restore", older, "--to", tmp_path / "good.db").code == 0


def test_missing_archive_is_damage_named_by_every_command(
    typed: Keyboard, backups: Path, generation: str, older: str
) -> None:
    archive_of(backups, older).unlink()
    answer = typed("verify", "--all")
    assert answer.code == 1
    assert re.search(rf"^{older}: DAMAGED .*its archive is gone$", answer.out, re.MULTILINE)
    assert typed("verify", older).code == 1
    assert listed(typed)[older] == ("corrupt", ["damaged: not counted; backupd remove deletes it"])
    told = f"{older}: its archive is gone (put {older}.sqlite3.gz back, or run backupd remove {older})"
    assert typed("list").err == f"warning: {told}\n"
    assert typed("restore", older, "--to", backups / "x.db", "--json").json["error"] == f"{older}: its archive is gone"
    backup = typed("backup", "--json")
    assert (backup.code, backup.json["warnings"]) == (3, [told])
    assert older not in (backups / "SHA256SUMS").read_text()
    assert generation in (backups / "SHA256SUMS").read_text()
    assert typed("remove", older).code == 0
    assert typed("backup").code == 0


def test_refused_manifest_is_warned_of_once_per_run_until_hint_is_followed(
    typed: Keyboard, backups: Path, generation: str, older: str
) -> None:
    flip_byte(backups / f"{older}.manifest.json")
    backup = typed("backup", "--json")
    assert backup.code == 3
    (warning,) = backup.json["warnings"]
    assert warning.startswith(f"the manifest of '{older}' is not valid: its bytes do not match its own digest (if ")
    said = [line for line in log_lines(backups) if line["event.action"] == "manifest.refused"]
    assert [(line["backupd.generation"], line["backupd.hint"] in warning) for line in said] == [(older, True)]
    assert warning.endswith(f"; then run backupd remove {older})")
    assert typed("remove", older).code == 0
    assert not list(backups.glob(f"{older}.*"))
    assert (typed("backup").code, generation in typed("list").out) == (0, True)


@pytest.mark.parametrize("length", [0, 1, 5000])
def test_truncated_archive_is_damaged(typed: Keyboard, backups: Path, generation: str, length: int) -> None:
    path = archive_of(backups, generation)
    path.write_bytes(path.read_bytes()[:length])
    assert typed("verify", generation).code == 1


@pytest.mark.parametrize("field", ["snapshot", "archive"])
def test_archive_unlike_manifest_is_damaged(
    typed: Keyboard, backups: Path, tmp_path: Path, generation: str, field: str
) -> None:
    def of_another(manifest: Manifest) -> Manifest:
        facts = replace(getattr(manifest, field), sha256="0" * 64)
        return replace(manifest, **{field: facts})

    rewritten(backups, generation, of_another)
    assert listed(typed)[generation][0] == "full"
    assert typed("restore", generation, "--to", tmp_path / "x.db").code == 1
    assert not (tmp_path / "x.db").exists()
    assert typed("verify", generation).code == 1
    assert listed(typed)[generation][0] == "corrupt"


def test_archive_of_corrupt_database_is_damaged(
    typed: Keyboard, backups: Path, tmp_path: Path, generation: str
) -> None:
    snapshot, archive = tmp_path / "snapshot", backups / f"{generation}.sqlite3.gz"
    data = bytearray(gzip.decompress(archive.read_bytes()))
    data[5 * 4096 : 6 * 4096] = bytes(4096)
    snapshot.write_bytes(data)
    archive.unlink()
    packed = pack_file(snapshot, archive, level=1, workers=1, advance=lambda _done: None)

    def of_that(manifest: Manifest) -> Manifest:
        return replace(
            manifest,
            archive=packed.archive,
            snapshot=replace(manifest.snapshot, sha256=packed.snapshot_sha256),
        )

    rewritten(backups, generation, of_that)
    answer = typed("verify", generation, "--json")
    assert (answer.code, f"{generation}: it is corrupt: " in answer.json[0]["detail"]) == (1, True)
    assert typed("restore", generation, "--to", tmp_path / "x.db").code == 1
    assert not (tmp_path / "x.db").exists()


def test_repaired_generation_counts_again_after_verify(typed: Keyboard, backups: Path, generation: str) -> None:
    path = archive_of(backups, generation)
    good = path.read_bytes()
    flip_byte(path)
    assert typed("verify", generation).code == 1
    path.write_bytes(good)
    assert listed(typed)[generation][0] == "corrupt", "a repair has to be proven"
    assert typed("verify", generation).code == 0
    assert listed(typed)[generation][0] == "full"


@pytest.mark.parametrize("unknown", ["tasks-20200101-0400", "newest", "../x", "tasks"])
def test_unknown_id_is_no_damage(
    typed: Keyboard, context: TaskContext, backups: Path, generation: str, unknown: str
) -> None:
    answer = typed("verify", generation, unknown, "--json")
    assert (answer.code, answer.json["error"]) == (1, f"there is no generation {unknown}")
    assert context.ask_catalog(lambda catalog: catalog.damaged("local"), None) == frozenset()
    assert "generation.damaged" not in events(backups)
    assert "generation.verified" not in events(backups), "nothing begins before all ids are known"


def test_all_with_id_is_usage_error_and_empty_store_fails_with_hint(
    typed: Keyboard, backups: Path, generation: str
) -> None:
    assert typed("verify", "--all", generation).code == 2
    for path in backups.glob("tasks-*"):
        path.unlink()
    answer = typed("verify", "--json")
    assert (answer.code, answer.json["hint"]) == (1, "run backupd backup first")


def test_insufficient_space_to_unpack_is_no_damage(
    typed: Keyboard, context: TaskContext, backups: Path, generation: str
) -> None:
    inflated(backups, generation, 1 << 50)
    answer = typed("verify", generation, "--json")
    (result,) = answer.json
    assert (answer.code, result["sound"], result["damaged"], "TiB" in result["detail"]) == (1, False, False, True)
    assert f"{generation}: NOT VERIFIED" in typed("verify", generation).out
    assert context.ask_catalog(lambda catalog: catalog.damaged("local"), None) == frozenset()


def test_empty_replica_is_named_with_command_that_fills_it(typed: Keyboard, tmp_path: Path) -> None:
    replica = {"BACKUPD_REPLICAS__OFFSITE__URL": f"file:{tmp_path}/offsite"}
    for command in (("verify", "--all", "--store", "offsite"), ("restore", "--dry-run", "--from", "offsite")):
        answer = typed(*command, **replica)
        assert answer.code == 1
        assert "there is no generation in store offsite" in answer.err
        assert "what to do: run backupd replicate --to offsite first" in answer.err
    assert "what to do: run backupd backup first" in typed("verify", "--all").err
    unknown = typed("verify", "tasks-20200101-0000", "--store", "offsite", **replica)
    assert "what to do: see backupd list --store offsite" in unknown.err
