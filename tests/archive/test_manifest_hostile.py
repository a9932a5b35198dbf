"""Manifests of a hostile host: impossible values are refused even with a correct digest."""

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_values import ID, fields_of, plain_manifest, sealed, sealed_text

from backupd.archive.manifest import decode_manifest, encode_manifest
from backupd.errors import ManifestInvalid
from backupd.model import MANIFEST_MAX_BYTES, Manifest

FIELDS = fields_of(plain_manifest())
Path = tuple[str | int, ...]


def changed(path: str, value: object) -> bytes:
    """Return the plain manifest with another value at the dotted `path`, sealed."""
    fields = copy.deepcopy(FIELDS)
    at: Any = fields
    *before, last = path.split(".")
    for name in before:
        at = at[name]
    at[last] = value
    return sealed(fields)


def paths(value: object, path: Path = ()) -> Iterator[Path]:
    """Yield the path of each value, however deep."""
    yield path
    inside: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from paths(item, (*path, key))


HOSTILE = [
    *[("id", name) for name in ("../../etc/cron.d/x", "/etc/passwd", "tasks-20261123-0400\n", "", "tasks", 7, None)],
    *[("source", name) for name in ("..", "a/b", "../tasks", "tasks\n", "tasks\x1b[2J", "", "other", "x" * 121, [])],
    *[("store", name) for name in ("", "0123456789ABCDEF", "0123456789abcde", "../3456789abcdef", None)],
    *[("taken_at", time) for time in ("2026-11-23T04:00:17", "now", 0, 1e18, None, "2026-11-24T04:00:17Z")],
    *[("taken_at", time) for time in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00")],
    *[("origin.uid", number) for number in (-1, 2**32 - 1, 2**32, 2**64, 10**400, 1.5, "0", True)],
    *[(f"origin.{name}", number) for name in ("gid", "directory_uid", "directory_gid") for number in (-1, 2**32 - 1)],
    *[(f"origin.{name}", number) for name in ("mode", "directory_mode") for number in (-1, 0o10000, 2**63, "0640")],
    *[("origin.path", text) for text in ("x" * 4097, None, 7, ["/data"])],
    *[("snapshot.size_bytes", number) for number in (-8192, 8191, 0, 2**63, math.nan, math.inf, "8192")],
    *[("snapshot.page_size", number) for number in (0, -4096, 256, 131072, 4096.5, math.nan)],
    *[("snapshot.page_count", number) for number in (-2, 3, 2**63, 10**5)],
    *[("snapshot.sha256", text) for text in ("A" * 64, "g" * 64, "a" * 63, "a" * 65, "a" * 63 + "\n", 10**63)],
    *[("archive.sha256", text) for text in ("", "é" * 64, None)],
    *[("archive.size_bytes", number) for number in (-1, 2**63, -math.inf, 7)],
    *[("archive.member_bytes", number) for number in (0, -1, (4 << 20) + 1, 2**62)],
    *[("archive.members", number) for number in (-1, 0, 2**63, [1])],
    *[("contents.tables", tables) for tables in ({"t": -1}, {"t": 2**63}, {"t": "1"}, ["t"], {"x" * 4097: 1})],
    *[(f"contents.{key}", said) for key in ("columns", "virtual") for said in ({"t": 1}, {"t": "x" * 4097}, ["t"])],
    ("contents.schema_sha256", "0" * 63 + "\u0660"),
    *[("verdict.level", level) for level in ("perfect", "", None, ["full"], "opaque")],
    ("contents", None),
    *[("verdict.checks", checks) for checks in (["x"] * 21, [1], "integrity_check", {"0": "x"})],
    *[("verdict.damage", damage) for damage in (["x"] * 201, ["x" * 4097])],
    *[("verdict.duration_s", number) for number in (-0.1, math.nan, math.inf, "1", 10**400)],
    *[("verdict.foreign_key_violations", number) for number in (-1, 0.5)],
    *[("snapshot.journal_mode", mode) for mode in ("off", "WAL", 1)],
    *[("snapshot.method", method) for method in ("cp", None)],
    *[("format", number) for number in (0, "1", 1.5, None)],
    *[(section, value) for section in ("origin", "snapshot", "archive", "verdict") for value in ({}, None, [], 1)],
]


@pytest.mark.parametrize(("path", "value"), HOSTILE, ids=lambda part: str(part)[:30])
def test_impossible_value_is_refused(path: str, value: object) -> None:
    with pytest.raises(ManifestInvalid, match="is not valid: ") as refusal:
        decode_manifest(changed(path, value), ID)
    assert "its own digest" not in refusal.value.message, "the seal was wrong: this test tested nothing"


OPTIONAL = {"columns", "virtual", "doubt", "damage", "notes", "foreign_key_violations", "duration_s"}
NAMES = [path for path in paths(FIELDS) if path and all(isinstance(key, str) for key in path)]
REQUIRED = [path for path in NAMES if path[-1] not in OPTIONAL and path[:2] != ("contents", "tables")]


@pytest.mark.parametrize("path", REQUIRED, ids=".".join)
def test_missing_field_is_refused(path: Path) -> None:
    fields = copy.deepcopy(FIELDS)
    at: Any = fields
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    with pytest.raises(ManifestInvalid, match=r"(?i)required|missing"):
        decode_manifest(sealed(fields), ID)


def test_page_size_other_than_power_of_two_is_refused() -> None:
    fields = copy.deepcopy(FIELDS)
    for page_size in range(512, 65537, 512):
        fields["snapshot"].update(page_size=page_size, size_bytes=2 * page_size)
        if page_size & (page_size - 1):
            with pytest.raises(ManifestInvalid, match="power of two"):
                decode_manifest(sealed(fields), ID)
        else:
            assert decode_manifest(sealed(fields), ID).snapshot.page_size == page_size


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    with pytest.raises(ManifestInvalid):
        decode_manifest(sealed_text(b'{\n  "format": ' + opening * 500_000 + b",\n"), ID)


def test_manifest_above_eight_mebibytes_is_refused() -> None:
    padding = MANIFEST_MAX_BYTES - len(changed("later", ""))
    assert decode_manifest(changed("later", "x" * padding), ID) == plain_manifest()
    with pytest.raises(ManifestInvalid, match="larger than 8 MiB"):
        decode_manifest(changed("later", "x" * (padding + 1)), ID)


def test_manifest_with_more_than_hundred_thousand_tables_is_refused() -> None:
    tables = {f"t{number}": number for number in range(100_000)}
    assert decode_manifest(changed("contents.tables", tables), ID).contents.tables == tables
    with pytest.raises(ManifestInvalid, match="at most 100000"):
        decode_manifest(changed("contents.tables", {**tables, "more": 1}), ID)


def test_error_message_has_no_control_characters_of_manifest() -> None:
    with pytest.raises(ManifestInvalid) as refusal:
        decode_manifest(changed("contents.tables", {"\x1b]0;owned\x07\n": -1}), "tasks\x1b[2J")
    assert refusal.value.message.isprintable()


# --- Never another exception, and never a manifest that cannot be written again ---


def decoded(raw: bytes) -> Manifest | None:
    try:
        return decode_manifest(raw, ID)
    except ManifestInvalid:
        return None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_only_manifest_invalid(noise: bytes) -> None:
    assert decoded(noise) is None
    assert decoded(sealed_text(noise)) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(path=st.sampled_from(sorted(paths(FIELDS), key=str)), value=JSON)
def test_arbitrary_json_with_correct_digest_raises_only_manifest_invalid(path: Path, value: object) -> None:
    fields: Any = copy.deepcopy(FIELDS)
    at = fields
    for key in path[:-1]:
        at = at[key]
    if path:
        at[path[-1]] = value
    else:
        fields = value
    manifest = decoded(sealed(fields) if isinstance(fields, dict) else sealed_text(json.dumps(fields).encode()))
    if manifest is not None:
        assert decode_manifest(encode_manifest(manifest), ID) == manifest
