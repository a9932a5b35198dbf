"""`backupd restore --point --from REPLICA`: after a disaster, and where copies are of another store."""

import shutil
from pathlib import Path

import pytest
from keyboard import Keyboard

from support.generations import backdated, flip_byte
from support.points import NEW, OLD, PointedApp, make_app, publish_point


@pytest.fixture
def app(tmp_path: Path) -> PointedApp:
    return make_app(tmp_path)


@pytest.fixture
def offsite(app: PointedApp) -> Path:
    """A replica in a directory with all that the store holds."""
    there = app.backups.with_name("offsite")
    shutil.copytree(app.backups, there, ignore=shutil.ignore_patterns(".backupd", "backup.log"))
    return there


@pytest.fixture
def remote(app: PointedApp, offsite: Path) -> Keyboard:
    return Keyboard({"BACKUPD_CONFIG": str(app.config), "BACKUPD_REPLICAS__OFFSITE__URL": f"file:{offsite}"})


def lose(app: PointedApp) -> None:
    """Lose the machine, but for its configuration."""
    shutil.rmtree(app.backups)
    for path in app.databases:
        shutil.rmtree(path.parent)
        path.parent.mkdir()


def test_point_is_restored_from_replica_where_local_part_is_damaged(app: PointedApp, remote: Keyboard) -> None:
    flip_byte(app.backups / f"{app.generations[0]}.sqlite3.gz")
    assert remote("restore", "--point", "latest").code == 1
    assert app.rows == OLD
    done = remote("restore", "--point", "latest", "--from", "offsite", "--json")
    assert (done.code, done.json["point"], app.rows) == (0, app.point, NEW), done
    assert remote("restore", "--undo").code == 0
    assert app.rows == OLD


def test_point_is_restored_on_new_machine(app: PointedApp, remote: Keyboard) -> None:
    lose(app)
    empty = remote("restore", "--point", "latest")
    assert (empty.code, "restore from a replica: --from offsite" in empty.err) == (1, True), empty
    done = remote("restore", "--point", "latest", "--from", "offsite")
    assert (done.code, app.rows) == (0, NEW), done
    assert done.err.count("warning: offsite holds 1 generation by store ") == 1, "all sources in one sentence"
    assert "; to adopt them into this store: backupd replicate --to offsite --adopt" in done.err
    assert ", and those of 1 more source; to adopt" in done.err


def test_container_that_starts_without_data_gets_whole_point_from_replica(app: PointedApp, remote: Keyboard) -> None:
    lose(app)
    started = remote("restore", "--point", "latest", "--if-missing", "--json")
    assert (started.code, started.json["outcome"], app.rows) == (0, "done", NEW), started
    assert remote("restore", "--point", "latest", "--if-missing").out.strip().endswith("nothing to restore")


def test_point_of_other_store_is_refused_where_this_store_has_its_own(app: PointedApp, remote: Keyboard) -> None:
    shutil.rmtree(app.backups)
    for source in ("tasks", "notes"):
        assert remote("backup", "--source", source).code == 0
    refused = remote("restore", "--point", "latest", "--from", "offsite")
    assert (refused.code, app.rows) == (1, OLD)
    # by which of the two it is known depends on whether both stores made theirs in one minute
    assert "that another store has made" in refused.err or "is not the copy that this store has made" in refused.err


def test_new_machine_adopts_points_of_lost_one_and_keeps_them(app: PointedApp, remote: Keyboard, offsite: Path) -> None:
    lost = publish_point(app.backups, [backdated(app.backups, one, days=2) for one in app.generations])
    for key in (app.point, *app.generations):
        for path in app.backups.glob(f"{key}.*"):
            path.unlink()
    shutil.rmtree(offsite)
    shutil.copytree(app.backups, offsite, ignore=shutil.ignore_patterns(".backupd", "backup.log"))
    shutil.rmtree(app.backups)
    one = {f"BACKUPD_RETENTION__{rule}": count for rule, count in (("WITHIN", "0"), ("DAILY", "1"), ("WEEKLY", "0"))}
    assert remote("backup", **one).code == 0
    refused = remote("restore", "--point", lost, "--from", "offsite")
    assert (refused.code, "that another store has made" in refused.err) == (1, True)
    assert "the same command with --adopt" in refused.err
    (theirs,) = remote("list", "--points", "--store", "offsite", "--json").json
    assert (theirs["id"], "of another store" in theirs["kept_for"][0]) == (lost, True)
    adopting = ("restore", "--point", lost, "--from", "offsite", "--adopt")
    tried = remote(*adopting, "--dry-run")
    assert (tried.code, app.rows) == (0, OLD), tried
    assert remote("restore", "--point", lost, "--from", "offsite").code == 1, "a dry run adopts nothing"
    done = remote(*adopting, "--json")
    assert (done.code, done.json["point"], app.rows) == (0, lost, NEW), done
    assert remote("replicate", **one).code == 0
    listed = {point["id"]: point for point in remote("list", "--points", "--store", "offsite", "--json", **one).json}
    assert (listed[lost]["pin_reason"], len(listed)) == ("adopted from a lost machine", 2)
    for key in (lost, *(part["generation"] for part in listed[lost]["parts"])):
        assert remote("unpin", key).code == 0
    assert remote("replicate", **one).code == 0
    assert len(remote("list", "--points", "--store", "offsite", "--json", **one).json) == 1


def test_part_that_replica_lacks_refuses_whole_point(app: PointedApp, remote: Keyboard, offsite: Path) -> None:
    for suffix in (".sqlite3.gz", ".manifest.json"):
        (offsite / f"{app.generations[1]}{suffix}").unlink()
    refused = remote("restore", "--point", app.point, "--from", "offsite")
    assert (refused.code, app.rows) == (1, OLD)
    assert f"{app.point} cannot be restored as a whole: {app.generations[1]} is not there" in refused.err
    assert "--only" in refused.err
