"""Sources that cannot be backed up: the error has a hint, and no older generation is lost."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from support.backup_runs import BackUp
from support.bank import make_bank

MAGIC = b"SQLite format 3\0"
NOT_SQLITE = "is not a SQLite database"


def a_socket(path: Path) -> None:
    """Bind a socket to `path`, by a short name: its address has room for no long one."""
    with socket.socket(socket.AF_UNIX) as one:
        descriptor = os.open(path.parent, os.O_RDONLY)
        one.bind(f"/proc/self/fd/{descriptor}/{path.name}")
        os.close(descriptor)


def a_second_name(path: Path) -> None:
    make_bank(path)
    os.link(path, path.with_name("other.db"))


def in_another_version(path: Path) -> None:
    make_bank(path)
    with path.open("r+b") as stream:
        stream.seek(18)
        stream.write(b"\xff\xff")  # as Turso does for its MVCC


REFUSED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "missing": (lambda _path: None, "no database at", "the right volume is mounted"),
    "empty": (lambda path: path.write_bytes(b""), "is empty (0 bytes)", "allow_empty = true"),
    "one byte": (lambda path: path.write_bytes(b"S"), "is empty (1 bytes)", "allow_empty = true"),
    "text": (lambda path: path.write_text("no database\n" * 99), NOT_SQLITE, "check the path"),
    "magic alone": (lambda path: path.write_bytes(MAGIC), NOT_SQLITE, "check the path"),
    "cut header": (lambda path: path.write_bytes(MAGIC.ljust(60, b"\x10")), NOT_SQLITE, "check the path"),
    "another engine": (in_another_version, "was made by another engine", "a journal mode of SQLite"),
    "directory": (lambda path: path.mkdir(), "is a directory", "the database file itself"),
    "FIFO": (os.mkfifo, "is not a regular file", "the database file itself"),
    "socket": (a_socket, "is not a regular file", "the database file itself"),
    "device": (
        lambda path: path.symlink_to("/dev/zero"),
        "/dev/zero is not a regular file",
        "the database file itself",
    ),
    "dead link": (lambda path: path.symlink_to("gone.db"), "no database at", "mount the target of the link"),
    "link to itself": (lambda path: path.symlink_to(path), "cannot be inspected: Too many levels", "check the path"),
    "hard link": (a_second_name, "has 2 hard links", 'hard_link = "allow"'),
}
MISSING = {"missing", "directory", "dead link"}


@pytest.mark.parametrize(("become", "said", "advised"), REFUSED.values(), ids=REFUSED)
def test_unusable_source_is_refused_with_hint_and_generations_are_kept(
    tmp_path: Path, back_up: BackUp, become: Callable[[Path], object], said: str, advised: str
) -> None:
    path = tmp_path / "data" / "tasks.db"
    path.parent.mkdir()
    make_bank(path)
    before = back_up(path).generations
    assert len(before) == 2
    for file in path.parent.iterdir():
        file.unlink()
    become(path)
    there = {p.name: p.lstat() for p in path.parent.iterdir()}
    result = back_up(path)
    assert result.outcome == ("failed", 1)
    assert said in result.error
    assert advised in result.hint
    assert (result.generations, result.staged, result.quarantined) == (before, [], [])
    assert "snapshot.retried" not in result.events
    unreadable = said in {NOT_SQLITE, "was made by another engine"}  # and was readable before
    missing = become in {REFUSED[name][0] for name in MISSING}
    assert (result.context.holds.get("tasks") is not None) == (unreadable or missing)
    assert {p.name: (s.st_mode, s.st_size, s.st_mtime_ns) for p in path.parent.iterdir() if (s := p.lstat())} == {
        name: (s.st_mode, s.st_size, s.st_mtime_ns) for name, s in there.items()
    }


def test_path_through_file_is_reported_as_not_a_directory(tmp_path: Path, back_up: BackUp) -> None:
    make_bank(tmp_path / "file")
    result = back_up(tmp_path / "file" / "tasks.db")
    assert result.outcome == ("failed", 1)
    assert "cannot be inspected: Not a directory" in result.error


@pytest.mark.parametrize("size", [0, 1])
def test_database_empty_by_intent_becomes_generation_of_empty_database(
    tmp_path: Path, back_up: BackUp, size: int
) -> None:
    path = tmp_path / "tasks.db"
    path.write_bytes(b"x" * size)
    result = back_up(path, allow_empty=True)
    assert (result.outcome, result.report.details.verification) == (("published", 0), "full")
    restored = result.unpacked(tmp_path / "restored.db")
    assert restored.stat().st_size == result.report.details.snapshot_bytes
    make_bank(restored)
    assert path.read_bytes() == b"x" * size
    again = back_up(path, allow_empty=True)
    assert (again.outcome, again.generations) == (("unchanged", 0), result.generations)


def test_emptied_database_is_published_only_where_allowed_and_nothing_is_pruned(
    tmp_path: Path, back_up: BackUp
) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path)
    full = back_up(path)
    os.truncate(path, 0)
    refused = back_up(path)
    assert refused.outcome == ("failed", 1)
    assert refused.generations == full.generations
    allowed = back_up(path, allow_empty=True)
    assert allowed.outcome == ("degraded", 3)
    assert "shrank" in allowed.report.warnings[0]
    assert full.generations.items() <= allowed.generations.items()


@pytest.mark.parametrize("size", [100, 512, 4095, 4097, 40_000])
def test_truncated_database_is_damage_and_holds_pruning(tmp_path: Path, back_up: BackUp, size: int) -> None:
    path = tmp_path / "tasks.db"
    make_bank(path)
    before = back_up(path).generations
    os.truncate(path, size)
    result = back_up(path)
    assert result.outcome == ("failed", 1)
    assert "is damaged: database disk image is malformed" in result.error
    assert "restore the last verified generation" in result.hint
    assert (result.generations, result.staged) == (before, [])
    hold = result.context.holds.get("tasks")
    assert hold is not None
    assert hold.kind == "corrupt"


def test_mode_of_database_and_directory_are_unchanged(tmp_path: Path, back_up: BackUp) -> None:
    path = tmp_path / "data" / "tasks.db"
    path.parent.mkdir()
    make_bank(path)
    path.chmod(0o640)
    path.parent.chmod(0o710)
    assert back_up(path).report.outcome == "published"
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)] == [0o640, 0o710]
