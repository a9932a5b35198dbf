"""What every kind of replica promises of the contents of files: sent once, complete and verified."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_kinds import KINDS, StoreFixture

from backupd.archive.gzip_member import pack_member
from backupd.errors import ContentMissing, CopyCorrupt, StoreUnusable
from backupd.stores.local import DirectoryStore
from support.contents import add_contents

TEXT = b"a line that packs well\n" * 1000
NOISE = os.urandom(5000)
LARGE = os.urandom(3 << 20)  # several members, and no small file
SMALL = [b"content %d" % number for number in range(150)]


@pytest.fixture(params=["replica", "sftp"])
def replica(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreFixture]:
    files = tmp_path / "nas"
    files.mkdir()
    with KINDS[request.param](files, request) as store:
        yield StoreFixture(store, files, tmp_path / "work")


@pytest.fixture
def local(tmp_path: Path) -> DirectoryStore:
    store = DirectoryStore("local", tmp_path / "backups")
    store.prepare()
    return store


def stored(files: Path, digest: str) -> Path:
    """Return where a content is, packed or not."""
    packed = files / "files" / digest[:2] / f"{digest}.gz"
    return packed if packed.exists() else packed.with_suffix("")


def publish(replica: StoreFixture, local: DirectoryStore, *digests: str) -> int:
    """Send contents; returns the bytes that were sent."""
    return int(replica.store.contents.publish(digests, local.contents).sent_bytes)


def read(replica: StoreFixture, digest: str) -> bytes:
    with replica.store.contents.open(digest) as stream:
        return bytes(stream.read())


def test_replica_gets_what_it_lacks_as_it_is_stored_and_no_more(replica: StoreFixture, local: DirectoryStore) -> None:
    text, large, empty, *small = add_contents(local, TEXT, LARGE, b"", *SMALL)
    (noise,) = add_contents(local, NOISE, packed=False)
    before = replica.store.sent_bytes
    first = publish(replica, local, text, empty)
    assert first == sum(stored(local.directory, digest).stat().st_size for digest in (text, empty))
    everything = [text, large, empty, noise, *small]
    second = publish(replica, local, *everything)
    assert first + second == sum(local.contents.sizes().values()) == replica.store.sent_bytes - before
    assert publish(replica, local, *everything) == 0
    assert replica.store.contents.sizes() == local.contents.sizes()
    assert [read(replica, digest) for digest in (text, large, empty, noise)] == [TEXT, LARGE, b"", NOISE]
    for digest in everything:
        assert stored(replica.files, digest).read_bytes() == stored(local.directory, digest).read_bytes()


def test_contents_have_mode_0600_in_directories_of_0700(replica: StoreFixture, local: DirectoryStore) -> None:
    umask = os.umask(0)
    try:
        (digest,) = add_contents(local, TEXT)
        publish(replica, local, digest)
    finally:
        os.umask(umask)
    path = stored(replica.files, digest)
    modes = [oct(one.stat().st_mode) for one in (path, path.parent, path.parent.parent)]
    assert modes == ["0o100600", "0o40700", "0o40700"]


def test_what_is_damaged_or_missing_here_is_not_sent_but_named(replica: StoreFixture, local: DirectoryStore) -> None:
    text, large, noise = add_contents(local, TEXT, LARGE, NOISE)
    for digest in (text, large):
        sound = stored(local.directory, digest).read_bytes()
        stored(local.directory, digest).write_bytes(pack_member(b"other", 1))
        with pytest.raises(CopyCorrupt, match=digest):
            publish(replica, local, digest)
        stored(local.directory, digest).write_bytes(sound)
    stored(local.directory, noise).unlink()
    with pytest.raises(ContentMissing, match=noise):
        publish(replica, local, noise)
    assert dict(replica.store.contents.sizes()) == {}
    publish(replica, local, text, large)
    assert [read(replica, digest) for digest in (text, large)] == [TEXT, LARGE]


def test_content_of_another_size_there_is_sent_again(replica: StoreFixture, local: DirectoryStore) -> None:
    digests = add_contents(local, TEXT, LARGE)
    publish(replica, local, *digests)
    for digest in digests:
        os.truncate(stored(replica.files, digest), 20)
    publish(replica, local, *digests)
    assert [read(replica, digest) for digest in digests] == [TEXT, LARGE]


def test_listing_skips_what_is_no_content_and_tells_age(replica: StoreFixture, local: DirectoryStore) -> None:
    (digest,) = add_contents(local, TEXT)
    publish(replica, local, digest)
    os.utime(stored(replica.files, digest), (0, 1_700_000_000))
    files, other = replica.files / "files", hashlib.sha256(b"other").hexdigest()
    (files / "zz").mkdir()
    (files / ("ab" if digest[:2] != "ab" else "cd")).write_bytes(b"")
    (files / digest[:2] / other).write_bytes(b"in the wrong directory")
    (files / digest[:2] / f"{digest}.part").write_bytes(b"")
    (files / digest[:2] / digest.upper()).write_bytes(b"")
    (files / digest[:2] / os.fsdecode(b"\xff" * 64)).write_bytes(b"")
    (files / digest[:2] / f"{digest[:2]}{'0' * 62}").symlink_to(stored(replica.files, digest))
    (files / digest[:2] / f"{digest[:2]}{'1' * 62}").mkdir()
    (found,) = replica.store.contents.list()
    assert found == (bytes.fromhex(digest), stored(replica.files, digest).stat().st_size, 1_700_000_000)


@pytest.mark.parametrize("digest", ["", "ab", "../../etc/passwd", "A" * 64, "0" * 64])
def test_content_that_is_not_there_is_missing(replica: StoreFixture, digest: str) -> None:
    with pytest.raises(ContentMissing, match="here"):
        replica.store.contents.open(digest)


def test_removed_contents_are_gone_and_missing_ones_accepted(replica: StoreFixture, local: DirectoryStore) -> None:
    digests = add_contents(local, TEXT, LARGE, *SMALL)
    publish(replica, local, *digests)
    replica.store.contents.remove([*digests[1:], "0" * 64])
    assert set(replica.store.contents.sizes()) == {bytes.fromhex(digests[0])}


@pytest.mark.parametrize("where", ["files", "files/ab"])
def test_link_in_place_of_directory_is_not_followed(
    replica: StoreFixture, local: DirectoryStore, tmp_path: Path, where: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    data = next(b"%d" % n for n in range(10_000) if hashlib.sha256(b"%d" % n).hexdigest().startswith("ab"))
    digests = add_contents(local, data)
    (replica.files / where).parent.mkdir(exist_ok=True)
    (replica.files / where).symlink_to(outside)
    with pytest.raises((StoreUnusable, OSError), match="symbolic link"):
        publish(replica, local, *digests)
    assert list(outside.iterdir()) == []


def test_contents_are_opened_many_at_a_time(replica: StoreFixture, local: DirectoryStore) -> None:
    text, large, empty, *small = add_contents(local, TEXT, LARGE, b"", *SMALL)
    (noise,) = add_contents(local, NOISE, packed=False)
    digests = [text, "0" * 64, large, empty, *small, noise]
    publish(replica, local, *(set(digests) - {"0" * 64}))
    stored(replica.files, small[0]).write_bytes(b"no gzip")
    found = {}
    for digest, opened in replica.store.contents.opened(digests):
        try:
            with opened() as stream:
                found[digest] = hashlib.sha256(stream.read()).hexdigest()
        except (ContentMissing, CopyCorrupt) as error:
            found[digest] = type(error).__name__
    wrong = {"0" * 64: "ContentMissing", small[0]: "CopyCorrupt"}
    assert found == {digest: digest for digest in digests} | wrong


@pytest.mark.parametrize("data", [TEXT, LARGE], ids=["small", "large"])
def test_damaged_content_in_other_form_is_not_read_instead_of_what_was_sent(
    replica: StoreFixture, local: DirectoryStore, data: bytes
) -> None:
    (digest,) = add_contents(local, data, packed=False)
    there = replica.files / "files" / digest[:2]
    there.mkdir(parents=True)
    (there / f"{digest}.gz").write_bytes(b"damaged")
    publish(replica, local, digest)
    assert [path.name for path in there.iterdir()] == [digest]
    assert read(replica, digest) == data
