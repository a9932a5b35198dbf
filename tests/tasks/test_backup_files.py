"""Backups of sets of files: what is in them, what is read, and what is said."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.files.index import DAY_DIGITS
from backupd.report import BackupDetails
from backupd.tasks.context import local_inventory
from backupd.tasks.files.capture import holding_set
from backupd.tasks.requests import ShrinkGuard
from backupd.tasks.verify import verify
from support.file_sets import FileSet

WRITES = """
import itertools, os, sys
file = os.open(sys.argv[1], os.O_WRONLY)
for number in itertools.count():
    os.pwrite(file, b"%020d" % number, number * 4099 % (8 << 20) & ~4095)
    if number == 100:
        print("writing", flush=True)
"""

pytestmark = pytest.mark.cover_processes  # a child walks the directory


@pytest.fixture
def files(tmp_path: Path) -> FileSet:
    return FileSet(tmp_path)


def test_every_content_is_restored_by_gunzip_and_list_names_owner_mode_and_time(files: FileSet) -> None:
    files.write("a.txt", "alpha")
    files.write("2026/ü nicode 'quoted' $x.jpg", os.urandom(3000))
    files.write("empty", "")
    files.write("twice/one", "same content")
    files.write("twice/two", "same content")
    (files.path / "a.txt").chmod(0o4640)
    os.utime(files.path / "a.txt", ns=(0, 1_234_567_890_123_456_789))
    report = files.back_up()
    assert (report.outcome, report.error) == ("published", None)
    assert report.generation
    assert files.restored(report.generation) == files.on_disk()
    entry = files.entries(report.generation)["a.txt"]
    state = (files.path / "a.txt").stat()
    assert (entry.mode, entry.mtime_ns, entry.size_bytes) == (0o4640, 1_234_567_890_123_456_789, 5)
    assert (entry.uid, entry.gid) == (state.st_uid, state.st_gid)
    assert len(files.stored()) == 4, "each content once"
    details = report.details
    assert (details.files, details.new_files, details.changed_files, details.gone_files) == (5, 5, 0, 0)
    manifest = files.manifest(report.generation)
    assert (manifest.files.files, manifest.files.directories, manifest.verdict.level) == (5, 2, "full")


def test_what_gzip_does_not_shrink_is_stored_as_it_is(files: FileSet) -> None:
    files.write("noise", os.urandom(100_000))
    files.write("text", "text " * 20_000)
    files.write("large noise", os.urandom(3 << 20))
    files.write("large text", b"0123456789abcdef" * (3 << 16))
    report = files.back_up()
    assert report.generation
    assert files.restored(report.generation) == files.on_disk()
    assert sorted(name.endswith(".gz") for name in files.stored()) == [False, False, True, True]


def test_odd_names_and_links_are_stored_as_they_are(files: FileSet, tmp_path: Path) -> None:
    odd = [b"new\nline", b"tab\there", b"back\\slash", b"\xff\xfe", b"-rf", b" space ", "\u2028".encode(), b"\\0141"]
    for number, name in enumerate(odd):
        (files.path / os.fsdecode(name)).write_bytes(b"%d" % number)
    (tmp_path / "secret").write_text("not in the set")
    (files.path / "out").symlink_to("../secret")
    (files.path / "dangling").symlink_to("/no/such\nfile")
    (files.path / "directory").symlink_to("/etc")
    report = files.back_up()
    assert report.generation
    entries = files.entries(report.generation)
    found = {os.fsencode(path): files.content(one.digest) for path, one in entries.items() if one.type == "f"}
    assert found == {name: b"%d" % number for number, name in enumerate(odd)}
    links = {path: one.target for path, one in entries.items() if one.type == "l"}
    assert links == {"out": b"../secret", "dangling": b"/no/such\nfile", "directory": b"/etc"}
    assert "directory/passwd" not in entries


def test_unchanged_files_are_neither_opened_nor_published_again(files: FileSet, tmp_path: Path) -> None:
    for number in range(30):
        files.write(f"d{number % 3}/file{number}", str(number))
    first = files.back_up()
    make_old(files)
    trace = tmp_path / "trace"
    code = "import sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]; from support import file_sets; "
    code += "run = file_sets.FileSet.__new__(file_sets.FileSet); run.root = Path(sys.argv[1]); run.set_up(); "
    code += "report = run.back_up(); print(report.outcome, report.generation)"
    command = ["strace", "-f", "-qq", "-e", "trace=openat", "-o", str(trace), sys.executable, "-c", code]
    ended = subprocess.run(
        [*command, str(files.root), str(Path(__file__).parents[1])], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["unchanged", first.generation]
    opened = re.findall(r'openat\([^,]*, "(file\d+)"', trace.read_text())
    assert opened == []
    assert "uploads" in trace.read_text(), "the trace saw the walk"


def make_old(files: FileSet) -> None:
    """Back up again once the files are old enough for their times to be trusted: more than 2 s."""
    newest = max(path.lstat().st_ctime for path in files.path.rglob("*"))
    while time.time() - newest <= 2.1:
        time.sleep(0.1)
    files.back_up()


def test_changed_new_and_gone_files_make_a_generation_of_their_own(files: FileSet) -> None:
    for name in ("kept", "changed", "gone", "d/kept", "d/gone"):
        files.write(name, f"{name} 1")
    first = files.back_up()
    files.write("changed", "changed 2", age_s=50)
    files.write("d/new", "new")
    (files.path / "gone").unlink()
    (files.path / "d" / "gone").unlink()
    second = files.back_up()
    assert second.outcome == "published"
    assert second.generation != first.generation
    assert first.generation
    assert second.generation
    assert files.restored(second.generation) == files.on_disk()
    assert set(files.restored(first.generation)) == {"kept", "changed", "gone", "d/kept", "d/gone"}
    details = second.details
    assert (details.new_files, details.gone_files) == (1, 2)


def test_what_is_new_changed_or_gone_after_the_hold_is_found_by_the_look_after_it(files: FileSet) -> None:
    for name in ("stays", "gone", "known/changed", "known/replaced"):
        files.write(name, name)
    context, listed = files.context, set[str]()
    with (
        context.run("backup", "uploads", BackupDetails()) as run,
        context.exclusive_lock("backup"),
        context.store.staging() as staging,
        holding_set(files.request, local_inventory(context), staging, context) as held,
    ):
        held.hold(run)
        files.write("new/deep/file", "new")
        files.write("known/changed", "changed since")
        files.write("known/exchanged", "exchanged").rename(files.path / "known" / "replaced")
        (files.path / "link").symlink_to("stays")
        (files.path / "gone").unlink()
        held.rescan(run)
        capture = held.capture(None, run, lambda path: listed.add(path.decode()))
    assert run.report.error is None, run.report
    assert listed == {"stays", "gone", "known/changed", "known/replaced", "new/deep/file", "link"}
    assert capture.files is not None
    assert (capture.files.files, capture.files.directories, capture.files.links) == (5, 3, 1)
    assert capture.files.size_bytes == len("staysgonechanged sinceexchangednew")


def test_same_size_and_mtime_do_not_hide_a_change(files: FileSet) -> None:
    place = files.write("a", "one")
    files.back_up()
    state = place.stat()
    place.write_text("two")
    os.utime(place, ns=(state.st_atime_ns, state.st_mtime_ns))
    report = files.back_up()
    assert report.generation
    assert files.restored(report.generation) == {"a": b"two"}


def test_renamed_and_exchanged_files_are_found(files: FileSet) -> None:
    files.write("a", "was a")
    files.write("b", "was b")
    files.write("d/x", "was x")
    files.back_up()
    (files.path / "a").rename(files.path / "c")
    (files.path / "b").rename(files.path / "a")
    (files.path / "d").rename(files.path / "e")
    report = files.back_up()
    assert report.generation
    assert files.restored(report.generation) == {"c": b"was a", "a": b"was b", "e/x": b"was x"}
    assert len(files.stored()) == 3, "nothing is stored twice"


def test_file_that_becomes_a_directory_and_back_is_followed(files: FileSet) -> None:
    files.write("a", "file")
    files.write("b/c", "below")
    files.back_up()
    (files.path / "a").unlink()
    files.write("a/now", "below a")
    (files.path / "b" / "c").unlink()
    (files.path / "b").rmdir()
    files.write("b", "file")
    report = files.back_up()
    assert report.generation
    assert files.restored(report.generation) == {"a/now": b"below a", "b": b"file"}


@pytest.mark.parametrize("damage", ["gone", "truncated", "flipped", "empty"])
def test_damaged_index_costs_reading_and_no_content_twice(files: FileSet, damage: str) -> None:
    for number in range(20):
        files.write(f"f{number}", f"content {number}")
    first = files.back_up()
    stored = files.stored()
    match damage:
        case "gone":
            files.forget_index()
        case "truncated":
            os.truncate(files.index, files.index.stat().st_size // 2)
        case "flipped":
            raw = bytearray(files.index.read_bytes())
            raw[raw.index(b"f7\t") + 10] ^= 1
            files.index.write_bytes(raw)
        case _:
            files.index.write_bytes(b"")
    second = files.back_up()
    assert (second.outcome, second.generation) == ("unchanged", first.generation)
    assert files.stored() == stored


def test_content_that_the_store_has_lost_is_stored_again(files: FileSet) -> None:
    files.write("a", "lost")
    files.write("b", "kept")
    first = files.back_up()
    make_old(files)
    assert first.generation
    digest = files.entries(first.generation)["a"].digest
    (lost,) = (files.root / "backups" / "files").glob(f"*/{digest}*")
    lost.unlink()
    files.write("c", "new")
    second = files.back_up()
    assert second.generation
    assert second.outcome == "degraded"
    assert "the contents of 1 file of uploads were no longer in the store" in second.warnings[0]
    assert files.restored(second.generation) == files.on_disk()


def test_content_that_the_store_has_lost_is_stored_again_though_no_file_has_changed(files: FileSet) -> None:
    files.write("a", "lost")
    files.write("b", "kept")
    first = files.back_up()
    make_old(files)
    assert first.generation
    shutil.rmtree(files.root / "backups" / "files")
    again = files.back_up()
    assert (again.outcome, again.generation) == ("unchanged", first.generation)
    assert "the contents of 2 files of uploads were no longer in the store" in again.warnings[0]
    assert files.restored(first.generation) == files.on_disk()
    assert files.back_up().warnings == ()


def test_content_that_was_found_damaged_is_stored_again_though_its_file_has_not_changed(files: FileSet) -> None:
    files.write("a", "what it was")
    files.write("b", "stays")
    first = files.back_up()
    make_old(files)
    assert first.generation
    (damaged,) = (files.root / "backups" / "files").glob(f"*/{files.entries(first.generation)['a'].digest}*")
    damaged.write_bytes(bytes(damaged.stat().st_size))
    assert verify(first.generation, local_inventory(files.context), 1, files.context).damaged
    files.write("c", "new")
    second = files.back_up()
    assert second.generation not in (None, first.generation)
    assert files.restored(second.generation or "") == files.on_disk()
    assert verify(first.generation, local_inventory(files.context), 1, files.context).sound


def test_sockets_and_pipes_are_skipped_and_counted(files: FileSet) -> None:
    files.write("a")
    os.mkfifo(files.path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(files.path / "socket"))
        report = files.back_up()
    assert report.generation
    assert report.outcome == "published"
    assert set(files.entries(report.generation)) == {"a"}
    assert report.details.skipped == 2
    assert "2 files of uploads skipped: sockets, pipes and devices have no content" in report.notes


@pytest.mark.root
def test_file_that_its_owner_may_not_read_degrades_the_run_and_is_named(files: FileSet) -> None:
    files.write("a")
    files.write("private", "not for the owner")
    files.write("closed/b")
    os.chown(files.path, 1234, 1234)
    os.chown(files.path / "a", 1234, 1234)
    (files.path / "private").chmod(0o600)
    (files.path / "closed").chmod(0o700)
    for above in files.path.parents:
        if above.stat().st_uid == os.getuid():
            above.chmod(above.stat().st_mode | 0o011)
    report = files.back_up()
    assert report.outcome == "degraded", report
    (warning,) = report.warnings
    assert re.search(r"2 files of uploads could not be read by uid 1234.*: (closed, private|private, closed)", warning)
    assert report.generation
    assert set(files.entries(report.generation)) == {"a", "closed"}
    assert files.manifest(report.generation).verdict.level == "structural"
    again = files.back_up()
    assert again.warnings == (warning,), "as long as it is so"


@pytest.mark.root
def test_lost_and_found_of_the_file_system_is_no_problem_and_one_of_the_app_is_copied(files: FileSet) -> None:
    files.write("a")
    files.write("b/lost+found/c")
    (files.path / "lost+found").mkdir(mode=0o700)
    for path in (files.path, *files.path.rglob("*")):
        os.chown(path, 1234, 1234)
    os.chown(files.path / "lost+found", 0, 0)
    for above in files.path.parents:
        if above.stat().st_uid == os.getuid():
            above.chmod(above.stat().st_mode | 0o011)
    report = files.back_up()
    assert (report.outcome, report.warnings) == ("published", ()), report
    assert set(files.entries(report.generation or "")) == {"a", "b", "b/lost+found", "b/lost+found/c"}
    os.chown(files.path / "lost+found", 1234, 1234)
    assert "lost+found" in files.entries(files.back_up().generation or "")


def test_excluded_files_backups_databases_and_own_files_are_left_out(files: FileSet) -> None:
    names = ("a.jpg", "a.tmp", "cache/x", "tasks.db", "tasks.db-wal", "b/tasks.db", ".backupd-undo/x", "b/y.tmp")
    for name in (*names, "tasks.db.pre-restore-20260101T000000Z", "thumbs/z"):
        files.write(name, "x")
    databases = (files.path / "tasks.db",)
    report = files.back_up(exclude=("*.tmp", "cache/", "/thumbs/"), databases=databases)
    assert report.generation
    assert set(files.restored(report.generation)) == {"a.jpg", "b/tasks.db"}


def test_database_whose_path_begins_with_dots_is_left_out(files: FileSet) -> None:
    files.write("a.jpg")
    files.write("..data/tasks.db", b"SQLite format 3\0" + bytes(4080))
    report = files.back_up(databases=(files.path / "..data" / "tasks.db",))
    assert (report.outcome, report.warnings) == ("published", ())
    assert set(files.restored(report.generation or "")) == {"a.jpg"}


def test_report_says_by_how_much_the_store_has_grown(files: FileSet) -> None:
    files.write("packed", b"a" * 200_000)
    files.write("as it is", os.urandom(10_000))
    files.write("large", b"b" * (3 << 20))
    for name in ("same", "same again", "and again"):
        files.write(name, b"c" * 100_000)
    os.truncate(files.write("hole"), 64 << 20)
    first = files.back_up().details
    assert (first.archive_bytes, first.snapshot_bytes) == (stored_bytes(files), files_bytes(files))
    files.write("packed too", b"a" * 200_000)
    files.write("other", b"d" * 200_000)
    before = stored_bytes(files)
    assert files.back_up().details.archive_bytes == stored_bytes(files) - before


def stored_bytes(files: FileSet) -> int:
    """Return the size of all lists and contents in the store."""
    backups = files.root / "backups"
    stored = [path for path in (backups / "files").rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in [*stored, *backups.glob("*.files.gz")])


def files_bytes(files: FileSet) -> int:
    return sum(path.stat().st_size for path in files.path.iterdir())


def test_file_that_never_holds_still_is_kept_as_it_was_read_named_and_read_again(files: FileSet) -> None:
    files.write("a.jpg")
    log = files.write("app.log", b"0" * (8 << 20))
    with subprocess.Popen([sys.executable, "-c", WRITES, log], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()  # it writes now
            report = files.back_up()
        finally:
            writer.kill()
    assert (report.outcome, report.warnings) == ("published", ())
    assert report.notes == ("1 file of uploads changed again and again while being copied: app.log",)
    assert len(files.restored(report.generation or "")["app.log"]) == 8 << 20, "restored by its digest"
    make_old(files)
    again = files.back_up()
    assert again.notes == ()
    assert files.restored(again.generation or "")["app.log"] == log.read_bytes()


def test_store_inside_the_directory_is_left_out(tmp_path: Path) -> None:
    files = FileSet(tmp_path / "uploads" / "backups")
    files.path.rmdir()
    (tmp_path / "uploads" / "a").write_text("x")
    report = files.back_up(path=tmp_path / "uploads")
    assert report.generation
    entries = files.entries(report.generation)
    assert "a" in entries
    assert not [path for path in entries if path.startswith("backups/backups")]


def test_database_that_no_source_covers_is_copied_and_named_each_time(files: FileSet) -> None:
    files.write("other.db", b"SQLite format 3\0" + bytes(4080))
    first = files.back_up()
    make_old(files)
    again = files.back_up()
    assert first.outcome == "degraded"
    assert "1 file of uploads is SQLite: other.db" in first.warnings[0]
    assert again.outcome == "unchanged"
    assert again.warnings == first.warnings
    assert first.generation
    assert set(files.restored(first.generation)) == {"other.db"}
    (files.path / "other.db").unlink()
    assert files.back_up().warnings == ()


def test_many_files_gone_hold_pruning_until_accepted(files: FileSet) -> None:
    for number in range(10):
        files.write(f"f{number}", f"{number}" * 100)
    first = files.back_up()
    for number in range(6):
        (files.path / f"f{number}").unlink()
    report = files.back_up()
    assert report.outcome == "degraded"
    assert f"uploads shrank since {first.generation}: from 10 to 4 files; from 1000 B to 400 B" in report.warnings[0]
    hold = files.context.holds.get("uploads")
    assert hold
    assert (hold.kind, hold.reference) == ("shrink", first.generation)
    again = files.back_up()
    assert again.warnings, "still compared with what it was"
    files.context.holds.release("uploads")
    assert files.back_up().warnings == ()
    assert files.context.holds.get("uploads") is None


def test_guard_that_is_off_or_of_few_files_holds_nothing(files: FileSet) -> None:
    for number in range(10):
        files.write(f"f{number}", "x")
    files.back_up()
    for number in range(9):
        (files.path / f"f{number}").unlink()
    assert files.back_up(guard=ShrinkGuard(enabled=False)).warnings == ()
    assert files.back_up(guard=ShrinkGuard(min_rows=100)).warnings == ()


def test_sparse_file_of_a_terabyte_is_not_read_through(files: FileSet) -> None:
    place = files.path / "sparse"
    with place.open("wb") as stream:
        stream.truncate(300 << 20)
        stream.seek(200 << 20)
        stream.write(b"in the middle")
    report = files.back_up()
    assert report.generation
    entry = files.entries(report.generation)["sparse"]
    assert entry.size_bytes == 300 << 20
    assert files.content(entry.digest) == place.read_bytes()
    assert report.details.archive_bytes
    stored = sum(path.stat().st_size for path in (files.root / "backups" / "files").glob("*/*"))
    assert stored < 2 << 20


def test_directory_that_is_missing_or_a_file_fails_with_what_to_do(files: FileSet) -> None:
    files.path.rmdir()
    missing = files.back_up()
    assert (missing.outcome, missing.error) == ("failed", f"no directory at {files.path}")
    files.path.write_text("file")
    wrong = files.back_up()
    assert wrong.error == f"{files.path} is not a directory"
    assert wrong.hint


def test_file_is_read_again_after_a_month_and_hidden_damage_is_said(files: FileSet) -> None:
    files.write("a", "what it was")
    files.write("b", "stays")
    files.back_up()
    make_old(files)
    raw = files.index.read_bytes()
    lines = raw.splitlines(keepends=True)
    long_ago = b"%d" % ((datetime.now(UTC) - timedelta(days=70) - datetime(1970, 1, 1, tzinfo=UTC)).days)
    other = b"0" * 64
    aged = [line[: -1 - DAY_DIGITS] + long_ago + b"\n" if line.startswith(b"f") else line for line in lines[:-1]]
    aged = [re.sub(rb"\ta\t[0-9a-f]{64}", b"\ta\t" + other, line) for line in aged]
    write_index(files, aged)
    report = files.back_up()
    assert report.outcome == "unchanged"
    assert "the content of a is not what was read before, though size and times are" in report.warnings[0]
    days = {line[-1 - DAY_DIGITS : -1] for line in files.index.read_bytes().splitlines(keepends=True)[:-1]}
    assert long_ago not in days


def write_index(files: FileSet, lines: list[bytes]) -> None:
    from backupd.files.index import IndexWriter, read_trailer

    with files.index.open("rb") as stream:
        trailer = read_trailer(stream)
    assert trailer
    with files.index.open("wb") as stream:
        writer = IndexWriter(stream)
        for line in lines:
            writer.write(line)
        stream.write(writer.last_line(trailer))
