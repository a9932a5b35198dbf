"""The faulty SFTP server has the faults that are set, and no others, seen by OpenSSH and by paramiko."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from support.faulty_sftp import (
    EXTENSIONS,
    HOSTILE_NAMES,
    NON_UTF8_NAME,
    FaultySftpServer,
    SftpFaults,
    running_faulty_sftp,
)
from support.faulty_sftp_session import FaultySftpSession

pytestmark = pytest.mark.no_cover

DATA = os.urandom(300_000)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySftpServer]:
    with running_faulty_sftp(tmp_path_factory.mktemp("faulty") / "server") as faulty:
        yield faulty


@pytest.fixture(autouse=True)
def emptied(faulty: FaultySftpServer, tmp_path: Path) -> Path:
    """The file that tests upload; the server has no files and no faults."""
    for file in faulty.files.iterdir():
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    faulty.set_faults(SftpFaults())
    (tmp_path / "data").write_bytes(DATA)
    return tmp_path / "data"


@contextmanager
def session(faulty: FaultySftpServer) -> Iterator[paramiko.SFTPClient]:
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(faulty.client().known_hosts))
        client.connect(
            "127.0.0.1", faulty.port, faulty.user, key_filename=str(faulty.key), allow_agent=False, look_for_keys=False
        )
        with client.open_sftp() as sftp:
            sftp.chdir(faulty.path)
            yield sftp


def test_server_without_faults_serves_openssh(faulty: FaultySftpServer, emptied: Path) -> None:
    done = faulty.client().sftp(
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
    assert emptied.with_name("data.back").read_bytes() == DATA == (faulty.files / "b").read_bytes()
    assert (faulty.files / "a").stat().st_mode & 0o777 == 0o600
    assert [line.split()[-1] for line in done.out.splitlines()[-3:]] == ["a", "b", "d"]
    assert set(faulty.requests) >= EXTENSIONS
    assert faulty.client().sftp("get ../../../../etc/passwd").code != 0


def test_other_users_and_keys_are_refused(faulty: FaultySftpServer) -> None:
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(faulty.client().known_hosts))
        with pytest.raises(paramiko.AuthenticationException):
            client.connect(
                "127.0.0.1", faulty.port, faulty.user, pkey=paramiko.ECDSAKey.generate(), look_for_keys=False
            )


def test_server_without_extensions_cannot_replace_or_sync(faulty: FaultySftpServer, emptied: Path) -> None:
    faulty.set_faults(SftpFaults(extensions=frozenset()))
    client = faulty.client()
    assert client.sftp("cd backups", f"put {emptied} a", f"put {emptied} b").code == 0
    for command, complaint in {
        "df": "does not support statvfs",
        "ln a c": "does not support hardlink",
        "rename a b": "Failure",
    }.items():
        done = client.sftp("cd backups", command)
        assert (done.code, complaint in done.err) == (1, True), done
    with session(faulty) as sftp, pytest.raises(OSError, match="Operation unsupported"):
        sftp.posix_rename("a", "b")
    faulty.set_faults(SftpFaults(extensions=frozenset(), rename_replaces=True))
    assert client.sftp("cd backups", "rename a b").code == 0


def test_requests_can_be_denied_or_unsupported(faulty: FaultySftpServer, emptied: Path) -> None:
    faulty.set_faults(SftpFaults(denied=frozenset({"setstat", "fsync@openssh.com"}), unsupported=frozenset({"remove"})))
    client = faulty.client()
    assert "Permission denied" in client.sftp("cd backups", f"put {emptied} a", "chmod 600 a").err
    assert "Operation unsupported" in client.sftp("cd backups", "rm a").err
    assert "Permission denied" in client.sftp("cd backups", f"put -f {emptied} a").err
    assert (faulty.files / "a").read_bytes() == DATA


def test_bad_write_fails_once_or_from_then_on(faulty: FaultySftpServer) -> None:
    faulty.set_faults(SftpFaults(bad_write=2, bad_write_message="No space left on device"))
    with session(faulty) as sftp, sftp.open("a", "w") as file:
        file.write(b"1")
        with pytest.raises(OSError, match="No space left on device"):
            file.write(b"2")
        file.write(b"3")
    faulty.set_faults(SftpFaults(bad_write=2, bad_writes=float("inf")))
    with session(faulty) as sftp, sftp.open("b", "w") as file:
        file.write(b"1")
        for _ in range(3):
            with pytest.raises(OSError, match="Failure"):
                file.write(b"2")
    assert (faulty.files / "b").read_bytes() == b"1"


def test_lost_write_is_confirmed_and_not_done(faulty: FaultySftpServer, emptied: Path) -> None:
    faulty.set_faults(SftpFaults(lost_write=3))
    assert faulty.client().sftp(f"put {emptied} backups/a").code == 0
    stored = (faulty.files / "a").read_bytes()
    assert (len(stored), stored == DATA) == (len(DATA), False)


def test_flipped_byte_is_read_back_as_often_as_set(faulty: FaultySftpServer) -> None:
    (faulty.files / "a").write_bytes(DATA)
    wrong = DATA[:200_000] + bytes([DATA[200_000] ^ 1]) + DATA[200_001:]
    for flips, expected in ((1, [wrong, DATA]), (float("inf"), [wrong, wrong])):
        faulty.set_faults(SftpFaults(flip_at=200_000, flips=flips))
        with session(faulty) as sftp:
            assert [_read(sftp, "a"), _read(sftp, "a")] == expected


def test_sizes_and_ends_of_files_can_be_wrong(faulty: FaultySftpServer) -> None:
    (faulty.files / "a").write_bytes(DATA)
    with session(faulty) as sftp:
        faulty.set_faults(SftpFaults(size_error=-1000))
        assert sftp.stat("a").st_size == sftp.listdir_attr()[0].st_size == len(DATA) - 1000
        faulty.set_faults(SftpFaults(ends_at=5, read_bytes=2))
        with sftp.open("a") as file:
            assert [file.read(4), file.read(4), sftp.stat("a").st_size] == [DATA[:4], DATA[4:5], len(DATA)]
        faulty.set_faults(SftpFaults(endless=True))
        with sftp.open("a") as file:
            file.seek(10**12)
            assert file.read(10) == bytes(10)


def test_unreported_attributes_are_missing(faulty: FaultySftpServer) -> None:
    (faulty.files / "a").write_bytes(DATA)
    faulty.set_faults(SftpFaults(attributes=frozenset({"mode"})))
    with session(faulty) as sftp:
        for attributes in (sftp.stat("a"), sftp.listdir_attr()[0]):
            assert (attributes.st_size, attributes.st_mtime, attributes.st_uid) == (None, None, None)
            assert attributes.st_mode is not None


def test_listings_can_have_impossible_names(faulty: FaultySftpServer) -> None:
    (faulty.files / "link.sqlite3.gz").symlink_to("/etc/passwd")
    (faulty.files / "directory.sqlite3.gz").mkdir()
    faulty.set_faults(SftpFaults(names=HOSTILE_NAMES))
    with session(faulty) as sftp:
        told = [attributes.filename for attributes in sftp.listdir_attr()]
    assert told[:2] == ["directory.sqlite3.gz", "link.sqlite3.gz"]
    assert told[2:] == [name for name in HOSTILE_NAMES if name != ".."]  # which paramiko keeps to itself
    faulty.set_faults(SftpFaults(names=(NON_UTF8_NAME,)))
    assert r"tasks-\377\376.sqlite3.gz" in faulty.client().sftp("ls -1 backups").out
    with session(faulty) as sftp, pytest.raises(UnicodeDecodeError):
        sftp.listdir()
    faulty.set_faults(SftpFaults(names=tuple(f"tasks-{number}.sqlite3.gz" for number in range(10_000))))
    with session(faulty) as sftp:
        assert len(sftp.listdir()) == 10_002


def test_sparse_manifest_is_served_unchanged(faulty: FaultySftpServer) -> None:
    with (faulty.files / "a.manifest.json").open("wb") as file:
        file.truncate(100_000_000)
    with session(faulty) as sftp, sftp.open("a.manifest.json") as remote:
        assert remote.stat().st_size == 100_000_000
        remote.seek(99_999_990)
        assert remote.read(100) == bytes(10)


def test_reported_free_space_can_be_set(faulty: FaultySftpServer) -> None:
    faulty.set_faults(SftpFaults(free_bytes=0))
    assert faulty.client().sftp("df .").out.splitlines()[-1].split()[2] == "0"


@pytest.mark.parametrize("done", [False, True])
def test_connection_ends_before_or_after_any_request(faulty: FaultySftpServer, done: bool) -> None:
    (faulty.files / "a").write_bytes(DATA)
    with session(faulty) as sftp:
        sftp.posix_rename("a", "b")
    last = len(faulty.requests)
    assert faulty.requests[-1] == "posix-rename@openssh.com"
    for request in range(1, last + 1):
        (faulty.files / "b").rename(faulty.files / "a")
        faulty.set_faults(SftpFaults(cut_after=request) if done else SftpFaults(cut_before=request))
        with pytest.raises((paramiko.SSHException, OSError)), session(faulty) as sftp:
            sftp.posix_rename("a", "b")
        assert len(faulty.requests) == request
        renamed = (faulty.files / "b").exists()
        assert renamed == (done and request == last)
        if not renamed:
            (faulty.files / "a").rename(faulty.files / "b")


def test_stalled_server_answers_nothing(faulty: FaultySftpServer) -> None:
    with session(faulty) as sftp:
        faulty.set_faults(SftpFaults(stall_at=2))
        sftp.get_channel().settimeout(0.3)
        assert sftp.listdir_iter(".") is not None
        assert sftp.stat(".").st_mode
        with pytest.raises(TimeoutError):
            sftp.stat(".")


def test_answers_can_drip_or_be_anything(faulty: FaultySftpServer) -> None:
    with session(faulty) as sftp:
        faulty.set_faults(SftpFaults(drip_s=0.01))
        began = time.monotonic()
        assert sftp.stat(".").st_mode
        assert time.monotonic() - began > 0.2

        def deny(session: FaultySftpSession, name: str, number: int) -> bool:
            if name == "stat":
                session._send_status(number, paramiko.SFTP_PERMISSION_DENIED)
            return name == "stat"

        faulty.set_faults(SftpFaults(answer=deny))
        assert sftp.listdir(".") == []
        with pytest.raises(PermissionError):
            sftp.stat(".")


def test_logins_can_be_refused_with_any_words(faulty: FaultySftpServer) -> None:
    seen = list[paramiko.Transport]()
    faulty.set_faults(SftpFaults(allowed="publickey,a-long-walk", login=seen.append))
    with pytest.raises(paramiko.AuthenticationException), session(faulty):
        pass
    assert seen
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(faulty.client().known_hosts))
        with pytest.raises(paramiko.BadAuthenticationType) as refused:
            client.connect("127.0.0.1", faulty.port, faulty.user, password="no", allow_agent=False, look_for_keys=False)
        assert refused.value.allowed_types == ["publickey", "a-long-walk"]


def _read(sftp: paramiko.SFTPClient, name: str) -> bytes:
    with sftp.open(name) as file:
        return file.read()
