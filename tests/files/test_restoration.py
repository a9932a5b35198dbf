"""Putting a set of files back: all of it, exactly, or nothing; and back again."""

import hashlib
import os
import shutil
import stat
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupd.archive.file_list import FileEntry
from backupd.errors import CopyCorrupt
from backupd.files.restoration import KEPT, restorations
from backupd.files.tree import remove_tree
from backupd.system.directory import Directory
from support.directories import small_disk
from support.put_back import MemoryContents, entries_of, facts, go_back, put_back, ready

NOW = datetime(2026, 11, 30, 4, tzinfo=UTC)
APP = 12345
OLD_TIME_NS = 1_600_000_000_123_456_789


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "uploads"
    (root / "2026" / "11").mkdir(parents=True)
    (root / "2026" / "11" / "cat.jpg").write_bytes(b"cat")
    (root / "2026" / "dog.jpg").write_bytes(b"dog")
    (root / "latest").symlink_to("2026/dog.jpg")
    (root / "empty").mkdir()
    (root / "zero").touch()
    for path in (*root.rglob("*"),):
        os.utime(path, ns=(OLD_TIME_NS, OLD_TIME_NS), follow_symlinks=False)
    return root


def damage(root: Path) -> None:
    """Change the tree in each way that an app or an operator might."""
    (root / "2026" / "11" / "cat.jpg").write_bytes(b"tac")  # another content of equal size
    os.utime(root / "2026" / "11" / "cat.jpg", ns=(OLD_TIME_NS, OLD_TIME_NS))
    (root / "2026" / "dog.jpg").unlink()
    (root / "latest").unlink()
    (root / "latest").mkdir()
    (root / "latest" / "inside").write_bytes(b"new")
    (root / "empty").rmdir()
    (root / "empty").write_bytes(b"a file now")
    (root / "zero").chmod(0o600)
    (root / "extra" / "deep").mkdir(parents=True)
    (root / "extra" / "deep" / "file").write_bytes(b"extra")


def test_restore_brings_back_all_that_is_missing_or_differs(root: Path) -> None:
    contents = MemoryContents()
    entries, before = entries_of(root, contents), facts(root)
    damage(root)
    put_back(root, entries, contents, NOW)
    after = facts(root)
    assert {path: after[path] for path in before} == before
    assert set(after) - set(before) == {b"extra", b"extra/deep", b"extra/deep/file"}


def test_exact_restore_leaves_nothing_else(root: Path) -> None:
    contents = MemoryContents()
    entries, before = entries_of(root, contents), facts(root)
    damage(root)
    put_back(root, entries, contents, NOW, exact=True)
    assert facts(root) == before
    (kept,) = root.glob(f"{KEPT}*")
    assert (kept / "old" / "extra" / "deep" / "file").read_bytes() == b"extra"
    assert (kept / "old" / "empty").read_bytes() == b"a file now"


def test_equal_files_are_left_alone(root: Path) -> None:
    contents = MemoryContents()
    entries, before = entries_of(root, contents), facts(root, inodes=True)
    changes = put_back(root, entries, contents, NOW, exact=True)
    assert facts(root, inodes=True) == before
    assert (changes.missing, changes.differing, changes.extra, changes.attributes) == (0, 0, 0, 0)
    assert changes.unchanged == 4


def test_undo_and_redo_swap_both_states(root: Path) -> None:
    contents = MemoryContents()
    entries, good = entries_of(root, contents), facts(root)
    damage(root)
    bad = facts(root, inodes=True)
    put_back(root, entries, contents, NOW, exact=True)
    go_back(root)
    assert facts(root, inodes=True) == bad
    go_back(root, "restored")
    assert facts(root) == good


def test_undo_keeps_what_the_app_has_changed_since(root: Path) -> None:
    contents = MemoryContents()
    entries = entries_of(root, contents)
    (root / "2026" / "dog.jpg").write_bytes(b"older dog")
    put_back(root, entries, contents, NOW)
    (root / "2026" / "dog.jpg").write_bytes(b"newer dog")
    go_back(root)
    assert (root / "2026" / "dog.jpg").read_bytes() == b"older dog"
    (kept,) = root.glob(f"{KEPT}*")
    assert (kept / "new" / "2026" / "dog.jpg").read_bytes() == b"newer dog"


def test_file_that_appears_in_between_is_kept(root: Path) -> None:
    contents = MemoryContents()
    entries = entries_of(root, contents)
    (root / "2026" / "dog.jpg").write_bytes(b"older dog")
    with ready(root, entries, contents, NOW) as prepared:
        restoration = prepared.restoration
        (root / "2026" / "dog.jpg").rename(root / restoration.name / "old" / "dog.jpg")
        shutil.rmtree(root / restoration.name / "old")
        (root / restoration.name / "old" / "2026").mkdir(parents=True)
        (root / restoration.name / "old" / "2026" / "dog.jpg").write_bytes(b"older dog")
        (root / "2026" / "dog.jpg").write_bytes(b"of the app")
        restoration.move()
        (late,) = restoration.late()
        restoration.keep()
    (kept,) = root.glob(f"{KEPT}*")
    assert (root / "2026" / "dog.jpg").read_bytes() == b"dog"
    assert (kept / "late" / late).read_bytes() == b"of the app"
    assert (kept / "old" / "2026" / "dog.jpg").read_bytes() == b"older dog"


def test_damaged_contents_are_all_named_and_nothing_changes(root: Path) -> None:
    contents = MemoryContents()
    entries = entries_of(root, contents)
    contents.held[hashlib.sha256(b"cat").hexdigest()] = b"cut"
    del contents.held[hashlib.sha256(b"dog").hexdigest()]
    shutil.rmtree(root / "2026")
    before = facts(root, inodes=True)
    with pytest.raises(CopyCorrupt, match=r"2 files cannot be restored.*cat\.jpg.*damaged.*dog\.jpg.*not in the store"):
        put_back(root, entries, contents, NOW)
    assert facts(root, inodes=True) == before


def test_special_files_and_what_stays_survive_exact_restore(root: Path) -> None:
    contents = MemoryContents()
    entries = entries_of(root, contents)
    os.mkfifo(root / "pipe")
    (root / "cache" / "thumbs").mkdir(parents=True)
    (root / "cache" / "thumbs" / "1.tmp").write_bytes(b"")
    (root / "cache" / "2.jpg").write_bytes(b"")
    put_back(root, entries, contents, NOW, exact=True, stays=lambda path, _is_directory: path.endswith(b".tmp"))
    assert stat.S_ISFIFO((root / "pipe").lstat().st_mode)
    assert (root / "cache" / "thumbs" / "1.tmp").exists()
    assert not (root / "cache" / "2.jpg").exists()


def test_holes_stay_holes(tmp_path: Path) -> None:
    root, contents = tmp_path / "files", MemoryContents()
    root.mkdir()
    with (root / "sparse").open("wb") as stream:
        stream.write(b"begin")
        stream.truncate(8 << 20)
        stream.seek(5 << 20)
        stream.write(b"middle")
    entries, before = entries_of(root, contents), facts(root)
    (root / "sparse").unlink()
    put_back(root, entries, contents, NOW)
    assert facts(root) == before
    assert (root / "sparse").stat().st_blocks * 512 < 1 << 20


def test_nobody_gets_a_setuid_program(root: Path) -> None:
    data, contents = b"#!/bin/sh\n", MemoryContents()
    digest = hashlib.sha256(data).hexdigest()
    contents.held[digest] = data
    entry = FileEntry(b"tool", "f", 0o6755, os.getuid(), os.getgid(), OLD_TIME_NS, len(data), digest)
    put_back(root, [entry], contents, NOW)
    assert stat.S_IMODE((root / "tool").stat().st_mode) == 0o755


def test_user_of_the_app_gets_read_only_directories_back(root: Path) -> None:
    """Whoever owns a directory may rename what is in it, even where its mode forbids that for the moment."""
    contents = MemoryContents()
    (root / "2026" / "11").chmod(0o555)
    (root / "2026").chmod(0o555)
    for path in (root, *root.rglob("*")):
        os.chown(path, APP, APP, follow_symlinks=False)
    entries, before = entries_of(root, contents), facts(root)
    (root / "2026" / "dog.jpg").unlink()
    (root / "2026" / "11" / "cat.jpg").write_bytes(b"tac")
    shutil.move(root / "2026" / "11", root / "2026" / "moved")

    def restore_and_remove() -> None:
        put_back(Path(), entries, contents, NOW, exact=True)
        with Directory.open(Path()) as directory:
            (name,) = restorations(directory, KEPT)
            remove_tree(directory, name)

    assert as_user(restore_and_remove, root) == 0
    assert facts(root) == before


def test_owners_that_cannot_be_given_are_counted(root: Path) -> None:
    contents = MemoryContents()
    entries = entries_of(root, contents)  # of root
    for path in (root, *root.rglob("*")):
        os.chown(path, APP, APP, follow_symlinks=False)
    shutil.rmtree(root / "2026")

    def restore() -> None:
        with ready(Path(), entries, contents, NOW) as prepared:
            assert prepared.staged.foreign == 4  # two directories and two files
            prepared.restoration.move()

    assert as_user(restore, root) == 0
    assert (root / "2026" / "dog.jpg").stat().st_uid == APP


def test_full_disk_changes_nothing(tmp_path: Path) -> None:
    contents, template = MemoryContents(), tmp_path / "template"
    template.mkdir()
    for number in range(8):
        (template / f"{number}").write_bytes(os.urandom(200_000))
    entries = entries_of(template, contents)
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk / "0").write_bytes(b"other")
        before = facts(disk, inodes=True)
        with pytest.raises(OSError, match="No space left"):
            put_back(disk, entries, contents, NOW)
        assert facts(disk, inodes=True) == before
        assert list(disk.iterdir()) == [disk / "0"]


def as_user(act: Callable[[], None], directory: Path) -> int:
    """Call `act` in a fork as the user of the app, in a `directory` that it could not get to; return its exit code."""
    assert datetime.strptime("2026-11-30", "%Y-%m-%d")  # noqa: DTZ007 - imports a module that this user may not read
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(directory)
            os.setgroups([])
            os.setgid(APP)
            os.setuid(APP)
            act()
            code = 0
        except BaseException:  # noqa: BLE001 - the test reads it
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


names = st.binary(min_size=1, max_size=6).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))
leaves = st.one_of(
    st.tuples(st.just("f"), st.binary(max_size=9), st.sampled_from([0o644, 0o600, 0o755, 0o400])),
    st.tuples(st.just("f"), st.integers(1, 3).map(lambda n: b"\0" * 4096 * n + b"x"), st.just(0o644)),
    st.tuples(st.just("l"), names, st.just(0o777)),
)
trees = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=12)
nodes = st.dictionaries(names, trees, max_size=5)
times = st.integers(-(10**9), 4 * 10**9).map(lambda seconds: seconds * 10**9 + 123_456_789)


def grow(root: bytes, tree: dict[bytes, object], seed: int) -> None:
    """Make the files, links and directories of a tree, each with a time of its own."""
    for number, (name, node) in enumerate(sorted(tree.items())):
        path = os.path.join(root, name)  # noqa: PTH118 - bytes
        if isinstance(node, dict):
            os.mkdir(path)  # noqa: PTH102
            grow(path, node, seed + 7)
            os.chmod(path, 0o750)  # noqa: PTH101
        else:
            kind, inside, mode = node
            if kind == "l":
                Path(os.fsdecode(path)).symlink_to(os.fsdecode(inside))
            else:
                Path(os.fsdecode(path)).write_bytes(inside)
                os.chmod(path, mode)  # noqa: PTH101
        time_ns = (seed + number) * 10**9 + number
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=nodes, found=nodes, seed=st.integers(-1000, 10**9))
def test_any_tree_becomes_any_other_and_back(tmp_path: Path, wanted: dict, found: dict, seed: int) -> None:
    contents = MemoryContents()
    work = tmp_path / hashlib.sha256(repr((wanted, found, seed)).encode()).hexdigest()[:16]
    shutil.rmtree(work, ignore_errors=True)
    for name, tree in (("wanted", wanted), ("found", found)):
        (work / name).mkdir(parents=True)
        grow(os.fsencode(work / name), tree, seed)
    entries, root = entries_of(work / "wanted", contents), work / "found"
    before = facts(root, inodes=True)
    put_back(root, entries, contents, NOW, exact=True)
    assert facts(root) == facts(work / "wanted")
    go_back(root)
    assert facts(root, inodes=True) == before
