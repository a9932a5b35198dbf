"""What every store can do; one suite of tests holds every kind to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Stored:
    """A generation as a listing shows it: both files are there; what the manifest says is not known yet."""

    id: str
    archive_bytes: int


Listing = tuple[Stored, ...]


class Store(Protocol):
    """Keeps generations: each is absent or complete, whatever happens to the process at work on it."""

    @property
    def name(self) -> str:
        """How configuration and reports call this store."""

    def list(self) -> Listing:
        """Return all complete generations, in order of their ids. Raises OSError."""

    def manifest(self, generation_id: str) -> bytes:
        """Return the manifest's bytes, cut off just past MANIFEST_MAX_BYTES. Raises GenerationMissing."""

    def open(self, generation_id: str) -> BinaryIO:
        """Open the archive for reading, buffered. Raises GenerationMissing."""

    def publish(self, generation_id: str, archive: Path, manifest: bytes) -> None:
        """Put a proven archive (a file of the caller's) and its manifest in place, the manifest last, durably."""

    def remove(self, generation_id: str) -> None:
        """Remove a generation, the manifest first; nothing happens if it is not there."""

    def write_checksums(self, digests: Mapping[str, str]) -> None:
        """Let `SHA256SUMS` list just the archives of these ids, by their digests: after publishing, before removing."""

    def free_space(self) -> int | None:
        """Return the bytes that are free there, None when the store cannot tell."""
