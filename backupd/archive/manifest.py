"""Read and write manifests: the truth about a generation, and, when it comes from another host, a stranger's word.

A manifest is indented JSON whose last field is the SHA-256 of all the lines before it, so that no byte of it can
change unnoticed; `head -n -2 FILE | sha256sum` tells the same digest.
"""

import hashlib
import re
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from backupd.errors import ManifestInvalid
from backupd.model import MANIFEST_MAX_BYTES, Manifest, is_generation_id, is_source_name

_SEAL = re.compile(rb'  "manifest_sha256": "([0-9a-f]{64})"\n}\n')
_SEAL_BYTES = len('  "manifest_sha256": ""\n}\n') + 64
_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HINT = "leave this generation alone and use another; gunzip and integrity_check can still judge its archive"


def encode_manifest(manifest: Manifest) -> bytes:
    """Return `manifest` as the bytes of its file, sealed with their own digest."""
    text = _adapter().dump_json(manifest, indent=2)
    body = text.removesuffix(b"\n}") + b",\n"
    return body + f'  "manifest_sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def decode_manifest(raw: bytes, generation_id: str) -> Manifest:
    """Return the manifest in `raw`, which was found under the name of `generation_id`.

    Raises ManifestInvalid for anything but an undamaged manifest of that very generation.
    """
    if len(raw) > MANIFEST_MAX_BYTES:
        raise _invalid(generation_id, f"it is larger than {MANIFEST_MAX_BYTES >> 20} MiB")
    seal = _SEAL.fullmatch(raw[-_SEAL_BYTES:])
    if seal is None or hashlib.sha256(raw[:-_SEAL_BYTES]).hexdigest().encode() != seal[1]:
        raise _invalid(generation_id, "its bytes do not match its own digest")
    try:
        manifest: Manifest = _adapter().validate_json(raw, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise _invalid(generation_id, f"{where or 'it'}: {first['msg'][:200]}") from None
    _check(manifest, generation_id)
    return manifest


@cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Manifest)


def _check(manifest: Manifest, generation_id: str) -> None:
    digests = (manifest.snapshot.sha256, manifest.archive.sha256, manifest.contents.schema_sha256)
    if manifest.id != generation_id:
        raise _invalid(generation_id, "it speaks of another generation")
    if not (is_generation_id(manifest.id) and is_source_name(manifest.source)):
        raise _invalid(generation_id, "its names are none of ours")
    if not manifest.id.startswith(f"{manifest.source}-"):
        raise _invalid(generation_id, "its id is not one of its source")
    if not all(_HEX.fullmatch(digest) for digest in digests):
        raise _invalid(generation_id, "a digest is no SHA-256")
    if manifest.taken_at.tzinfo is None:
        raise _invalid(generation_id, "its time has no zone")
    if manifest.snapshot.page_count * manifest.snapshot.page_size != manifest.snapshot.size_bytes:
        raise _invalid(generation_id, "its snapshot is not a whole number of pages")


def _invalid(generation_id: str, why: str) -> ManifestInvalid:
    return ManifestInvalid(f"the manifest of {generation_id[:120]!r} is not valid: {why}", _HINT)
