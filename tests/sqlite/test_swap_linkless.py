"""The swap on a file system without hard links (FAT, SMB): the database exists at each step, if possible."""

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from backupd.errors import TargetInUse
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.swap import sweep_parts
from backupd.sqlite.target import FileLease
from backupd.system.directory import Directory
from support.directories import kept_databases
from support.held import recover_swap, swap

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
KEPT = "tasks.db.pre-restore-20261125T120000Z"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that knows no hard links, with the old file and the new one."""
    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "tasks.db").write_text("old")
    (tmp_path / ".tasks.db.00000000.part").write_text("new")
    return tmp_path


def refused(*_paths: object, **_options: object) -> None:
    """Refuse to link, as FAT does."""
    raise PermissionError(1, "Operation not permitted")


def unknown(*_paths: object) -> bool:
    """Know of no exchange, as SMB and old kernels do."""
    return False


def paths(place: Path) -> tuple[Path, Path]:
    return place / "tasks.db", place / ".tasks.db.00000000.part"


def contents(place: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in place.iterdir()}


def lease(target: Path) -> FileLease:
    return FileLease([target], os.geteuid(), os.getegid(), remote="", stopped=False)


def watched(monkeypatch: pytest.MonkeyPatch, see: Callable[[], None]) -> None:
    """Let `see` look around before each rename, and after it."""

    def seen(rename: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*paths: Any) -> Any:
            see()
            done = rename(*paths)
            see()
            return done

        return watched

    for name in ("rename", "exchange"):
        monkeypatch.setattr(Directory, name, seen(getattr(Directory, name)))


@pytest.mark.parametrize("exchanging", [True, False])
def test_new_database_replaces_old_one_without_hard_links_and_old_one_is_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch, exchanging: bool
) -> None:
    target, part = paths(place)
    seen = list[bool]()
    if not exchanging:
        monkeypatch.setattr(Directory, "exchange", unknown)
    watched(monkeypatch, lambda: seen.append(target.exists()))
    with lease(target) as held:
        assert swap(target, part, held, NOW) == place / KEPT
    assert contents(place) == {"tasks.db": "new", KEPT: "old"}
    assert all(seen) == exchanging


@pytest.mark.parametrize("exchanging", [True, False])
def test_swap_killed_at_any_rename_is_finished_or_reverted(
    place: Path, monkeypatch: pytest.MonkeyPatch, exchanging: bool
) -> None:
    target, part = paths(place)
    if not exchanging:
        monkeypatch.setattr(Directory, "exchange", unknown)
    for at in count():
        target.write_text("old")
        part.write_text("new")
        code = killed(target, part, monkeypatch, at)
        assert target.exists() or not exchanging
        recovery = recover_swap(target)
        with DatabasePlace.open(target) as opened:
            sweep_parts(opened)  # as the next restore does
        assert contents(place) in ({"tasks.db": "old"}, {"tasks.db": "new", KEPT: "old"})
        for kept in kept_databases(target):
            kept.unlink()
        if not code:
            assert (recovery, at > 3) == (None, True)
            return


def killed(target: Path, part: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> int:
    """Let another process put `part` in place, and be killed at its `at`-th look; return its exit code, 0 if it lives.

    A kill does not save what coverage has measured, which takes a process of the whole suite seconds.
    """
    child = os.fork()
    if not child:
        looks = count()
        me = os.getpid()
        watched(monkeypatch, lambda: os.kill(me, signal.SIGKILL) if next(looks) == at else None)
        with lease(target) as held:
            swap(target, part, held, NOW)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("exchanging", [True, False])
def test_process_opening_during_rename_without_hard_links_reverts_swap(
    place: Path, monkeypatch: pytest.MonkeyPatch, exchanging: bool
) -> None:
    target, part = paths(place)
    seen = list[bool]()
    if not exchanging:
        monkeypatch.setattr(Directory, "exchange", unknown)
    watched(monkeypatch, lambda: seen.append(target.exists()))

    class Late(FileLease):
        """Somebody opens the file once the new one is in place."""

        def open_requested(self, path: Path) -> bool:
            return path.read_text() == "new"

    held = Late([], os.geteuid(), os.getegid(), remote="", stopped=True)
    with held, pytest.raises(TargetInUse):
        swap(target, part, held, NOW)
    assert contents(place) == {"tasks.db": "old", part.name: "new"}
    assert all(seen) == exchanging
