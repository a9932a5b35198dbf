"""`backupd list` and `backupd show`: generations, why they are kept, and what is known of each."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from keyboard import Keyboard, Pair, into_closed_pipe, onto_full_disk

from backupd.model import Manifest
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.requests import BackupRequest
from support.command import Backupd
from support.generations import backdated, rewritten

KEPT = r"daily \d{4}-\d\d-\d\d"


LIST_AND_NAME_WHAT_IS_SLOW_TO_START = """
import sys
from backupd.cli import cli
cli(["list"], standalone_mode=False)
print(*{"sqlalchemy", "paramiko"} & sys.modules.keys())
"""


# --- list ---


def test_local_list_loads_no_slow_modules(backupd: Backupd, generation: str) -> None:
    listed = subprocess.run(
        [sys.executable, "-c", LIST_AND_NAME_WHAT_IS_SLOW_TO_START],
        env=backupd.environment(),
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.splitlines()
    assert re.fullmatch(rf"{generation} .* local", listed[1])
    assert listed[2:] == [""]


def test_json_has_documented_fields(backupd: Backupd, backups: Path, generation: str) -> None:
    answer = backupd("list", "--json")
    assert (answer.code, answer.err) == (0, "")
    (facts,) = answer.json
    assert facts["id"] == generation
    assert facts["source"] == "tasks"
    assert facts["archive_bytes"] == (backups / f"{generation}.sqlite3.gz").stat().st_size
    assert (facts["verification"], facts["stores"]) == ("full", ["local"])
    assert [re.sub(r"\d{4}-(\d\d-\d\d|W\d\d)", "…", reason) for reason in facts["kept_for"]] == [
        "daily …",
        "weekly …",
        "within 48h",
        "last-verified",
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00", facts["taken_at"])
    assert f"tasks-{facts['taken_at'][:16].replace('-', '').replace('T', '-').replace(':', '')}" == generation


def test_piped_list_is_aligned_lines(typed: Keyboard, backups: Path, generation: str) -> None:
    older = backdated(backups, generation, days=3)
    backdated(backups, generation, days=3.01)
    policy = {"BACKUPD_RETENTION__DAILY": "0", "BACKUPD_RETENTION__WEEKLY": "0", "BACKUPD_RETENTION__LAST": "2"}
    heading, *lines = typed("list", **policy).out.splitlines()
    assert re.split(r"\s{2,}", heading) == ["generation", "taken", "age", "size", "verified", "kept for", "stores"]
    assert [line.split()[0] for line in lines[:2]] == [generation, older]
    assert re.match(
        rf"{older}  \d{{4}}-\d\d-\d\d \d\d:\d\d UTC  +3 d  +[\d.]+ KiB  full  +last, window-start 48h  +local$",
        lines[1],
    )
    assert "removed by the next prune" in lines[2]
    assert {line.index("full") for line in lines} == {heading.index("verified")}


def test_list_and_show_have_local_time_with_zone_beside_utc_ids(
    typed: Keyboard, context: TaskContext, generation: str
) -> None:
    zone = {"BACKUPD_SCHEDULE__TIMEZONE": "Asia/Kathmandu"}
    taken_at = local_inventory(context).manifests[generation].taken_at
    local = taken_at.astimezone(ZoneInfo("Asia/Kathmandu"))
    assert re.search(rf"^{generation}  {local:%F %H:%M} \+0545  ", typed("list", **zone).out, re.MULTILINE)
    shown = typed("show", generation, **zone).out
    assert f"{local:%F %T} Asia/Kathmandu ({taken_at:%F %T} UTC)\n" in shown
    assert re.search(r"^[\d-]+ [\d:]+ \+0545  backup of tasks", shown, re.MULTILINE)
    times = [[fact["taken_at"] for fact in typed("list", "--json", **there).json] for there in (zone, {})]
    assert times == [[taken_at.isoformat()]] * 2


def test_generations_of_several_sources_are_newest_first(pair: Pair) -> None:
    typed = Keyboard({})
    typed("backup", "--config", pair.config)
    backups = pair.config.parent / "backups"
    (notes,) = backups.glob("notes-*.sqlite3.gz")
    for days in (1, 2):
        backdated(backups, notes.name.removesuffix(".sqlite3.gz"), days=days)
    (tasks,) = backups.glob("tasks-*.sqlite3.gz")
    backdated(backups, tasks.name.removesuffix(".sqlite3.gz"), days=1.5)
    facts = typed("list", "--config", pair.config, "--json").json
    sources = [fact["source"] for fact in facts]
    assert (sorted(sources[:2]), sources[2:]) == (["notes", "tasks"], ["notes", "tasks", "notes"])  # two of one instant
    assert facts == sorted(facts, key=lambda fact: fact["taken_at"], reverse=True)
    assert all(fact["kept_for"] for fact in facts)
    only = typed("list", "--config", pair.config, "--source", "tasks", "--json").json
    assert only == [fact for fact in facts if fact["source"] == "tasks"]


def test_generations_of_unconfigured_source_are_listed(typed: Keyboard, backups: Path, generation: str) -> None:
    left = backdated(backups, generation, days=1, source="retired")
    facts = {fact["id"]: fact["kept_for"] for fact in typed("list", "--json").json}
    assert facts[left] == ["source not configured"]
    assert [fact["id"] for fact in typed("list", "--source", "retired", "--json").json] == [left]


def test_empty_store_lists_nothing_and_is_not_created(typed: Keyboard, backups: Path) -> None:
    assert (typed("list").out, typed("list", "--json").json) == (f"no generations in {backups}\n", [])
    assert not backups.exists()


def test_unknown_source_or_store_is_usage_error_with_known_names(typed: Keyboard, generation: str) -> None:
    for arguments, known in ((("--source", "task"), "tasks"), (("--store", "nas"), "local")):
        for command in ("list", "verify"):
            answer = typed(command, *arguments, "--json")
            assert answer.code == answer.json["exit_code"] == 2
            assert (arguments[1] in answer.json["error"], known in answer.json["hint"]) == (True, True)
    assert generation in typed("list", "--source", "tasks").out


def test_replica_is_listed_from_its_own_files(typed: Keyboard, generation: str, tmp_path: Path) -> None:
    nas = {"BACKUPD_REPLICAS__NAS__URL": str(tmp_path / "nas")}
    assert generation not in typed("list", "--store", "nas", **nas).out
    assert typed("replicate", **nas).code == 0
    assert generation in typed("list", "--store", "nas", **nas).out


def test_refused_manifest_is_listed_as_corrupt_with_warning(typed: Keyboard, backups: Path, generation: str) -> None:
    bad = backdated(backups, generation, days=1)
    (backups / f"{bad}.manifest.json").write_bytes(b"{}")
    answer = typed("list")
    assert answer.code == 0
    assert re.search(rf"^{bad} .* corrupt +damaged: not counted", answer.out, re.MULTILINE)
    assert f"warning: the manifest of '{bad}' is not valid" in answer.err


def test_damaged_generations_are_listed_with_command_that_deletes_them(
    typed: Keyboard, context: TaskContext, generation: str
) -> None:
    context.marks.add(generation, "its archive is damaged")
    answer = typed("list")
    assert re.search(rf"^{generation} .* corrupt +damaged: not counted", answer.out, re.MULTILINE)
    command = answer.err.partition("to delete them: backupd ")[2].split()
    assert command == ["remove", generation]
    assert typed(*command).code == 0
    assert typed("list").out.startswith("no generations in ")


@pytest.mark.parametrize(
    "command",
    ["list", "verify", "restore", "show latest", "show x-20261101-0400", "prune --dry-run", "clean --dry-run", "log"],
)
def test_backups_directory_as_dangling_link_is_not_empty_store(typed: Keyboard, tmp_path: Path, command: str) -> None:
    link = tmp_path / "link"
    link.symlink_to("/nowhere/backups")
    answer = typed(*command.split(), BACKUPD_BACKUPS_DIR=str(link))
    assert answer.code == 1
    assert f"error: {link} is a symbolic link to /nowhere/backups" in answer.err
    assert "no generations" not in answer.out


def test_archive_with_size_unlike_manifest_is_corrupt(typed: Keyboard, backups: Path, generation: str) -> None:
    with (backups / f"{generation}.sqlite3.gz").open("ab") as stream:
        stream.write(b"\0")
    (facts,) = typed("list", "--json").json
    assert (facts["verification"], facts["kept_for"]) == (
        "corrupt",
        ["damaged: not counted; backupd remove deletes it"],
    )


@pytest.mark.cover_processes
def test_closed_output_pipe_causes_no_traceback(backupd: Backupd, generation: str) -> None:
    assert generation
    assert into_closed_pipe(backupd, "list") == (141, "")
    code, err = into_closed_pipe(backupd, "list", "--store", "nas", "--json")
    assert (code != 0, "Traceback" in err) == (True, False)


@pytest.mark.cover_processes
def test_output_error_is_not_reported_as_disk_error_of_backups(backupd: Backupd, generation: str) -> None:
    assert generation
    for arguments in (("list",), ("list", "--json"), ("backup", "--json"), ("list", "--store", "nas", "--json")):
        code, err = onto_full_disk(backupd, *arguments)
        assert code == 1
        assert err.startswith("error: standard output cannot be written: No space left on device\n"), err
        assert "Traceback" not in err
        assert "rights" not in err


_COUNTING = """
import collections, sys
reads = collections.Counter()
def watch(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".manifest.json"):
        reads[arguments[0]] += 1
sys.addaudithook(watch)
from backupd.cli import cli
cli(["list", "--json"], standalone_mode=False)
print(len(reads), max(reads.values()), file=sys.stderr)
"""


def test_three_hundred_generations_are_in_order_and_each_manifest_is_read_once(
    backupd: Backupd, backups: Path, generation: str
) -> None:
    keys = [generation, *(backdated(backups, generation, days=number / 2) for number in range(1, 300))]
    done = subprocess.run(
        [sys.executable, "-c", _COUNTING], env=backupd.environment(), capture_output=True, text=True, check=True
    )
    facts = json.loads(done.stdout)
    assert [fact["id"] for fact in facts] == keys
    assert sum(any(re.match(KEPT, reason) for reason in fact["kept_for"]) for fact in facts) == 7
    assert done.stderr == "300 1\n"


# --- show ---


def test_show_prints_manifest_and_history(backupd: Backupd, generation: str, order: BackupRequest) -> None:
    answer = backupd("show", generation)
    assert (answer.code, answer.err) == (0, "")
    said = dict(re.split(r"\s{2,}|(?<=sha256) ", line, maxsplit=1) for line in answer.out.splitlines())
    assert said["generation"] == generation
    assert str(order.path) in said["source"]
    assert said["verified"] == "full (integrity_check)"
    assert said["tables"] == "2 with 1000 rows"
    assert said["archive"].endswith(", 1 member")
    assert any(f"backup of tasks: published {generation}" in text for text in said.values())


def test_show_as_json_has_manifest_and_history(typed: Keyboard, backups: Path, generation: str) -> None:
    facts = typed("show", generation, "--json").json
    stored = json.loads((backups / f"{generation}.manifest.json").read_bytes())
    del stored["manifest_sha256"]
    assert facts["manifest"]["snapshot"] == stored["snapshot"]
    assert set(facts["manifest"]) == set(stored)
    (run,) = facts["history"]["runs"]
    assert (run["task"], run["report"]["generation"]) == ("backup", generation)
    assert facts["history"]["checks"] == []


@pytest.mark.parametrize("unknown", ["tasks-20200101-0400", "../tasks-20200101-0400", "nonsense", "-"])
def test_show_of_missing_generation_fails(typed: Keyboard, generation: str, unknown: str) -> None:
    answer = typed("show", unknown, "--json")
    assert (answer.code, answer.json["exit_code"]) == (1, 1)
    assert unknown in answer.json["error"]
    assert generation not in answer.out


def test_show_of_refused_manifest_names_reason(typed: Keyboard, backups: Path, generation: str) -> None:
    (backups / f"{generation}.manifest.json").write_bytes(b"{}")
    answer = typed("show", generation)
    assert (answer.code, answer.out) == (1, "")
    assert "do not match its own digest" in answer.err
    assert "what to do: " in answer.err


def test_control_characters_in_manifest_are_not_printed(typed: Keyboard, backups: Path, generation: str) -> None:
    hostile = "\x1b]0;owned\x07\r\n"

    def changed(manifest: Manifest) -> Manifest:
        origin = replace(manifest.origin, path=hostile)
        verdict = replace(manifest.verdict, notes=(hostile,), checks=(hostile,))
        return replace(manifest, backupd_version=hostile, origin=origin, verdict=verdict)

    rewritten(backups, generation, changed)
    answer = typed("show", generation)
    assert answer.code == 0
    assert answer.out.count(r"\x1b]0;owned\x07") == 4
    assert all(line.isprintable() for line in answer.out.split("\n"))


def test_show_without_catalog_succeeds(typed: Keyboard, context: TaskContext, order: BackupRequest) -> None:
    report = backup(order, context)
    for path in context.store.hidden.glob("catalog.sqlite3*"):
        path.unlink()
    facts = typed("show", report.generation, "--json").json
    assert facts["history"] == {"runs": [], "checks": []}
    assert not context.catalog_path.exists()
