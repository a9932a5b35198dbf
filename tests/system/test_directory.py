"""The directory that is held open, against real links, pipes, devices, mounts, leases and renames during its use."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from backupd.system.directory import MAX_NAMES, Directory
from backupd.system.small_file import UnexpectedFile, read_small_file

SECRET = b"somebody else's"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    return place


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of somebody else, with a file that nothing may read, change or remove."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(SECRET)
    return outside


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero


def _socket(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def _link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "outside" / "file")


def _folder(path: Path) -> None:
    path.mkdir()


PLANTED = pytest.mark.parametrize(
    ("plant", "words"),
    [
        pytest.param(_link, "a symbolic link", id="link"),
        pytest.param(_pipe, "a pipe", id="pipe"),
        pytest.param(_device, "a device", id="device", marks=pytest.mark.root),
        pytest.param(_socket, "a socket", id="socket"),
        pytest.param(_folder, "a directory", id="directory"),
    ],
)


@PLANTED
def test_planted_object_is_refused_with_reason_wherever_file_is_opened(
    place: Path, outside: Path, plant: Callable[[Path], None], words: str
) -> None:
    plant(place / "name")
    with Directory.open(place) as directory:
        for use in (
            lambda: directory.read("name"),
            lambda: directory.open_file("name"),
            lambda: directory.open_file("name", os.O_WRONLY | os.O_APPEND),
            lambda: directory.open_file("name", os.O_RDWR | os.O_CREAT),
            lambda: read_small_file(place / "name"),
        ):
            with pytest.raises(UnexpectedFile, match=f"{words}, not a regular file") as refused:
                use()
            assert refused.value.filename == str(place / "name")
        with pytest.raises(FileExistsError):
            directory.create_file("name")
    assert (outside / "file").read_bytes() == SECRET


def test_link_of_operator_is_followed_where_allowed(place: Path, outside: Path) -> None:
    (place / "name").symlink_to(outside / "file")
    (place / "directory").symlink_to(outside)
    assert read_small_file(place / "name", links=True) == SECRET
    with Directory.open(place / "directory") as directory:
        assert directory.read("file") == SECRET
    (place / "zero").symlink_to("/dev/zero")
    with pytest.raises(UnexpectedFile, match="a device"):
        read_small_file(place / "zero", links=True)


@pytest.mark.parametrize("below", ["", "below", "below/deeper"])
def test_file_on_path_without_links_is_named(place: Path, below: str) -> None:
    (place / "uploads").write_bytes(b"")
    with pytest.raises(UnexpectedFile) as caught:
        Directory.open(place / "uploads" / below, links=False)
    assert caught.value.filename == str(place / "uploads")


def test_path_without_links_is_opened_and_path_with_link_is_refused(place: Path, tmp_path: Path) -> None:
    (place / "below").mkdir()
    (tmp_path / "link").symlink_to(place)
    with Directory.open(place / "below", links=False) as directory:
        assert directory.path == str(place / "below")
        assert os.path.samestat(os.fstat(directory.descriptor), (place / "below").stat())
    for path in (tmp_path / "link", tmp_path / "link" / "below"):
        with pytest.raises(UnexpectedFile, match="a symbolic link, not a directory"):
            Directory.open(path, links=False)
    with Directory.open("/", links=False) as root:
        assert root.stat("proc") is not None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\0b"])
def test_name_of_more_than_one_part_is_never_used(place: Path, name: str) -> None:
    with Directory.open(place) as directory:
        for use in (directory.child, directory.read, directory.unlink, directory.remove, directory.create_file):
            with pytest.raises(ValueError, match="is not the name of a file"):
                use(name)


def test_link_as_child_directory_is_refused(place: Path, outside: Path) -> None:
    (place / "child").symlink_to(outside)
    with Directory.open(place) as directory:
        for use in (directory.child, directory.make):
            with pytest.raises(UnexpectedFile, match="a symbolic link, not a directory"):
                use("child")


def test_directory_renamed_and_replaced_during_use_is_still_used(place: Path, outside: Path) -> None:
    with Directory.open(place) as directory, directory.make("work") as work:
        (place / "work").rename(place / "away")
        (place / "work").symlink_to(outside)
        work.write("new", b"ours")
        work.replace("file", b"ours", temporary="file.new")
        assert work.read("file") == b"ours"
        assert sorted(work.names()) == ["file", "new"]
        assert work.unlink("new")
    assert (place / "away" / "file").read_bytes() == b"ours"
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_bytes() == SECRET


def test_hard_link_is_refused_for_writing(place: Path, outside: Path) -> None:
    os.link(outside / "file", place / "name")
    with Directory.open(place) as directory:
        assert directory.read("name") == SECRET  # whoever copies a store with `cp -al` gives each file two names
        with pytest.raises(UnexpectedFile, match="hard link"):
            directory.open_file("name", os.O_WRONLY)
        with pytest.raises(UnexpectedFile, match="hard link"):
            directory.open_file("name", one_link=True)


def test_large_and_growing_files_are_refused_without_reading_to_end(place: Path) -> None:
    (place / "name").write_bytes(bytes(100))
    os.truncate(place / "name", 1 << 50) if os.statvfs(place).f_bsize > 1 << 12 else os.truncate(
        place / "name", 1 << 40
    )
    with Directory.open(place) as directory:
        with pytest.raises(UnexpectedFile, match="larger than 1000 bytes"):
            directory.read("name", 1000)
        os.truncate(place / "name", 1000)
        assert len(directory.read("name", 1000)) == 1000


def test_file_under_lease_of_another_process_delays_no_read_beyond_limit(place: Path) -> None:
    (place / "name").write_bytes(b"ours")
    with _lease(place / "name"), Directory.open(place) as directory:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="cannot be read in time"):
            directory.read("name", timeout_s=0.2)
        assert time.monotonic() - began < 4
        with pytest.raises(BlockingIOError):
            directory.open_file("name")
    assert read_small_file(place / "name") == b"ours"


@contextmanager
def _lease(path: Path) -> Iterator[None]:
    """Hold a write lease on `path`, and ignore that it is to be given up, as the kernel allows for 45 s."""
    holder = (
        "import fcntl, os, signal, sys\n"
        "signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
        f"one = os.open({str(path)!r}, os.O_RDWR)\n"
        "fcntl.fcntl(one, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.send_signal(signal.SIGKILL)


def test_removal_of_link_leaves_target(place: Path, outside: Path) -> None:
    tree = place / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "file").touch()
    (tree / "below" / "link").symlink_to(outside)
    (tree / "link").symlink_to(outside / "file")
    _pipe(tree / "pipe")
    with Directory.open(place) as directory:
        directory.remove("tree")
        directory.remove("tree")  # a missing one is accepted
        (place / "tree").symlink_to(outside)
        directory.remove("tree")
        assert directory.names() == []
    assert (outside / "file").read_bytes() == SECRET


def test_removal_continues_after_error_and_raises_first_one(place: Path) -> None:
    tree = place / "tree"
    deep = tree / "deep"
    deep.joinpath(*["d"] * 200).mkdir(parents=True)
    (tree / "file").touch()
    with Directory.open(place) as directory, pytest.raises(UnexpectedFile, match="more than 32 nested directories"):
        directory.remove("tree")
    assert not (tree / "file").exists()


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_removal_stops_at_mount(place: Path, outside: Path, kind: str) -> None:
    point = place / "tree" / "mounted"
    point.mkdir(parents=True)
    (place / "tree" / "file").touch()
    command = ["mount", "-t", "tmpfs", "none"] if kind == "tmpfs" else ["mount", "--bind", str(outside)]
    subprocess.run([*command, str(point)], check=True)
    try:
        (point / "kept").write_bytes(SECRET)
        with Directory.open(place) as directory, pytest.raises(UnexpectedFile, match="a file system is mounted there"):
            directory.remove("tree")
        assert (point / "kept").read_bytes() == SECRET
        assert not (place / "tree" / "file").exists()
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_removal_during_which_directories_become_links_touches_nothing_else(place: Path, outside: Path) -> None:
    """A process exchanges directories for links as fast as it can, while trees are removed."""
    for number in range(20):
        (outside / f"d{number}").mkdir()
        (outside / f"d{number}" / "file").write_bytes(SECRET)
    attacker = (
        "import os, sys\n"
        f"place, outside = {str(place)!r}, {str(outside)!r}\n"
        "for number in range(20): os.symlink(f'{outside}/d{number}', f'{place}/link{number}')\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for number in range(20):\n"
        "        one, link = f'{place}/tree/d{number}', f'{place}/link{number}'\n"
        "        try:\n"
        "            os.rename(one, one + '.away'); os.rename(link, one)\n"
        "        except OSError: pass\n"
        "        try:\n"
        "            os.rename(one, link); os.rename(one + '.away', one)\n"
        "        except OSError: pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", attacker], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        give_up, odd = time.monotonic() + 3, 0
        try:
            while time.monotonic() < give_up and odd < 20:
                with Directory.open(place) as directory:
                    for number in range(20):
                        with suppress(OSError), directory.make("tree") as tree, tree.make(f"d{number}") as below:
                            os.close(below.create_file("file"))
                    try:
                        directory.remove("tree")
                    except OSError:
                        odd += 1
        finally:
            process.kill()
    assert odd, "the attacker never came in between"
    assert all((outside / f"d{number}" / "file").read_bytes() == SECRET for number in range(20))


def test_moved_file_is_open_one_or_move_is_refused(place: Path, outside: Path) -> None:
    with Directory.open(place) as directory, directory.make("to") as to:
        descriptor = directory.create_file("part")
        (place / "part").unlink()
        (place / "part").symlink_to(outside / "file")
        with pytest.raises(UnexpectedFile, match="another file was put in the place"):
            directory.move("part", descriptor, to, "target")
        assert to.names() == []
        directory.unlink("part")
        os.close(descriptor)
        descriptor = directory.create_file("part")
        directory.move("part", descriptor, to, "target")
        assert to.holds("target", descriptor)
        os.close(descriptor)


def test_placed_file_is_open_one_and_replaces_none(place: Path, outside: Path) -> None:
    with Directory.open(place) as directory, directory.make("to") as to:
        descriptor = directory.create_file("part")
        os.write(descriptor, b"ours")
        (place / "part").rename(place / "away")
        (place / "part").symlink_to(outside / "file")
        directory.place("part", descriptor, to, "target")
        assert to.read("target") == b"ours"
        with pytest.raises(FileExistsError):
            directory.place("part", descriptor, to, "target")
        os.close(descriptor)
    assert (outside / "file").read_bytes() == SECRET


def test_exchange_swaps_two_names(place: Path) -> None:
    (place / "a").write_bytes(b"1")
    (place / "b").write_bytes(b"2")
    with Directory.open(place) as directory:
        assert directory.exchange("a", "b")
        assert (directory.read("a"), directory.read("b")) == (b"2", b"1")


def test_directory_with_too_many_names_is_refused(place: Path) -> None:
    for number in range(4):
        (place / str(number)).touch()
    with Directory.open(place) as directory:
        assert len(directory.names(4)) == 4
        with pytest.raises(UnexpectedFile, match="more than 3 files"):
            directory.names(3)
    assert MAX_NAMES > 10_000


@pytest.mark.root
def test_new_files_of_root_get_owner_of_directory(place: Path, outside: Path) -> None:
    os.chown(place, 1234, 1235)
    with Directory.open(place) as directory, directory.make("made") as made:
        made.write("file", b"")
        assert ((place / "made").stat().st_uid, (place / "made" / "file").stat().st_gid) == (1234, 1235)
        os.link(outside / "file", place / "made" / "link")
        with open(outside / "file", "rb") as stream:
            made.give_owner(stream.fileno())  # it has two names, of which one is outside
    assert (outside / "file").stat().st_uid == 0
