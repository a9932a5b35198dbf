"""What every store can do; one suite of tests holds every kind to it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from backupd.errors import GenerationMissing, GenerationTaken


@dataclass(frozen=True, slots=True)
class ListedGeneration:
    """A generation as a listing shows it: both files are there; what the manifest says is not known yet."""

    id: str
    archive_bytes: int


VerificationMethod = Literal["read-back", "remote-hash"]
Listing = tuple[ListedGeneration, ...]


@dataclass(frozen=True, slots=True)
class RecoveredItem:
    """What a killed run left, and `trouble` in words where it could not be put right."""

    what: Literal["removal", "publication", "staging"]
    name: str
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one publication cost: bytes sent, and bytes that lay there already and were found right.

    `doubt` says why it was proven otherwise than was asked for.
    """

    sent_bytes: int
    resumed_bytes: int
    verified_by: VerificationMethod = "read-back"
    doubt: str = ""


class Archives(Protocol):
    """Where archives are read from."""

    @property
    def name(self) -> str:
        """How configuration and reports call this store."""

    def open(self, generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises GenerationMissing."""


class Store(Archives, Protocol):
    """Keeps generations: each is absent or complete, whatever happens to the process at work on it."""

    def list(self) -> Listing:
        """Return all complete generations, in order of their ids. Raises OSError."""

    def manifest(self, generation_id: str) -> bytes:
        """Return the manifest's bytes, cut off just past MANIFEST_MAX_BYTES. Raises GenerationMissing."""

    def manifests(self, ids: Sequence[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each of `ids` what returns its manifest, as `manifest` does: many are asked for at once."""

    def publish(self, generation_id: str, archive: Path, manifest: bytes) -> None:
        """Put a proven archive (a file of the caller's) and its manifest in place, the manifest last, durably."""

    def remove(self, generation_id: str) -> None:
        """Remove a generation, the manifest first; nothing happens if it is not there."""

    def write_checksums(self, digests: Mapping[str, str]) -> None:
        """Let `SHA256SUMS` list just the archives of these ids, by their digests: after publishing, before removing."""

    def free_space(self) -> int | None:
        """Return the bytes that are free there, None when the store cannot tell."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a try-out of a replica found: `lacks` names what its server cannot do; None where nothing could be told."""

    lacks: tuple[str, ...]
    clock_ahead_s: float | None
    free_bytes: int | None


class Replica(Store, Protocol):
    """A store that copies are sent to."""

    @property
    def last_transfer(self) -> Transfer:
        """What the last `publish` that succeeded cost."""

    @property
    def sent_bytes(self) -> int:
        """How many bytes of archives were sent so far, also in vain; it only grows."""

    def prepare(self) -> None:
        """Make what is missing. Raises BackupdError, OSError."""

    def recover(self) -> Iterator[RecoveredItem]:
        """Finish what a kill cut short, and yield what was done about each."""

    def sweep(self, wanted: Collection[str]) -> Iterator[RecoveredItem]:
        """Remove what is on its way from us, but not of the `wanted` generations, and yield what was removed."""

    def partial_bytes(self, generation_id: str) -> int:
        """Return how many bytes of a generation lie there from an earlier try."""

    def probe(self) -> ProbeResult:
        """Write, read back, rename and delete a small file there. Raises BackupdError, OSError."""


def find_manifest(store: Store, generation_id: str) -> bytes | None:
    """Return the manifest that `store` has under that id, None when there is none. Raises OSError."""
    try:
        return store.manifest(generation_id)
    except GenerationMissing:
        return None


def require_unchanged_manifest(store: Store, generation_id: str, before: bytes | None, mine: bytes) -> None:
    """Raise GenerationTaken when somebody has put another manifest there since it said `before`."""
    if find_manifest(store, generation_id) not in (before, mine):
        raise taken(generation_id, store.name)


def taken(generation_id: str, name: str) -> GenerationTaken:
    """Return the error that says so."""
    return GenerationTaken(
        f"{name} holds another {generation_id}, which is not of this store: it was not overwritten",
        "give each sender a directory of its own there, or move that generation away",
    )
