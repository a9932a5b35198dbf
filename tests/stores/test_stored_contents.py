"""Contents of files in the local store and in a replica in a directory: each once, complete, and verified."""

import gzip
import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backupd.archive.gzip_member import pack_member
from backupd.errors import ContentMissing, CopyCorrupt
from backupd.stores import content_writer
from backupd.stores.content_writer import ContentWriter
from backupd.stores.local import DirectoryStore
from backupd.system.small_file import UnexpectedFile

TEXT = b"a line that packs well\n" * 1000
NOISE = os.urandom(5000)
LARGE = bytes(range(256)) * 12_000  # several members


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    made = DirectoryStore("here", tmp_path / "backups")
    made.prepare()
    return made


def write(writer: ContentWriter, data: bytes, *, packed: bool = True) -> str:
    """Add a content as a backup does."""
    digest = hashlib.sha256(data)
    if not writer.holds(digest.digest()):
        with writer.part() as part:
            if packed:
                for begin in range(0, len(data), 1 << 20):
                    part.write(pack_member(data[begin : begin + (1 << 20)], 6))
            else:
                part.write(data)
            part.finish(digest.digest(), packed=packed)
    return digest.hexdigest()


def add(store: DirectoryStore, *contents: bytes, packed: bool = True) -> list[str]:
    with store.staging() as staging, store.contents.adding(staging) as writer:
        return [write(writer, data, packed=packed) for data in contents]


def path_of(store: DirectoryStore, digest: str, *, packed: bool = True) -> Path:
    return store.directory / "files" / digest[:2] / (f"{digest}.gz" if packed else digest)


def read(store: DirectoryStore, digest: str) -> bytes:
    with store.contents.open(digest) as stream:
        return stream.read()


def test_added_contents_are_read_back_unpacked_and_listed_by_raw_digest(store: DirectoryStore) -> None:
    text, large, empty = add(store, TEXT, LARGE, b"")
    (noise,) = add(store, NOISE, packed=False)
    assert [read(store, digest) for digest in (text, large, empty, noise)] == [TEXT, LARGE, b"", NOISE]
    assert store.contents.sizes() == {
        bytes.fromhex(digest): path_of(store, digest, packed=digest != noise).stat().st_size
        for digest in (text, large, empty, noise)
    }
    with store.contents.open(large) as stream:
        assert stream.read(10) == LARGE[:10]
        assert stream.read(len(LARGE)) == LARGE[10:]


def test_packed_content_is_what_gunzip_reads_and_bears_its_digest(store: DirectoryStore) -> None:
    (digest,) = add(store, LARGE)
    found = subprocess.run(["gunzip", "-c", path_of(store, digest)], capture_output=True, check=True).stdout
    assert hashlib.sha256(found).hexdigest() == digest


def test_contents_have_mode_0600_in_directories_of_0700(store: DirectoryStore) -> None:
    umask = os.umask(0)
    try:
        (digest,) = add(store, TEXT)
    finally:
        os.umask(umask)
    path = path_of(store, digest)
    assert [oct(one.stat().st_mode) for one in (path, path.parent, path.parent.parent)] == [
        "0o100600",
        "0o40700",
        "0o40700",
    ]


def test_nothing_has_its_name_before_commit_and_staging_is_empty_after_it(store: DirectoryStore) -> None:
    with store.staging() as staging, store.contents.adding(staging) as writer:
        digest = write(writer, TEXT)
        assert writer.holds(bytes.fromhex(digest))
        assert dict(store.contents.sizes()) == {}
        writer.commit()
        assert set(store.contents.sizes()) == {bytes.fromhex(digest)}
        assert staging.names() == []


@pytest.mark.parametrize("limit", ["_MOST_FILES", "_MOST_BYTES"])
def test_many_contents_get_their_names_before_the_end(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(content_writer, limit, 3)
    with store.staging() as staging, store.contents.adding(staging) as writer:
        for number in range(3):
            write(writer, b"%d" % number, packed=False)
        assert len(store.contents.sizes()) == 3


def test_unfinished_content_is_discarded(store: DirectoryStore) -> None:
    with store.staging() as staging, store.contents.adding(staging) as writer:
        with writer.part() as part:
            part.write(b"half")
        assert staging.names() == []
    assert dict(store.contents.sizes()) == {}


@pytest.mark.parametrize("at_once", [True, False])
def test_same_contents_added_by_several_threads_are_stored_once(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, *, at_once: bool
) -> None:
    monkeypatch.setattr(content_writer, "can_sync_at_once", lambda _path: at_once)
    monkeypatch.setattr(content_writer, "_MOST_FILES", 5)
    started = threading.Barrier(4)

    def add_all() -> list[str]:
        started.wait(10)
        return [write(writer, b"content %d" % number, packed=False) for number in range(60)]

    with store.staging() as staging, store.contents.adding(staging) as writer:
        with ThreadPoolExecutor(4) as pool:
            digests = [future.result() for future in [pool.submit(add_all) for _ in range(4)]]
        writer.commit()
        assert staging.names() == []
    assert digests == [digests[0]] * 4
    assert set(store.contents.sizes()) == {bytes.fromhex(digest) for digest in digests[0]}
    for digest in digests[0]:
        store.contents.require_sound(digest)


def test_content_that_is_there_is_not_written_again_but_touched(store: DirectoryStore) -> None:
    (digest,) = add(store, TEXT)
    path = path_of(store, digest)
    os.utime(path, (0, 0))
    inode = path.stat().st_ino
    add(store, TEXT)
    assert path.stat().st_ino == inode
    assert path.stat().st_mtime > time.time() - 3600


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, 10),
        lambda path: path.write_bytes(gzip.compress(b"other")),
        lambda path: path.write_bytes(pack_member(b"other", 1)),
        lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
    ids=["truncated", "foreign gzip", "another content", "link", "pipe"],
)
def test_damaged_content_is_found_and_replaced_when_it_is_added_again(
    store: DirectoryStore, damage: Callable[[Path], object]
) -> None:
    (digest,) = add(store, TEXT)
    damage(path_of(store, digest))
    with pytest.raises((CopyCorrupt, ContentMissing), match=digest[:8]):
        store.contents.require_sound(digest)
    add(store, TEXT)
    assert read(store, digest) == TEXT
    assert path_of(store, digest).is_file()
    assert not path_of(store, digest).is_symlink()


def test_damaged_packed_content_gives_way_to_one_that_is_stored_as_it_is(store: DirectoryStore) -> None:
    (digest,) = add(store, TEXT)
    path_of(store, digest).write_bytes(b"garbage")
    add(store, TEXT, packed=False)
    assert read(store, digest) == TEXT
    assert [path.name for path in path_of(store, digest).parent.iterdir()] == [digest]


def test_directory_in_place_of_content_fails_and_is_named(store: DirectoryStore) -> None:
    (digest,) = add(store, TEXT)
    path_of(store, digest).unlink()
    path_of(store, digest).mkdir()
    with pytest.raises(OSError, match="directory") as failed:
        add(store, TEXT)
    assert digest in f"{failed.value.filename} {failed.value.filename2}"


@pytest.mark.parametrize("where", ["files", "files/ab"])
def test_link_in_place_of_directory_is_not_followed(store: DirectoryStore, tmp_path: Path, where: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    data = next(b"%d" % n for n in range(10_000) if hashlib.sha256(b"%d" % n).hexdigest().startswith("ab"))
    (store.directory / where).parent.mkdir(exist_ok=True)
    (store.directory / where).symlink_to(outside)
    with pytest.raises(UnexpectedFile, match="symbolic link"):
        add(store, data)
    assert list(outside.iterdir()) == []


def test_listing_skips_what_is_no_content(store: DirectoryStore) -> None:
    (digest,) = add(store, TEXT)
    files = store.directory / "files"
    other = hashlib.sha256(b"other").hexdigest()
    (files / "zz").mkdir()
    (files / "ab").write_bytes(b"")
    (files / digest[:2] / other).write_bytes(b"in the wrong directory")
    (files / digest[:2] / f"{digest}.part").write_bytes(b"")
    (files / digest[:2] / f"{digest.upper()}").write_bytes(b"")
    (files / digest[:2] / f"{digest[:2]}{'0' * 62}").symlink_to(path_of(store, digest))
    assert set(store.contents.sizes()) == {bytes.fromhex(digest)}


@pytest.mark.parametrize("digest", ["", "ab", "../../etc/passwd", "A" * 64, "0" * 64])
def test_content_that_is_not_there_is_missing(store: DirectoryStore, digest: str) -> None:
    add(store, TEXT)
    with pytest.raises(ContentMissing, match="here"):
        store.contents.open(digest)


def test_removed_contents_are_gone_and_missing_ones_accepted(store: DirectoryStore) -> None:
    text, large = add(store, TEXT, LARGE)
    (noise,) = add(store, NOISE, packed=False)
    store.contents.remove([text, noise, "0" * 64])
    assert set(store.contents.sizes()) == {bytes.fromhex(large)}
    store.contents.remove([large, text])
    assert dict(store.contents.sizes()) == {}


def test_disk_that_returns_other_bytes_is_noticed_before_content_has_its_name(store: DirectoryStore) -> None:
    with store.staging() as staging, store.contents.adding(staging) as writer:
        write(writer, TEXT)
        (name,) = staging.names()
        with open(f"{staging.fixed_path}/{name}", "r+b") as stream:
            stream.write(b"\0")
        with pytest.raises(CopyCorrupt, match="reads back differently"):
            writer.commit()
    assert dict(store.contents.sizes()) == {}
