"""What every kind of store promises: checksums of its archives, which sha256sum can read."""

import subprocess
from pathlib import Path

from store_kinds import ID, IDS, StoreFixture

from backupd.model import ARCHIVE_SUFFIX


def sha256sum(directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=directory, capture_output=True, text=True, check=False
    )


def test_sha256sum_accepts_checksums(fixture: StoreFixture) -> None:
    for key in IDS:
        fixture.publish(key)
    fixture.store.write_checksums(fixture.digests())
    done = sha256sum(fixture.files)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{key}{ARCHIVE_SUFFIX}: OK" for key in IDS]


def test_sha256sum_finds_changed_archive(fixture: StoreFixture) -> None:
    for key in IDS:
        fixture.publish(key)
    fixture.store.write_checksums(fixture.digests())
    fixture.paths(IDS[1])[0].write_bytes(bytes([*fixture.archives[IDS[1]][:-1], 0xFF]))
    done = sha256sum(fixture.files)
    assert done.returncode == 1
    assert f"{IDS[1]}{ARCHIVE_SUFFIX}: FAILED" in done.stdout


def test_new_checksums_replace_old_ones(fixture: StoreFixture) -> None:
    for key in IDS:
        fixture.publish(key)
    fixture.store.write_checksums(fixture.digests())
    some = {name: digest for name, digest in fixture.digests().items() if name != f"{ID}{ARCHIVE_SUFFIX}"}
    fixture.store.write_checksums(some)
    fixture.store.write_checksums(some)
    assert (fixture.files / "SHA256SUMS").read_text() == "".join(
        f"{some[name]}  {name}\n" for name in (f"{key}{ARCHIVE_SUFFIX}" for key in IDS[1:])
    )
    fixture.store.write_checksums({})
    assert (fixture.files / "SHA256SUMS").read_bytes() == b""


def test_link_named_sha256sums_is_replaced_and_not_followed(fixture: StoreFixture) -> None:
    fixture.publish(ID)
    outside = fixture.files.parent / "outside"
    outside.write_bytes(b"mine")
    (fixture.files / "SHA256SUMS").symlink_to(outside)
    fixture.store.write_checksums(fixture.digests())
    assert outside.read_bytes() == b"mine"
    assert sha256sum(fixture.files).returncode == 0
