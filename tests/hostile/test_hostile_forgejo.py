"""An archive that somebody else made: what leaves the tree, fills the disk or means two things is refused in words."""

import gzip
import io
import os
import stat
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.errors import GateStepFailed
from backupd.gate import source_tree
from backupd.gate.forgejo import fetch_commit
from backupd.gate.model import Forgejo, Push
from backupd.gate.source_tree import unpack, write_tree
from support.forgejo_server import NO_COMMIT, ForgejoServer, archive_bomb, forgejo_server, hostile_archive

Member = tuple[tarfile.TarInfo, bytes]
COMMIT = "1" * 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ForgejoServer]:
    with forgejo_server(tmp_path / "forgejo") as running:
        yield running


def member(
    name: str, contents: bytes = b"x", kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644
) -> Member:
    info = tarfile.TarInfo(f"app/{name}" if not name.startswith("/") else name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info, contents if kind == tarfile.REGTYPE else b""


def link(name: str, target: str) -> Member:
    return member(name, kind=tarfile.SYMTYPE, target=target)


def directory(name: str) -> Member:
    return member(name, kind=tarfile.DIRTYPE)


HOSTILE = {
    "absolute path": ([member("/etc/passwd")], "/etc/passwd leads out"),
    "path upwards": ([member("../../etc/passwd")], "leads out of the tree"),
    "path upwards inside": ([member("a/../../../b")], "leads out of the tree"),
    "empty part": ([member("a//b")], "is not the name of a file"),
    "dot part": ([member("a/./b")], "is not the name of a file"),
    "long part": ([member("a" * 300)], "is too long"),
    "long path": ([member("a/" * 2100 + "b")], "is too long"),
    "absolute link": ([link("a", "/etc")], "link that may lead out of the tree"),
    "link upwards": ([link("a", "../b")], "link that may lead out of the tree"),
    "link upwards behind another": ([directory("d"), link("d/up", ".."), link("a", "d/up/../b")], "may lead out"),
    "link without target": ([link("a", "")], "may lead out"),
    "file behind link": ([link("a", "."), member("a/b")], "a/b is below a, which is not a directory"),
    "file below file": ([member("a"), member("a/b")], "a/b is below a, which is not a directory"),
    "file over directory": ([member("a/b"), member("a")], "a is there twice"),
    "directory over link": ([link("a", "."), directory("a")], "a is there twice"),
    "file twice": ([member("a"), member("a", b"y")], "a is there twice"),
    "hard link": ([member("a"), member("b", kind=tarfile.LNKTYPE, target="app/a")], "b is a hard link"),
    "hard link outside": ([member("b", kind=tarfile.LNKTYPE, target="/etc/passwd")], "b is a hard link"),
    "device": ([member("null", kind=tarfile.CHRTYPE)], "null is a device"),
    "disk": ([member("sda", kind=tarfile.BLKTYPE)], "sda is a device"),
    "pipe": ([member("fifo", kind=tarfile.FIFOTYPE)], "fifo is a pipe"),
    "unknown kind": ([member("a", kind=b"V")], "a is neither a file nor a directory"),
    "controls terminal": ([member("\x1b[2J", kind=tarfile.FIFOTYPE)], r"\\x1b\[2J is a pipe"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_member_is_refused_and_named(tmp_path: Path, name: str) -> None:
    members, message = HOSTILE[name]
    packed = hostile_archive([directory("src"), member("src/good"), *members], COMMIT)
    with pytest.raises(GateStepFailed, match=message) as failed:
        write_tree(io.BytesIO(packed), tmp_path / "tree.tar", "ana/app")
    assert str(failed.value).isprintable()
    assert list(tmp_path.iterdir()) == []


def test_modes_and_owners_of_strangers_are_dropped_and_told(tmp_path: Path) -> None:
    odd = member("run", mode=0o6777)
    odd[0].uid, odd[0].gid, odd[0].uname = 1234, 2**31, "root"
    tree = write_tree(io.BytesIO(hostile_archive([odd, member("plain", mode=0)])), tmp_path / "tree.tar", "ana/app")
    assert "setuid, setgid or sticky bits were removed from run" in str(tree)
    (tmp_path / "to").mkdir()
    unpack(tmp_path / "tree.tar", tmp_path / "to")
    found = {path.name: path.stat() for path in (tmp_path / "to").iterdir()}
    assert {name: stat.S_IMODE(state.st_mode) for name, state in found.items()} == {"run": 0o755, "plain": 0o644}
    assert {state.st_uid for state in found.values()} == {os.geteuid()}


def test_archive_bomb_is_refused_before_it_fills_the_disk(
    server: ForgejoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_tree, "MAX_BYTES", 32 << 20)
    commit = server.repository.commit({"a": "x"})
    server.archive = archive_bomb(64 << 20, commit)
    pushed = Push("1", server.name, "refs/heads/main", commit, NO_COMMIT, "ana")
    with pytest.raises(GateStepFailed, match=r"more than 32\.0 MiB"):
        fetch_commit(Forgejo(server.url, server.name, server.token), pushed, tmp_path / "tree.tar")
    assert list(tmp_path.glob("*.tar")) == []


def test_archive_of_too_many_bytes_is_not_read_to_its_end(
    server: ForgejoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupd.gate.forgejo.MAX_ARCHIVE_BYTES", 1 << 20)
    commit = server.repository.commit({"a": os.urandom(2 << 20)})
    pushed = Push("1", server.name, "refs/heads/main", commit, NO_COMMIT, "ana")
    with pytest.raises(GateStepFailed, match=r"more than 1\.0 MiB"):
        fetch_commit(Forgejo(server.url, server.name, server.token), pushed, tmp_path / "tree.tar")
    assert len(server.requests) == 1


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_tree, "MAX_MEMBERS", 50)
    packed = hostile_archive([member(f"f{number}", b"") for number in range(60)])
    with pytest.raises(GateStepFailed, match="more than 50 files and directories"):
        write_tree(io.BytesIO(packed), tmp_path / "tree.tar", "ana/app")


def header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("app/a")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(record: bytes) -> bytes:
    return header(tarfile.XHDTYPE, len(record)) + record + bytes(-len(record) % 512)


END = bytes(1024)
FORGED = {
    "nothing": b"",
    "zeros": bytes(512),
    "no end": header(tarfile.REGTYPE, 0),
    "damaged header": header(tarfile.REGTYPE, 0) + b"\xff" * 512 + END,
    "ends in a file": header(tarfile.REGTYPE, 4096) + b"x" * 512,
    "huge header": header(tarfile.XHDTYPE, 1 << 33) + END,
    "huge name": header(tarfile.GNUTYPE_LONGNAME, 1 << 33) + END,
    "negative size": header(tarfile.REGTYPE, -512) + END,
    "negative header": header(tarfile.XHDTYPE, -1024) + END,
    "chain of headers": pax(b"12 comment=\n") * 3000 + header(tarfile.REGTYPE, 0) + END,
    "chain of names": (header(tarfile.GNUTYPE_LONGNAME, 4) + b"abc\0" + bytes(508)) * 3000 + END,
    "length of a record": pax(b"999999999 path=a\n") + header(tarfile.REGTYPE, 0) + END,
    "negative size in record": pax(b"16 size=-100000\n") + header(tarfile.REGTYPE, 0) + END,
    "sparse": pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + header(tarfile.REGTYPE, 512) + b"9" * 512 + END,
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_headers_are_refused_in_time_and_memory(tmp_path: Path, name: str) -> None:
    began = time.monotonic()
    with pytest.raises(GateStepFailed, match=r"is damaged|cannot be used|has no files"):
        write_tree(io.BytesIO(gzip.compress(FORGED[name])), tmp_path / "tree.tar", "ana/app")
    assert time.monotonic() - began < 30
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("position", [0, 3, 12, 40, -5, -1])
def test_flipped_byte_of_archive_is_detected(tmp_path: Path, position: int) -> None:
    packed = bytearray(hostile_archive([member("a", os.urandom(4096))], COMMIT))
    packed[position] ^= 0xFF
    with pytest.raises(GateStepFailed, match="is damaged"):
        write_tree(io.BytesIO(packed), tmp_path / "tree.tar", "ana/app")


def test_shortened_archive_is_detected(tmp_path: Path) -> None:
    packed = hostile_archive([member("a", os.urandom(4096))], COMMIT)
    for length in (0, 1, 10, len(packed) // 2, len(packed) - 1):
        with pytest.raises(GateStepFailed, match="is damaged"):
            write_tree(io.BytesIO(packed[:length]), tmp_path / "tree.tar", "ana/app")
    assert list(tmp_path.iterdir()) == []
