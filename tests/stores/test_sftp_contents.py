"""Many small files at once over SFTP: servers that lack something or fail, and connections that end at any request."""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paramiko import sftp

from backupd.errors import CopyCorrupt, ReplicaFailed, ReplicaUnreachable
from backupd.stores.local import DirectoryStore
from backupd.stores.sftp import contents
from backupd.stores.sftp.protocol import WriteRefused
from support.contents import add_contents
from support.faulty_sftp import EXTENSIONS, FaultySftpServer, SftpFaults, running_faulty_sftp
from support.faulty_sftp_session import FaultySftpSession
from support.replicas import SENDER, connected

SMALL = [b"content %d" % number * 10 for number in range(5)]
LARGE = os.urandom(300 << 10)
NEVER_THERE = "0" * 64


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[FaultySftpServer]:
    with running_faulty_sftp(tmp_path / "odd") as server:
        yield server


@pytest.fixture
def local(tmp_path: Path) -> DirectoryStore:
    store = DirectoryStore("local", tmp_path / "backups")
    store.prepare()
    return store


def parts(faulty: FaultySftpServer) -> list[str]:
    return sorted(path.name for path in (faulty.files / ".backupd" / SENDER).iterdir())


def there(faulty: FaultySftpServer) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in faulty.files.glob("files/*/*")}


def here(local: DirectoryStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in local.directory.glob("files/*/*")}


def publish(faulty: FaultySftpServer, local: DirectoryStore, digests: list[str], faults: SftpFaults) -> int:
    """Send over a new connection to a server that has `faults` once the client has logged in; returns bytes sent."""
    with connected(faulty, "/backups") as store:
        store.prepare()
        faulty.set_faults(faults)
        return store.contents.publish(digests, local.contents).sent_bytes


@pytest.mark.parametrize(
    "poor",
    [
        SftpFaults(closed_only=True),
        SftpFaults(writes_late=True),
        SftpFaults(one_writer=True),
        SftpFaults(read_bytes=100),
        SftpFaults(extensions=frozenset()),
        SftpFaults(extensions=EXTENSIONS - {"posix-rename@openssh.com"}, rename_replaces=True),
        SftpFaults(flip_at=3, flips=1),
        SftpFaults(lost_write=2),
    ],
    ids=["closed only", "late", "one writer", "short reads", "no extensions", "no posix-rename", "flip", "lost write"],
)
def test_contents_are_right_on_poor_server(faulty: FaultySftpServer, local: DirectoryStore, poor: SftpFaults) -> None:
    digests = add_contents(local, *SMALL, LARGE)
    publish(faulty, local, digests, poor)
    assert there(faulty) == here(local)
    faulty.set_faults(SftpFaults())
    os.truncate(faulty.files / "files" / digests[0][:2] / f"{digests[0]}.gz", 3)
    publish(faulty, local, digests, poor)
    assert there(faulty) == here(local)
    assert parts(faulty) == []


def test_what_reads_back_differently_gets_no_name(faulty: FaultySftpServer, local: DirectoryStore) -> None:
    digests = add_contents(local, *SMALL)
    with pytest.raises(CopyCorrupt, match="reads back differently"):
        publish(faulty, local, digests, SftpFaults(flip_at=3))
    assert there(faulty) == {}


def test_refused_write_leaves_nothing_and_what_was_complete_stays(
    faulty: FaultySftpServer, local: DirectoryStore
) -> None:
    digests = add_contents(local, *SMALL)
    with pytest.raises(WriteRefused, match=r"cannot write .*: quota exceeded"):
        publish(faulty, local, digests, SftpFaults(bad_write=3, bad_write_message="quota exceeded"))
    assert parts(faulty) == []
    assert there(faulty).items() < here(local).items()
    assert len(there(faulty)) == len(SMALL) - 1
    sent = publish(faulty, local, digests, SftpFaults())
    assert sent == sum(map(len, here(local).values())) // len(SMALL)


@pytest.mark.parametrize("request_", ["open", "close", "posix-rename@openssh.com", "mkdir", "opendir"])
def test_refused_request_is_named(faulty: FaultySftpServer, local: DirectoryStore, request_: str) -> None:
    digests = add_contents(local, *SMALL)
    if request_ == "opendir":
        (faulty.files / "files" / "ab").mkdir(parents=True)
    denied = frozenset({request_, "rename"} if "rename" in request_ else {request_})
    with pytest.raises(PermissionError, match=r"cannot .*[Pp]ermission denied"):
        publish(faulty, local, digests, SftpFaults(denied=denied))
    assert there(faulty) == {}


def test_connection_that_ends_at_any_request_leaves_complete_contents_that_are_not_sent_again(
    faulty: FaultySftpServer, local: DirectoryStore
) -> None:
    digests = add_contents(local, *SMALL, LARGE)
    everything = here(local)
    number, cuts = 1, 0
    while True:
        faulty.set_faults(SftpFaults())
        with connected(faulty, "/backups") as store:
            store.contents.remove(digests)
        try:
            publish(faulty, local, digests, SftpFaults(**{("cut_before", "cut_after")[number % 2]: number}))
        except ReplicaUnreachable:
            cuts += 1
        else:
            break
        assert there(faulty).items() <= everything.items()
        complete = sum(map(len, there(faulty).values()))
        sent = publish(faulty, local, digests, SftpFaults())
        assert sent <= sum(map(len, everything.values())) - complete
        assert there(faulty) == everything
        assert parts(faulty) == []
        number += 7
    assert cuts > 4


def test_large_content_is_resumed(faulty: FaultySftpServer, local: DirectoryStore) -> None:
    data = os.urandom(12 << 20)
    digests = add_contents(local, data, packed=False)
    with pytest.raises(ReplicaUnreachable):
        publish(faulty, local, digests, SftpFaults(cut_before=300))
    (left,) = parts(faulty)
    assert left == f"{digests[0]}.part"
    assert publish(faulty, local, digests, SftpFaults()) < len(data)
    assert there(faulty) == {digests[0]: data}


def test_parts_of_contents_that_are_no_longer_wanted_are_removed(
    faulty: FaultySftpServer, local: DirectoryStore
) -> None:
    with connected(faulty, "/backups") as store:
        store.prepare()
    for name in (f"{NEVER_THERE}.gz.part", f"{NEVER_THERE}.part", "other.part"):
        (faulty.files / ".backupd" / SENDER / name).write_bytes(b"left")
    publish(faulty, local, add_contents(local, *SMALL), SftpFaults())
    assert parts(faulty) == ["other.part"]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ("open", lambda number: struct.pack(">IBI", 9 + 300, sftp.CMD_HANDLE, number) + struct.pack(">I", 300) * 76),
        ("open", lambda number: struct.pack(">IBI", 9, sftp.CMD_HANDLE, number) + struct.pack(">I", 2**31)),
        ("open", lambda _number: struct.pack(">IBI", 5, sftp.CMD_DATA, 2**31)),
        ("write", lambda _number: struct.pack(">IB", 2**31, sftp.CMD_STATUS)),
        ("write", lambda _number: struct.pack(">IB", 1, sftp.CMD_STATUS) + bytes(100)),
        ("readdir", lambda number: struct.pack(">IBII", 9, sftp.CMD_NAME, number, 2**31)),
        ("readdir", lambda number: struct.pack(">IBII", 9, sftp.CMD_NAME, number, 0)),
    ],
    ids=["long handle", "cut handle", "unrequested", "huge packet", "short packet", "many entries", "no entries"],
)
def test_answer_against_the_protocol_ends_the_connection(
    faulty: FaultySftpServer, local: DirectoryStore, request_: str, answer: Callable[[int], bytes]
) -> None:
    digests = add_contents(local, *SMALL)
    (faulty.files / "files" / "ab").mkdir(parents=True)
    listings = 0

    def answers(session: FaultySftpSession, name: str, number: int) -> bool:
        nonlocal listings
        listings += name == "opendir"
        if name != request_ or (name == "readdir" and listings < 2):  # those of `files` itself are read elsewhere
            return False
        session.sock.sendall(answer(number))
        return True

    with pytest.raises((ReplicaFailed, ReplicaUnreachable)) as failed:
        publish(faulty, local, digests, SftpFaults(answer=answers))
    assert failed.value.message.isprintable()
    assert there(faulty) == {}


def test_too_many_names_are_refused(
    faulty: FaultySftpServer, local: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_MAX_NAMES", 3)
    publish(faulty, local, add_contents(local, *SMALL), SftpFaults())
    with pytest.raises(ReplicaFailed, match="too many entries"):
        publish(faulty, local, [], SftpFaults())


def test_stalled_server_ends_the_transfer(faulty: FaultySftpServer, local: DirectoryStore) -> None:
    with pytest.raises(ReplicaUnreachable):
        publish(faulty, local, add_contents(local, *SMALL), SftpFaults(stall_at=8))
    assert there(faulty).items() <= here(local).items()
