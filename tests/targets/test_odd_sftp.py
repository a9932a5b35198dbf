"""The misbehaving SFTP server does what its oddities say, and nothing odd without, seen by OpenSSH and by paramiko."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from support.odd_sftp import EXTENSIONS, HOSTILE_NAMES, NO_TEXT, Oddities, OddSftp, running_odd_sftp

pytestmark = pytest.mark.no_cover

DATA = os.urandom(300_000)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OddSftp]:
    with running_odd_sftp(tmp_path_factory.mktemp("odd") / "server") as odd:
        yield odd


@pytest.fixture(autouse=True)
def emptied(odd: OddSftp, tmp_path: Path) -> Path:
    """The file that tests upload; the server has none, and is not odd."""
    for file in odd.files.iterdir():
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    odd.be(Oddities())
    (tmp_path / "data").write_bytes(DATA)
    return tmp_path / "data"


@contextmanager
def session(odd: OddSftp) -> Iterator[paramiko.SFTPClient]:
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(odd.client().known_hosts))
        client.connect(
            "127.0.0.1", odd.port, odd.user, key_filename=str(odd.key), allow_agent=False, look_for_keys=False
        )
        with client.open_sftp() as sftp:
            sftp.chdir(odd.path)
            yield sftp


def test_without_oddities_it_serves_openssh_well(odd: OddSftp, emptied: Path) -> None:
    done = odd.client().sftp(
        "cd backups",
        f"put -f {emptied} a.part",  # -f: fsync
        f"put {emptied} a",
        "rename a.part a",  # by posix-rename, which replaces
        "ln a b",
        "chmod 600 a",
        "df .",
        "mkdir d",
        f"get a {emptied}.back",
        "ls -l",
    )
    assert done.code == 0, done.err
    assert emptied.with_name("data.back").read_bytes() == DATA == (odd.files / "b").read_bytes()
    assert (odd.files / "a").stat().st_mode & 0o777 == 0o600
    assert [line.split()[-1] for line in done.out.splitlines()[-3:]] == ["a", "b", "d"]
    assert set(odd.requests) >= EXTENSIONS
    assert odd.client().sftp("get ../../../../etc/passwd").code != 0


def test_nobody_else_is_let_in(odd: OddSftp) -> None:
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(odd.client().known_hosts))
        with pytest.raises(paramiko.AuthenticationException):
            client.connect("127.0.0.1", odd.port, odd.user, pkey=paramiko.ECDSAKey.generate(), look_for_keys=False)


def test_without_extensions_no_file_is_replaced_or_synced(odd: OddSftp, emptied: Path) -> None:
    odd.be(Oddities(extensions=frozenset()))
    client = odd.client()
    assert client.sftp("cd backups", f"put {emptied} a", f"put {emptied} b").code == 0
    for command, complaint in {
        "df": "does not support statvfs",
        "ln a c": "does not support hardlink",
        "rename a b": "Failure",
    }.items():
        done = client.sftp("cd backups", command)
        assert (done.code, complaint in done.err) == (1, True), done
    with session(odd) as sftp, pytest.raises(OSError, match="Operation unsupported"):
        sftp.posix_rename("a", "b")
    odd.be(Oddities(extensions=frozenset(), rename_replaces=True))
    assert client.sftp("cd backups", "rename a b").code == 0


def test_requests_are_denied_or_unknown(odd: OddSftp, emptied: Path) -> None:
    odd.be(Oddities(denied=frozenset({"setstat", "fsync@openssh.com"}), unsupported=frozenset({"remove"})))
    client = odd.client()
    assert "Permission denied" in client.sftp("cd backups", f"put {emptied} a", "chmod 600 a").err
    assert "Operation unsupported" in client.sftp("cd backups", "rm a").err
    assert "Permission denied" in client.sftp("cd backups", f"put -f {emptied} a").err
    assert (odd.files / "a").read_bytes() == DATA


def test_one_write_fails_or_all_from_one_on(odd: OddSftp) -> None:
    odd.be(Oddities(bad_write=2, bad_write_says="No space left on device"))
    with session(odd) as sftp, sftp.open("a", "w") as file:
        file.write(b"1")
        with pytest.raises(OSError, match="No space left on device"):
            file.write(b"2")
        file.write(b"3")
    odd.be(Oddities(bad_write=2, bad_writes=float("inf")))
    with session(odd) as sftp, sftp.open("b", "w") as file:
        file.write(b"1")
        for _ in range(3):
            with pytest.raises(OSError, match="Failure"):
                file.write(b"2")
    assert (odd.files / "b").read_bytes() == b"1"


def test_a_write_is_confirmed_and_not_done(odd: OddSftp, emptied: Path) -> None:
    odd.be(Oddities(lost_write=3))
    assert odd.client().sftp(f"put {emptied} backups/a").code == 0
    stored = (odd.files / "a").read_bytes()
    assert (len(stored), stored == DATA) == (len(DATA), False)


def test_a_byte_is_read_back_wrong_as_often_as_is_said(odd: OddSftp) -> None:
    (odd.files / "a").write_bytes(DATA)
    wrong = DATA[:200_000] + bytes([DATA[200_000] ^ 1]) + DATA[200_001:]
    for flips, expected in ((1, [wrong, DATA]), (float("inf"), [wrong, wrong])):
        odd.be(Oddities(flip_at=200_000, flips=flips))
        with session(odd) as sftp:
            assert [_read(sftp, "a"), _read(sftp, "a")] == expected


def test_sizes_lie_and_files_end_early_or_never(odd: OddSftp) -> None:
    (odd.files / "a").write_bytes(DATA)
    with session(odd) as sftp:
        odd.be(Oddities(size_error=-1000))
        assert sftp.stat("a").st_size == sftp.listdir_attr()[0].st_size == len(DATA) - 1000
        odd.be(Oddities(ends_at=5, read_bytes=2))
        with sftp.open("a") as file:
            assert [file.read(4), file.read(4), sftp.stat("a").st_size] == [DATA[:4], DATA[4:5], len(DATA)]
        odd.be(Oddities(endless=True))
        with sftp.open("a") as file:
            file.seek(10**12)
            assert file.read(10) == bytes(10)


def test_what_is_not_told_is_missing(odd: OddSftp) -> None:
    (odd.files / "a").write_bytes(DATA)
    odd.be(Oddities(told=frozenset({"mode"})))
    with session(odd) as sftp:
        for attributes in (sftp.stat("a"), sftp.listdir_attr()[0]):
            assert (attributes.st_size, attributes.st_mtime, attributes.st_uid) == (None, None, None)
            assert attributes.st_mode is not None


def test_listings_hold_names_that_no_file_can_have(odd: OddSftp) -> None:
    (odd.files / "link.sqlite3.gz").symlink_to("/etc/passwd")
    (odd.files / "directory.sqlite3.gz").mkdir()
    odd.be(Oddities(names=HOSTILE_NAMES))
    with session(odd) as sftp:
        told = [attributes.filename for attributes in sftp.listdir_attr()]
    assert told[:2] == ["directory.sqlite3.gz", "link.sqlite3.gz"]
    assert told[2:] == [name for name in HOSTILE_NAMES if name != ".."]  # which paramiko keeps to itself
    odd.be(Oddities(names=(NO_TEXT,)))
    assert r"tasks-\377\376.sqlite3.gz" in odd.client().sftp("ls -1 backups").out
    with session(odd) as sftp, pytest.raises(UnicodeDecodeError):
        sftp.listdir()
    odd.be(Oddities(names=tuple(f"tasks-{number}.sqlite3.gz" for number in range(10_000))))
    with session(odd) as sftp:
        assert len(sftp.listdir()) == 10_002


def test_a_sparse_manifest_is_served_as_it_is(odd: OddSftp) -> None:
    with (odd.files / "a.manifest.json").open("wb") as file:
        file.truncate(100_000_000)
    with session(odd) as sftp, sftp.open("a.manifest.json") as remote:
        assert remote.stat().st_size == 100_000_000
        remote.seek(99_999_990)
        assert remote.read(100) == bytes(10)


def test_free_space_may_be_said_to_be_less(odd: OddSftp) -> None:
    odd.be(Oddities(free_bytes=0))
    assert odd.client().sftp("df .").out.splitlines()[-1].split()[2] == "0"


@pytest.mark.parametrize("done", [False, True])
def test_a_connection_ends_at_any_request_done_or_not(odd: OddSftp, done: bool) -> None:
    (odd.files / "a").write_bytes(DATA)
    with session(odd) as sftp:
        sftp.posix_rename("a", "b")
    last = len(odd.requests)
    assert odd.requests[-1] == "posix-rename@openssh.com"
    for request in range(1, last + 1):
        (odd.files / "b").rename(odd.files / "a")
        odd.be(Oddities(cut_after=request) if done else Oddities(cut_before=request))
        with pytest.raises((paramiko.SSHException, OSError)), session(odd) as sftp:
            sftp.posix_rename("a", "b")
        assert len(odd.requests) == request
        renamed = (odd.files / "b").exists()
        assert renamed == (done and request == last)
        if not renamed:
            (odd.files / "a").rename(odd.files / "b")


def test_from_a_request_on_nothing_is_answered(odd: OddSftp) -> None:
    with session(odd) as sftp:
        odd.be(Oddities(stall_at=2))
        sftp.get_channel().settimeout(0.3)
        assert sftp.listdir_iter(".") is not None
        assert sftp.stat(".").st_mode
        with pytest.raises(TimeoutError):
            sftp.stat(".")


def _read(sftp: paramiko.SFTPClient, name: str) -> bytes:
    with sftp.open(name) as file:
        return file.read()
