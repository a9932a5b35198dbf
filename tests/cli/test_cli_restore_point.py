"""`backupd restore --point`: all databases of one run, or none; and `--undo` of that."""

import json
import os
import shlex
import shutil
import tempfile
from pathlib import Path

import pytest
from keyboard import Keyboard, on_terminal

from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.history import restore_history
from backupd.sqlite.swap import FileMark, SwapJournal
from backupd.system.resources import free_bytes
from backupd.tasks.restore.point_journal import PartPlace, PointJournal, new_run, write_copy
from support.app import running_app
from support.bank import make_bank, spend, transfers
from support.command import Backupd, log_lines
from support.directories import beside, kept_databases, sha256, small_disk
from support.documents import CommandBlock, blocks_run_by
from support.generations import flip_byte
from support.points import NEW, OLD, PointedApp, make_app, publish_point


@pytest.fixture
def app(tmp_path: Path) -> PointedApp:
    return make_app(tmp_path)


@pytest.fixture
def typed(app: PointedApp) -> Keyboard:
    return Keyboard({"BACKUPD_CONFIG": str(app.config)})


def test_point_replaces_all_databases_and_undo_puts_all_back(app: PointedApp, typed: Keyboard) -> None:
    assert app.rows == OLD
    before = app.digests
    done = typed("restore", "--point", "latest", "--json")
    assert (done.code, done.err) == (0, ""), done
    facts = done.json
    assert (facts["point"], facts["outcome"], facts["spread_ms"] >= 3) == (app.point, "done", True)
    assert [(part["source"], part["generation"]) for part in facts["parts"]] == [
        ("tasks", app.generations[0]),
        ("notes", app.generations[1]),
    ]
    assert app.rows == NEW
    assert [sha256(Path(part["kept"])) for part in facts["parts"]] == before
    undone = typed(*facts["undo"].split()[1:], "--json")
    assert (undone.code, app.digests) == (0, before), undone
    assert [transfers(Path(part["kept"])) for part in undone.json["parts"]] == NEW
    assert typed(*undone.json["undo"].split()[1:]).code == 0
    assert app.rows == NEW
    for path in app.databases:
        assert all(".pre-restore-" in name for name in beside(path))


def test_point_of_backup_of_all_is_restored(app: PointedApp, typed: Keyboard) -> None:
    before = app.rows
    assert typed("backup").code == 0
    for path in app.databases:
        spend(path, 5)
    listed = typed("list", "--points", "--json").json
    done = typed("restore", "--point", "latest", "--json")
    assert done.code == 0, done
    assert done.json["point"] == listed[0]["id"] != app.point
    assert app.rows == before
    assert typed("restore", "--point", app.point).code == 0
    assert app.rows == NEW


def test_restore_of_point_is_told_and_logged(app: PointedApp, typed: Keyboard) -> None:
    said = typed("restore", "--point", app.point)
    assert said.code == 0, said.err
    assert f"2 parts of {app.point} restored" in said.out
    assert f"restored {app.generations[1]} to {app.notes}" in said.out
    assert "undo of all: backupd restore --undo" in said.out
    lines = log_lines(app.backups)
    restored = [line for line in lines if line["event.action"] == "generation.restored"]
    assert [line["backupd.generation"] for line in restored] == [*app.generations]
    assert f"restore of {app.point}: done" in lines[-1]["message"]
    undone = typed("restore", "--undo")
    assert f"taking back the restore of {app.point}: tasks, notes" in undone.out
    assert f"2 parts of {app.point} taken back" in undone.out


def test_dry_run_shows_plan_of_each_part_and_changes_nothing(app: PointedApp, typed: Keyboard) -> None:
    names, before = [beside(path) for path in app.databases], app.digests
    planned = typed("restore", "--point", "latest", "--dry-run")
    assert planned.code == 0, planned.err
    assert f"would restore 2 parts of {app.point}, all or none" in planned.out
    assert f"tasks: {app.generations[0]} to {app.tasks}" in planned.out
    assert f"notes: {app.generations[1]} to {app.notes}" in planned.out
    state = app.notes.stat()
    assert f"owner    {state.st_uid}:{state.st_gid}, mode {state.st_mode & 0o777:04o}" in planned.out
    assert planned.out.count("is replaced (") == planned.out.count("    taken    ") == 2
    facts = typed("restore", "--point", "latest", "--dry-run", "--json").json
    assert (facts["dry_run"], [part["kept"] for part in facts["parts"]]) == (True, [None, None])
    assert ([beside(path) for path in app.databases], app.digests) == (names, before)


@pytest.mark.parametrize("answer", ["no", "yes"])
def test_terminal_shows_plan_and_asks_once_for_all(app: PointedApp, tmp_path: Path, answer: str) -> None:
    backupd = Backupd({"BACKUPD_CONFIG": str(app.config)}, tmp_path)
    code, said = on_terminal(backupd, "restore", "--point", "latest", typing=f"{answer}\n")
    assert said.count("Restore it? Type yes to continue:") == 1
    assert f"would restore 2 parts of {app.point}, all or none" in said
    assert (code, app.rows) == ((0, NEW) if answer == "yes" else (1, OLD)), said
    assert ("another point: backupd list --points" in said) == (answer == "no")


def test_only_restores_one_part_and_is_taken_back_alone(app: PointedApp, typed: Keyboard) -> None:
    facts = typed("restore", "--point", "latest", "--only", "notes", "--json").json
    assert [part["source"] for part in facts["parts"]] == ["notes"]
    assert app.rows == [OLD[0], NEW[1]]
    assert facts["undo"] == "backupd restore --undo --source notes"
    assert typed(*facts["undo"].split()[1:]).code == 0
    assert app.rows == OLD
    unknown = typed("restore", "--point", app.point, "--only", "uploads")
    assert (unknown.code, "has no part 'uploads'" in unknown.err) == (2, True)


def test_database_in_use_refuses_whole_point_and_changes_nothing(app: PointedApp, typed: Keyboard) -> None:
    with running_app(app.notes):
        refused = typed("restore", "--point", "latest")
    assert (refused.code, app.rows) == (75, OLD)
    assert f"{app.notes} is in use" in refused.err
    assert not [*kept_databases(app.tasks), *kept_databases(app.notes)]


def test_damaged_part_refuses_whole_point_and_changes_nothing(app: PointedApp, typed: Keyboard) -> None:
    flip_byte(app.backups / f"{app.generations[1]}.sqlite3.gz")
    before = app.digests
    refused = typed("restore", "--point", app.point)
    assert (refused.code, app.digests) == (1, before)
    assert f"{app.generations[1]}: " in refused.err
    assert [name for path in app.databases for name in beside(path)] == []
    latest = typed("restore", "--point", "latest")
    assert (latest.code, app.digests) == (1, before)
    assert f"{app.generations[1]} is damaged" in latest.err


def test_newer_point_with_missing_part_is_passed_over_only_when_accepted(app: PointedApp, typed: Keyboard) -> None:
    newer = typed("backup", "--source", "tasks", "--json").json["generation"]
    unusable = publish_point(app.backups, [newer, app.generations[1]], 2)
    (app.backups / f"{newer}.sqlite3.gz").unlink()
    refused = typed("restore", "--point", "latest")
    assert (refused.code, app.rows) == (1, OLD)
    assert f"{unusable} ({newer}" in refused.err
    taken = typed("restore", "--point", "latest", "--accept-older", "--json")
    assert (taken.code, taken.json["point"], app.rows) == (3, app.point, NEW)


def test_at_chooses_newest_point_by_then(app: PointedApp, typed: Keyboard) -> None:
    taken_at = typed("restore", "--point", "latest", "--dry-run", "--json").json["taken_at"]
    assert typed("restore", "--point", "latest", "--at", taken_at, "--dry-run", "--json").json["point"] == app.point
    early = typed("restore", "--point", "latest", "--at", "2020-01-01")
    assert (early.code, f"the oldest is {app.point}" in early.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--point", "latest", "--source", "tasks"), "--point and --source do not go together"),
        (("--point", "latest", "--online"), "--to and --online do not go with it"),
        (("--point", "latest", "--undo"), "leave --point out"),
        (("--point", "point-20260101-0000", "--at", "2026-01-01"), "--point ID and --at do not go together"),
        (("--only", "tasks"), "--only and --exact go with --point"),
        (("latest", "--point", "point-20260101-0000"), "there is no restore point point-20260101-0000"),
    ],
)
def test_contradiction_is_refused(app: PointedApp, typed: Keyboard, arguments: tuple[str, ...], why: str) -> None:
    refused = typed("restore", *arguments)
    assert (refused.code != 0, app.rows) == (True, OLD)
    assert why in refused.err


def test_whole_undo_is_refused_after_one_database_was_restored_since(app: PointedApp, typed: Keyboard) -> None:
    assert typed("restore", "--point", "latest").code == 0
    assert typed("restore", "latest", "--source", "notes").code == 0
    refused = typed("restore", "--undo")
    assert (refused.code, app.rows) == (1, NEW)
    assert "notes was restored or taken back since" in refused.err
    assert "backupd restore --undo --source notes" in refused.err
    assert typed("restore", "--undo", "--source", "notes").code == 0
    assert typed("restore", "--undo").code == 0
    assert app.rows == OLD


def test_one_part_is_taken_back_alone_with_warning(app: PointedApp, typed: Keyboard) -> None:
    assert typed("restore", "--point", "latest").code == 0
    alone = typed("restore", "--undo", "--source", "tasks")
    assert (alone.code, app.rows) == (0, [OLD[0], NEW[1]])
    assert f"tasks alone is taken back: notes stay as restored with it ({app.point})" in alone.err
    refused = typed("restore", "--undo")
    assert (refused.code, "cannot be taken back as a whole: tasks" in refused.err) == (1, True)
    assert typed("restore", "--undo", "--source", "notes").code == 0
    assert app.rows == OLD


def test_two_restores_of_one_point_are_taken_back_one_by_one(app: PointedApp, typed: Keyboard) -> None:
    assert typed("restore", "--point", "latest").code == 0
    for path in app.databases:
        spend(path, 7)
    assert typed("restore", "--point", "latest").code == 0
    assert typed("restore", "--undo").code == 0
    assert app.rows == [rows + 7 for rows in NEW]
    assert typed("restore", "--undo").code == 0
    assert app.rows == OLD


def test_point_on_empty_machine_restores_all_and_leaves_no_records(app: PointedApp, typed: Keyboard) -> None:
    for path in app.databases:
        path.unlink()
    facts = typed("restore", "--point", "latest", "--if-missing", "--json").json
    assert (facts["outcome"], facts["undo"], app.rows) == ("done", None, NEW)
    assert [beside(path) for path in app.databases] == [set(), set()]
    again = typed("restore", "--point", "latest", "--if-missing", "--json")
    assert (again.code, again.json["outcome"]) == (0, "there")


def test_if_missing_refuses_where_only_some_databases_exist(app: PointedApp, typed: Keyboard) -> None:
    app.notes.unlink()
    refused = typed("restore", "--point", "latest", "--if-missing")
    assert (refused.code, app.notes.exists(), transfers(app.tasks)) == (1, False, OLD[0])
    assert f"{app.tasks} does, and {app.notes} does not" in refused.err
    assert typed("restore", "--point", "latest", "--if-missing", "--only", "notes").code == 0
    assert transfers(app.notes) == NEW[1]


def with_third_source(app: PointedApp, typed: Keyboard) -> Path:
    """Add a database to the app, and make a restore point of all three."""
    (app.tasks.parent / "more").mkdir()
    third = app.tasks.parent / "more" / "cache.db"
    make_bank(third)
    app.config.write_text(f'{app.config.read_text()}[sources.cache]\npath = "{third}"\n')
    assert typed("backup").code == 0
    for path in (*app.databases, third):
        path.unlink()
    return third


def rename(app: PointedApp, source: str, to: str) -> None:
    """Rename a source in the configuration, or remove it, with the table that it begins."""
    lines = app.config.read_text().replace(f'[sources.{source}]\npath = "{app.notes}"\n', to)
    app.config.write_text(lines)


def test_if_missing_leaves_out_what_is_no_longer_configured_and_says_so(app: PointedApp, typed: Keyboard) -> None:
    third = with_third_source(app, typed)
    rename(app, "notes", "")
    done = typed("restore", "--point", "latest", "--if-missing")
    assert done.code == 0, done
    assert "has also parts of notes, which are no longer configured: they are left out" in done.err
    assert (app.tasks.exists(), third.exists(), app.notes.exists()) == (True, True, False)
    again = typed("restore", "--point", "latest", "--if-missing")
    assert (again.code, again.err) == (0, "")


def test_if_missing_refuses_a_point_whose_source_may_have_another_name_now(app: PointedApp, typed: Keyboard) -> None:
    third = with_third_source(app, typed)
    rename(app, "notes", f'[sources.memos]\npath = "{app.notes}"\n')
    refused = typed("restore", "--point", "latest", "--if-missing", "--allow-none")
    assert refused.code == 1
    assert "has parts of notes, which are not configured, and none of memos" in refused.err
    assert not any(path.exists() for path in (*app.databases, third))


def test_if_missing_recovers_restore_that_was_killed_at_its_end(app: PointedApp, typed: Keyboard) -> None:
    for path in app.databases:
        path.unlink()
    assert typed("restore", "--point", "latest", "--if-missing").code == 0
    places = tuple(PartPlace("database", str(path), path.parent.stat().st_ino) for path in app.databases)
    with DatabasePlace.open(app.notes) as place:  # its copy of the journal was not removed yet
        mark = FileMark.of(place, place.name)
        assert mark is not None
        swap = SwapJournal(
            place.name, ".notes.db.00000000.part", mark, "notes.db.pre-restore-20261125T120000Z", None, (), ()
        )
        write_copy(place.directory, places[1], PointJournal(app.point, new_run(), places, swap))
    again = typed("restore", "--point", "latest", "--if-missing", "--json")
    assert (again.code, again.json["outcome"], app.rows) == (0, "there", NEW), again
    assert [beside(path) for path in app.databases] == [set(), set()]


def test_if_missing_without_point_is_refused_unless_store_is_empty(app: PointedApp, typed: Keyboard) -> None:
    for path in app.databases:
        path.unlink()
    (app.backups / f"{app.point}.point.json").unlink()
    refused = typed("restore", "--point", "latest", "--if-missing", "--allow-none")
    assert (refused.code, "there is no restore point" in refused.err) == (1, True)
    empty = str(app.backups.with_name("empty"))
    none = typed("restore", "--point", "latest", "--if-missing", "--allow-none", BACKUPD_BACKUPS_DIR=empty)
    assert (none.code, "there is no restore point yet" in none.out) == (0, True), none


def test_restore_over_one_missing_database_refuses_undo_of_whole(app: PointedApp, typed: Keyboard) -> None:
    app.notes.unlink()
    assert typed("restore", "--point", "latest").code == 0
    assert app.rows == NEW
    refused = typed("restore", "--undo")
    assert (refused.code, app.rows) == (1, NEW)
    assert "there was no database before" in refused.err
    assert typed("restore", "--undo", "--source", "tasks").code == 0
    assert app.rows == [OLD[0], NEW[1]]


def test_records_name_point_and_all_of_its_sources(app: PointedApp, typed: Keyboard) -> None:
    assert typed("restore", "--point", "latest").code == 0
    found = []
    for path in app.databases:
        with DatabasePlace.open(path) as place:
            (entry,) = restore_history(place)
            found.append(entry.record.together)
    assert found[0] is not None
    assert found[0] == found[1]
    assert (found[0].point, found[0].sources) == (app.point, ("tasks", "notes"))


@pytest.fixture
def sharing(app: PointedApp) -> PointedApp:
    """The same app with both databases in one directory."""
    notes = app.tasks.with_name("notes.db")
    app.notes.rename(notes)
    app.config.write_text(app.config.read_text().replace(str(app.notes), str(notes)))
    return PointedApp(app.config, app.backups, app.tasks, notes, app.point, app.generations)


def test_databases_in_one_directory_are_restored_together(sharing: PointedApp, typed: Keyboard) -> None:
    done = typed("restore", "--point", sharing.point, "--json")
    assert (done.code, sharing.rows) == (0, NEW), done
    assert json.loads(done.out)["outcome"] == "done"
    assert typed("restore", "--undo").code == 0
    assert sharing.rows == OLD


def test_commands_of_runbook_restore_all_and_take_it_back(app: PointedApp, typed: Keyboard) -> None:
    plan, others, undo = blocks_run_by(__file__, "docs/runbook.md", "11. ")
    assert [each.commands for each in blocks_run_by(__file__, "docs/runbook.es.md", "11. ")] == [
        block.commands for block in (plan, others, undo)
    ]
    offsite = app.backups.with_name("offsite")
    shutil.copytree(app.backups, offsite, ignore=shutil.ignore_patterns(".backupd"))
    taken_on = typed("restore", "--point", "latest", "--dry-run", "--json").json["taken_at"][:10]

    def type_all(block: CommandBlock) -> None:
        for line in block.commands.replace("2026-12-31", taken_on).replace("14:00", "23:59").splitlines():
            command = shlex.split(line)
            said = typed(*command[1:], BACKUPD_REPLICAS__OFFSITE__URL=f"file:{offsite}")
            assert said.code == 0, said

    type_all(plan)
    assert app.rows == NEW
    type_all(others)
    type_all(undo)
    assert app.rows == OLD


@pytest.mark.root
def test_space_for_all_parts_is_required_before_the_first_is_unpacked(tmp_path: Path) -> None:
    size_bytes = 2 << 20
    with small_disk(tmp_path / "disk", "16M") as disk:
        app = make_app(disk, tmp_path / "backups", size_bytes)
        (disk / "filler").write_bytes(bytes(free_bytes(disk) - size_bytes * 3 // 2))
        typed = Keyboard({"BACKUPD_CONFIG": str(app.config)})
        for source in ("tasks", "notes"):
            assert typed("restore", "--point", app.point, "--only", source, "--dry-run").code == 0
        for more in ((), ("--dry-run",)):
            refused = typed("restore", "--point", app.point, *more)
            assert (refused.code, app.rows) == (1, OLD)
            assert "restoring tasks and notes needs 4." in refused.err
            assert (f"error: restore of {app.point}: restoring tasks" in refused.err) == (not more)
        assert typed("restore", "--point", app.point, "--only", "notes").code == 0
        assert app.rows == [OLD[0], NEW[1]]


@pytest.mark.root
def test_databases_of_two_owners_are_restored_together_with_their_owners() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # where their owners can reach them
        Path(name).chmod(0o755)
        app = make_app(Path(name))
        typed = Keyboard({"BACKUPD_CONFIG": str(app.config)})
        owners = {app.tasks: 12345, app.notes: 54321}
        for path, owner in owners.items():
            os.chown(path, owner, owner)
            os.chown(path.parent, owner, owner)
        done = typed("restore", "--point", app.point, "--json")
        assert done.code == 0, done
        assert [part["owner"] for part in done.json["parts"]] == ["12345:12345", "54321:54321"]
        assert {path: path.stat().st_uid for path in app.databases} == owners
        assert typed("restore", "--undo").code == 0
        assert {path: path.stat().st_uid for path in app.databases} == owners
        assert app.rows == OLD
