"""A catalog after kill -9: the process dies before each SQL statement and each file operation in turn.

Of kills that leave the same files, one is tried.
"""

from pathlib import Path

import pytest

from backupd.catalog import CatalogUnavailable, open_catalog
from backupd.catalog.rebuild import rebuild
from support.catalog_values import APP, FOUND, NOON, assert_sound, fill, killed_at_every_step, leave_wal, names, report

pytestmark = pytest.mark.no_cover


def test_catalog_creation_killed_at_any_step_is_completed_by_next_process(tmp_path: Path) -> None:
    (tmp_path / "template").mkdir()
    killed = killed_at_every_step(tmp_path, "open")
    assert len(killed) > 2
    for directory in killed:
        with open_catalog(directory / "catalog.sqlite3") as catalog:
            catalog.record_run(report(), NOON)
            assert len(catalog.runs()) == 1


def test_rebuild_killed_at_any_step_leaves_old_or_new_catalog_with_all_runs(tmp_path: Path) -> None:
    (tmp_path / "template").mkdir()
    with open_catalog(tmp_path / "template" / "catalog.sqlite3") as catalog:
        fill(catalog)
        catalog.remove_copy(APP, "local")
    seen = set()
    for directory in killed_at_every_step(tmp_path, "rebuild"):
        path = directory / "catalog.sqlite3"
        with open_catalog(path) as catalog:
            assert len(catalog.runs()) == 3
            seen.add(tuple(catalog.copies().items()))
        assert_sound(path)
        assert rebuild(path, FOUND) == 2
        assert names(path) == {""}
    assert seen == {(), ((APP, ("local",)),)}


def test_rebuild_of_damaged_catalog_killed_at_any_step_leaves_no_stale_wal(tmp_path: Path) -> None:
    (tmp_path / "sound").mkdir()
    with open_catalog(tmp_path / "sound" / "catalog.sqlite3") as catalog:
        fill(catalog)
    damaged = leave_wal(tmp_path / "sound" / "catalog.sqlite3", tmp_path / "template")
    with damaged.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (damaged.stat().st_size - 4096))
    seen, hints = [], []
    for directory in killed_at_every_step(tmp_path, "rebuild"):
        crashed = directory / "catalog.sqlite3"
        try:
            with open_catalog(crashed) as catalog:
                seen.append(catalog.copies())
        except CatalogUnavailable as error:
            hints.append(error.hint)
        assert rebuild(crashed, FOUND) == 2
        assert_sound(crashed)
        assert ".damaged-1" in names(crashed)
        assert not names(crashed) & {"-wal", "-shm", "-journal", ".rebuild"}
    assert seen[-1] == {APP: ("local",)}
    assert all("backupd catalog rebuild" in hint for hint in hints)
