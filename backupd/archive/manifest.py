"""Read and write manifests of generations and indexes of restore points; those from another host are untrusted.

Each is indented JSON whose last field is the SHA-256 of all lines before it, so that any changed byte is
detected; `head -n -2 FILE | sha256sum` prints this digest.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from backupd.errors import ManifestInvalid
from backupd.model import (
    MANIFEST_MAX_BYTES,
    POINT,
    STORE_IDENTITY,
    AnyManifest,
    FilesManifest,
    Manifest,
    RestorePoint,
    generation_id,
    is_generation_id,
    is_point_id,
    is_source_name,
    source_of,
)

_SEAL = re.compile(rb'  "manifest_sha256": "([0-9a-f]{64})"\n}\n')
_SEAL_BYTES = len('  "manifest_sha256": ""\n}\n') + 64
_OF_FILES = b'{\n  "kind": "files",\n'
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_STORE = re.compile(STORE_IDENTITY, re.ASCII)
_ATTEMPT = re.compile(r"(-\d{1,3})?", re.ASCII)
_MAX_OWNER = 2**32 - 2  # for chown(2) the next number means "do not change"
_YEARS = range(1970, 9999)  # that any time zone can represent
_MOST_INFLATED = 1032  # bytes that deflate can make of one: a match of 258 bytes takes 2 bits (RFC 1951 §3.2.5)
_HINT = "use another generation; gunzip and PRAGMA integrity_check can still check the archive of this one"
_HINT_OF_FILES = "use another generation; gunzip can still show the list of this one"
_HINT_OF_POINT = "use another restore point (backupd list --points), or restore its generations one by one"

T = TypeVar("T", Manifest, FilesManifest, RestorePoint)
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def encode_manifest(manifest: AnyManifest) -> bytes:
    """Return the bytes of the file, with their digest."""
    path = manifest.origin.path.encode(errors="backslashreplace").decode()  # JSON cannot hold bytes that are not UTF-8
    if isinstance(manifest, FilesManifest):
        return _encode(FilesManifest, replace(manifest, origin=replace(manifest.origin, path=path)))
    return _encode(Manifest, replace(manifest, origin=replace(manifest.origin, path=path)))


def encode_point(point: RestorePoint) -> bytes:
    """Return the bytes of the file, with their digest."""
    return _encode(RestorePoint, point)


def decode_manifest(raw: bytes, found_as: str) -> AnyManifest:
    """Return the manifest of generation `found_as`. Raises ManifestInvalid unless `raw` is that, undamaged."""
    if raw.startswith(_OF_FILES):
        files = _decode(FilesManifest, raw, _refusal("manifest", found_as, _HINT_OF_FILES))
        return _checked(files, _faults_of_files(files, found_as), _refusal("manifest", found_as, _HINT_OF_FILES))
    manifest = _decode(Manifest, raw, _refusal("manifest", found_as, _HINT))
    return _checked(manifest, _faults(manifest, found_as), _refusal("manifest", found_as, _HINT))


def decode_point(raw: bytes, found_as: str) -> RestorePoint:
    """Return the restore point `found_as`. Raises ManifestInvalid unless `raw` is that, undamaged."""
    refusal = _refusal("index", found_as, _HINT_OF_POINT)
    point = _decode(RestorePoint, raw, refusal)
    return _checked(point, _faults_of_point(point, found_as), refusal)


def _encode(kind: type[T], value: T) -> bytes:
    text = _adapter(kind).dump_json(value, indent=2)
    body = text.removesuffix(b"\n}") + b",\n"
    return body + f'  "manifest_sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def _decode(kind: type[T], raw: bytes, refusal: Callable[[str], ManifestInvalid]) -> T:
    """Return the value in `raw`, whose fields are not compared with each other yet."""
    if len(raw) > MANIFEST_MAX_BYTES:
        raise refusal(f"it is larger than {MANIFEST_MAX_BYTES >> 20} MiB")
    seal = _SEAL.fullmatch(raw[-_SEAL_BYTES:])
    if seal is None or hashlib.sha256(raw[:-_SEAL_BYTES]).hexdigest().encode() != seal[1]:
        raise refusal("its bytes do not match its own digest")
    try:
        value = _adapter(kind).validate_json(raw, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100] or "it"
        raise refusal(f"{where!r}: {first['msg'][:200]}") from None
    return value


def _checked(value: T, faults: Iterator[str], refusal: Callable[[str], ManifestInvalid]) -> T:
    for fault in faults:
        raise refusal(fault)
    return value


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    """Return the adapter of a kind, made when it is first needed: that takes a while."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return cast("TypeAdapter[T]", _ADAPTERS[kind])


def _faults(manifest: Manifest, found_as: str) -> Iterator[str]:
    """Yield the contradictions between fields, and the faults that no annotation covers."""
    snapshot, archive, origin = manifest.snapshot, manifest.archive, manifest.origin
    yield from _faults_of_head(manifest, found_as)
    yield from _faults_of_contents(manifest)
    if snapshot.page_size & (snapshot.page_size - 1):
        yield "its page size is not a power of two"
    if snapshot.page_count * snapshot.page_size != snapshot.size_bytes:
        yield "its snapshot is not a whole number of pages"
    if snapshot.size_bytes > min(archive.size_bytes * _MOST_INFLATED, archive.members * archive.member_bytes):
        yield "its archive is too small to hold its snapshot"
    yield from _faults_of_owners(origin.uid, origin.gid, origin.directory_uid, origin.directory_gid)


def _faults_of_files(manifest: FilesManifest, found_as: str) -> Iterator[str]:
    """Yield the same for the manifest of a set of files."""
    files, archive, origin = manifest.files, manifest.archive, manifest.origin
    yield from _faults_of_head(manifest, found_as)
    if not _are_digests(files.list_sha256, archive.sha256):
        yield "a digest is not a SHA-256"
    if files.list_bytes > min(archive.size_bytes * _MOST_INFLATED, archive.members * archive.member_bytes):
        yield "its archive is too small to hold its list"
    yield from _faults_of_owners(origin.uid, origin.gid)


def _faults_of_point(point: RestorePoint, found_as: str) -> Iterator[str]:
    """Yield the same for a restore point."""
    if point.id != found_as:
        yield "it describes another restore point"
    if not (is_point_id(point.id) and _STORE.fullmatch(point.store)):
        yield "its id or store is not a valid name"
    if not _is_named_for_its_time(point.id, POINT, point.taken_at):
        yield "its id does not match its time"
    times = [time for part in point.parts for time in (part.since, part.until)]
    if any(time.tzinfo is None for time in times):
        yield "a time of a part has no time zone"
    elif any(part.since > part.until for part in point.parts) or point.taken_at != min(times):
        yield "the times of its parts contradict each other"
    if len({part.source for part in point.parts}) < len(point.parts):
        yield "it has two parts of one source"
    for part in point.parts:
        if not (is_generation_id(part.generation) and source_of(part.generation) == part.source):
            yield "a part is not a generation of its source"
        if not _are_digests(part.archive_sha256):
            yield "a digest is not a SHA-256"


def _faults_of_head(manifest: AnyManifest, found_as: str) -> Iterator[str]:
    """Yield the faults of what every manifest has."""
    if manifest.id != found_as:
        yield "it describes another generation"
    if not (is_generation_id(manifest.id) and is_source_name(manifest.source) and _STORE.fullmatch(manifest.store)):
        yield "its id, source or store is not a valid name"
    if manifest.taken_at.tzinfo is None:
        yield "its time has no time zone"
    if not _is_named_for_its_time(manifest.id, manifest.source, manifest.taken_at):
        yield "its id does not match its source and time"
    if not math.isfinite(manifest.verdict.duration_s):
        yield "check duration is not finite"


def _faults_of_contents(manifest: Manifest) -> Iterator[str]:
    snapshot, contents = manifest.snapshot, manifest.contents
    if (contents is None) != (manifest.verdict.level == "opaque"):
        yield "its contents do not match its verification level"
    schema_sha256 = contents.schema_sha256 if contents else snapshot.sha256
    if not _are_digests(snapshot.sha256, manifest.archive.sha256, schema_sha256):
        yield "a digest is not a SHA-256"


def _faults_of_owners(*ids: int | None) -> Iterator[str]:
    if max(number or 0 for number in ids) > _MAX_OWNER:
        yield "uid or gid out of range"


def _are_digests(*texts: str) -> bool:
    return all(map(_DIGEST.fullmatch, texts))


def _is_named_for_its_time(found_id: str, source: str, taken_at: datetime) -> bool:
    if taken_at.tzinfo is None or taken_at.year not in _YEARS:
        return False
    name = generation_id(source, taken_at)
    return found_id.startswith(name) and _ATTEMPT.fullmatch(found_id[len(name) :]) is not None


def _refusal(what: str, found_as: str, hint: str) -> Callable[[str], ManifestInvalid]:
    return lambda why: ManifestInvalid(f"the {what} of {found_as[:120]!r} is not valid: {why}", hint)
