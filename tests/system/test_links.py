"""Links on the path to a database, and the owners of links and targets."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.system.links import first_not_of_root, foreign_link, stat_without_links, steps_to

pytestmark = pytest.mark.root
APP, OTHER = 1234, 1235


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        root = Path(name).resolve()
        root.chmod(0o755)
        for uid in (APP, OTHER):
            (root / str(uid)).mkdir()
            (root / str(uid) / "tasks.db").touch()
            for path in (root / str(uid), root / str(uid) / "tasks.db"):
                os.chown(path, uid, uid)
        yield root


def link(path: Path, target: Path | str, uid: int) -> Path:
    path.symlink_to(target)
    os.chown(path, uid, uid, follow_symlinks=False)
    return path


def test_path_without_links_has_no_foreign_link(place: Path) -> None:
    assert foreign_link(place / str(APP) / "tasks.db") is None
    assert foreign_link(place / "missing" / "tasks.db") is None


def test_link_between_files_of_one_owner_is_accepted(place: Path) -> None:
    link(place / str(APP) / "link.db", "tasks.db", APP)
    assert foreign_link(place / str(APP) / "link.db") is None


@pytest.mark.parametrize("target", ["/etc/passwd", f"../{OTHER}/tasks.db", f"../{OTHER}/new.db", "/etc/new.db", "/"])
def test_link_to_file_of_another_owner_is_reported_with_both_owners(place: Path, target: str) -> None:
    planted = link(place / str(APP) / "link.db", target, APP)
    found = foreign_link(planted)
    assert found is not None
    assert (found.path, found.owner) == (planted, APP)
    assert found.target_owner == (OTHER if str(OTHER) in target else 0)
    assert str(planted) in str(found)


def test_link_in_parent_directory_is_checked(place: Path) -> None:
    link(place / str(APP) / "below", f"../{OTHER}", APP)
    found = foreign_link(place / str(APP) / "below" / "tasks.db")
    assert found is not None
    assert found.target == place / str(OTHER)


def test_chain_of_links_is_checked_link_by_link(place: Path) -> None:
    link(place / str(APP) / "second", "/etc/passwd", APP)
    link(place / str(APP) / "first", "second", APP)
    assert foreign_link(place / str(APP) / "first") is not None


def test_circle_of_links_ends(place: Path) -> None:
    link(place / str(APP) / "one", "two", APP)
    link(place / str(APP) / "two", "one", APP)
    assert len([*steps_to(place / str(APP) / "one")]) < 100
    foreign_link(place / str(APP) / "one")


def test_link_of_operator_is_accepted_unless_directory_is_writable_by_others(place: Path) -> None:
    home = link(place / "home", str(APP), 0)
    assert foreign_link(home / "tasks.db") is None
    place.chmod(0o777)
    assert foreign_link(home / "tasks.db") is not None


def test_link_of_root_in_directory_of_app_is_accepted_for_root_only(place: Path) -> None:
    planted = link(place / str(APP) / "link.db", f"../{OTHER}/tasks.db", 0)
    assert foreign_link(planted) is not None


def test_file_owned_or_replaceable_by_others_is_not_of_root_alone(place: Path) -> None:
    mine = place / "mine"
    mine.mkdir(mode=0o755)
    (mine / "tasks.db").touch()
    assert first_not_of_root(mine / "tasks.db") is None
    mine.chmod(0o777)
    found = first_not_of_root(mine / "tasks.db")
    assert found is not None
    assert found.path == mine
    found = first_not_of_root(place / str(APP) / "new" / "tasks.db")
    assert found is not None
    assert found.path == place / str(APP)


def test_path_that_becomes_link_after_resolution_is_not_followed(place: Path) -> None:
    database = place / str(APP) / "tasks.db"
    assert stat_without_links(database).st_uid == APP
    (place / str(APP)).rename(place / "old")
    link(place / str(APP), place / str(OTHER), APP)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        stat_without_links(database)
    with pytest.raises(FileNotFoundError):
        stat_without_links(place / "missing" / "tasks.db")
