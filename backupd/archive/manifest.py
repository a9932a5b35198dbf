"""Read and write manifests, which describe generations; those from another host are untrusted.

A manifest is indented JSON whose last field is the SHA-256 of all lines before it, so that any changed byte is
detected; `head -n -2 FILE | sha256sum` prints this digest.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from backupd.errors import ManifestInvalid
from backupd.model import MANIFEST_MAX_BYTES, STORE_IDENTITY, Manifest, generation_id, is_generation_id, is_source_name

_SEAL = re.compile(rb'  "manifest_sha256": "([0-9a-f]{64})"\n}\n')
_SEAL_BYTES = len('  "manifest_sha256": ""\n}\n') + 64
_THREE_DIGESTS = re.compile(r"[0-9a-f]{192}", re.ASCII)  # each is 64 long by its annotation
_STORE = re.compile(STORE_IDENTITY, re.ASCII)
_ATTEMPT = re.compile(r"(-\d{1,3})?", re.ASCII)
_MAX_OWNER = 2**32 - 2  # for chown(2) the next number means "do not change"
_YEARS = range(1970, 9999)  # that any time zone can represent
_MOST_INFLATED = 1032  # bytes that deflate can make of one: a match of 258 bytes takes 2 bits (RFC 1951 §3.2.5)
_HINT = "use another generation; gunzip and PRAGMA integrity_check can still check the archive of this one"


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of the file, with their digest."""
    text = _adapter().dump_json(_in_utf8(manifest), indent=2)
    body = text.removesuffix(b"\n}") + b",\n"
    return body + f'  "manifest_sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def decode_manifest(raw: bytes, found_as: str) -> Manifest:
    """Return the manifest of generation `found_as`. Raises ManifestInvalid unless `raw` is that, undamaged."""
    if len(raw) > MANIFEST_MAX_BYTES:
        raise _invalid(found_as, f"it is larger than {MANIFEST_MAX_BYTES >> 20} MiB")
    seal = _SEAL.fullmatch(raw[-_SEAL_BYTES:])
    if seal is None or hashlib.sha256(raw[:-_SEAL_BYTES]).hexdigest().encode() != seal[1]:
        raise _invalid(found_as, "its bytes do not match its own digest")
    try:
        manifest: Manifest = _adapter().validate_json(raw, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100] or "it"
        raise _invalid(found_as, f"{where!r}: {first['msg'][:200]}") from None
    for fault in _faults(manifest, found_as):
        raise _invalid(found_as, fault)
    return manifest


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Manifest)


def _in_utf8(manifest: Manifest) -> Manifest:
    """Escape bytes of the source's path that are not UTF-8, which JSON cannot represent."""
    path = manifest.origin.path.encode(errors="backslashreplace").decode()
    return replace(manifest, origin=replace(manifest.origin, path=path))


def _faults(manifest: Manifest, found_as: str) -> Iterator[str]:
    """Yield the contradictions between fields, and the faults that no annotation covers."""
    snapshot, archive, origin = manifest.snapshot, manifest.archive, manifest.origin
    if manifest.id != found_as:
        yield "it describes another generation"
    if not (is_generation_id(manifest.id) and is_source_name(manifest.source) and _STORE.fullmatch(manifest.store)):
        yield "its id, source or store is not a valid name"
    if manifest.taken_at.tzinfo is None:
        yield "its time has no time zone"
    if not _is_named_for_its_time(manifest):
        yield "its id does not match its source and time"
    yield from _faults_of_contents(manifest)
    if snapshot.page_size & (snapshot.page_size - 1):
        yield "its page size is not a power of two"
    if snapshot.page_count * snapshot.page_size != snapshot.size_bytes:
        yield "its snapshot is not a whole number of pages"
    if snapshot.size_bytes > min(archive.size_bytes * _MOST_INFLATED, archive.members * archive.member_bytes):
        yield "its archive is too small to hold its snapshot"
    ids = (origin.uid, origin.gid, origin.directory_uid, origin.directory_gid)
    if max(number or 0 for number in ids) > _MAX_OWNER:
        yield "uid or gid out of range"
    if not math.isfinite(manifest.verdict.duration_s):
        yield "check duration is not finite"


def _faults_of_contents(manifest: Manifest) -> Iterator[str]:
    snapshot, contents = manifest.snapshot, manifest.contents
    if (contents is None) != (manifest.verdict.level == "opaque"):
        yield "its contents do not match its verification level"
    schema_sha256 = contents.schema_sha256 if contents else snapshot.sha256
    if not _THREE_DIGESTS.fullmatch(snapshot.sha256 + manifest.archive.sha256 + schema_sha256):
        yield "a digest is not a SHA-256"


def _is_named_for_its_time(manifest: Manifest) -> bool:
    if manifest.taken_at.year not in _YEARS:
        return False
    name = generation_id(manifest.source, manifest.taken_at)
    return manifest.id.startswith(name) and _ATTEMPT.fullmatch(manifest.id[len(name) :]) is not None


def _invalid(found_as: str, why: str) -> ManifestInvalid:
    return ManifestInvalid(f"the manifest of {found_as[:120]!r} is not valid: {why}", _HINT)
