"""A manifest is read back as written, and any changed byte is detected."""

import os
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_values import ID, fields_of, manifests, plain_manifest, sealed

from backupd.archive.manifest import decode_manifest, encode_manifest
from backupd.errors import ManifestInvalid
from backupd.model import Manifest, generation_id

RAW = encode_manifest(plain_manifest())


def is_refused(raw: bytes, found_as: str = ID) -> bool:
    try:
        decode_manifest(raw, found_as)
    except ManifestInvalid as error:
        return bool(error.message and error.hint)
    return False


@settings(max_examples=200, deadline=None)
@given(manifests())
def test_manifest_of_any_values_is_read_back_unchanged(manifest: Manifest) -> None:
    raw = encode_manifest(manifest)
    assert decode_manifest(raw, manifest.id) == manifest
    assert encode_manifest(decode_manifest(raw, manifest.id)) == raw


@given(st.datetimes(timezones=st.timezones()).filter(lambda time: 1000 < time.year < 9999))
def test_generation_id_has_minute_of_snapshot_in_utc(taken_at: datetime) -> None:
    assert generation_id("tasks", taken_at) == f"tasks-{taken_at.astimezone(UTC):%Y%m%d-%H%M}"


def test_flipped_bit_anywhere_in_manifest_is_detected() -> None:
    for position, byte in enumerate(RAW):
        for bit in range(8):
            damaged = RAW[:position] + bytes([byte ^ 1 << bit]) + RAW[position + 1 :]
            assert is_refused(damaged), (position, bit)


def test_missing_byte_anywhere_in_manifest_is_detected() -> None:
    for position in range(len(RAW)):
        assert is_refused(RAW[:position] + RAW[position + 1 :]), position


def test_manifest_truncated_at_any_length_is_refused() -> None:
    for length in range(len(RAW)):
        assert is_refused(RAW[:length]), length


@pytest.mark.parametrize("garbage", [b"\n", b" ", b"\0", b"{}", RAW])
def test_additional_bytes_before_or_after_manifest_are_detected(garbage: bytes) -> None:
    assert is_refused(RAW + garbage)
    assert is_refused(garbage + RAW)


def test_digest_of_manifest_can_be_checked_with_head_and_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(RAW)
    done = subprocess.run(f"head -n -2 {path} | sha256sum", shell=True, capture_output=True, text=True, check=True)
    assert f'"manifest_sha256": "{done.stdout.split()[0]}"' in RAW.decode()


def test_manifest_of_another_generation_is_refused() -> None:
    assert is_refused(RAW, "tasks-20261122-0400")
    assert is_refused(RAW, f"{ID}-2")
    assert is_refused(RAW, "")


def test_unknown_fields_of_later_version_are_tolerated() -> None:
    fields = fields_of(plain_manifest())
    fields["signature"] = {"by": "someone", "of": [1, 2.5, None]}
    for section in ("origin", "snapshot", "archive", "contents", "verdict"):
        fields[section]["added"] = "later"
    assert decode_manifest(sealed(fields), ID) == plain_manifest()


def test_unknown_format_is_refused() -> None:
    assert is_refused(sealed({**fields_of(plain_manifest()), "format": 2}))


def test_source_with_path_outside_utf8_has_manifest() -> None:
    manifest = plain_manifest()
    odd = replace(manifest, origin=replace(manifest.origin, path=os.fsdecode(b"/data/caf\xe9.db")))
    again = decode_manifest(encode_manifest(odd), ID)
    assert again.origin.path == r"/data/caf\udce9.db"
    assert replace(again, origin=manifest.origin) == manifest
