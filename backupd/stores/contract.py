"""The interface of every store; one suite of tests runs against each kind."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, Protocol

from backupd.errors import GenerationMissing, GenerationTaken
from backupd.model import ARCHIVE_SUFFIX, is_generation_id

CHECKSUMS: Final = "SHA256SUMS"
HIDDEN: Final = ".backupd"
STAGING: Final = "staging"  # in HIDDEN of a directory: a directory of each run
PROBE_DATA: Final = b"written, renamed and deleted by backupd doctor"
MayRead = Callable[[int | None], bool]  # tells whether the user of this id may read what is stored


def anybody(_uid: int | None) -> bool:
    """Return True: what is stored is no secret."""
    return True


@dataclass(frozen=True, slots=True)
class ListedGeneration:
    """A generation in a listing: archive and manifest exist; the manifest has not been read."""

    id: str
    archive_bytes: int


Listing = tuple[ListedGeneration, ...]
VerificationMethod = Literal["read-back", "remote-hash"]


@dataclass(frozen=True, slots=True)
class RecoveredItem:
    """One leftover of a killed run that was dealt with."""

    kind: Literal["removal", "publication", "staging"]
    name: str  # the id of a generation, or the name of a staging directory or file
    problem: str = ""  # why it could not be removed; empty on success


@dataclass(frozen=True, slots=True)
class Transfer:
    """The facts of one publication in a replica."""

    sent_bytes: int
    resumed_bytes: int  # of an earlier transfer, that were verified and kept
    verified_by: VerificationMethod = "read-back"
    fallback_reason: str = ""  # why it was not verified by the configured method; empty where it was


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a replica's server can do and says; None for what it does not say."""

    missing_features: tuple[str, ...]
    clock_ahead_s: float | None
    free_bytes: int | None


class Archives(Protocol):
    """A source of archives to read."""

    @property
    def name(self) -> str:
        """The name in the configuration and in reports."""

    def open(self, generation_id: str, begin: int = 0) -> BinaryIO:
        """Open the archive for reading from byte `begin` on, buffered. Raises GenerationMissing, OSError."""


class Store(Archives, Protocol):
    """Keeps generations: each is absent or complete, even when a process is killed."""

    def list(self) -> Listing:
        """Return all complete generations, in order of their ids. Raises OSError."""

    def manifest(self, generation_id: str) -> bytes:
        """Return the manifest's bytes, at most MANIFEST_MAX_BYTES + 1. Raises GenerationMissing, OSError."""

    def manifests(self, ids: Sequence[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each of `ids` a function that returns its manifest; several are requested at once."""

    def remove(self, generation_id: str) -> None:
        """Remove a generation, the manifest first; a missing generation is accepted."""

    def write_checksums(self, digests: Mapping[str, str]) -> None:
        """Write `SHA256SUMS` with the archives of these ids and their digests: after publishing, before removing."""

    def free_space(self) -> int | None:
        """Return the free bytes, None when the store does not say."""


class Replica(Store, Protocol):
    """A store that copies are sent to."""

    @property
    def last_transfer(self) -> Transfer:
        """The transfer of the last successful `publish`."""

    @property
    def sent_bytes(self) -> int:
        """Bytes of archives sent so far, failed transfers included; it only grows."""

    def publish(self, generation_id: str, archive: Path, manifest: bytes) -> None:
        """Put a verified archive (a local file) and its manifest in place, the manifest last, durably."""

    def has_hidden(self, path: str) -> bool:
        """Tell whether `path` exists in the directory HIDDEN there, whatever it is; "": HIDDEN. Raises OSError."""

    def prepare(self) -> None:
        """Make missing directories. Raises BackupdError, OSError."""

    def recover(self) -> Iterator[RecoveredItem]:
        """Finish what a killed run left unfinished, and yield each item."""

    def sweep(self, keep: Collection[str]) -> Iterator[RecoveredItem]:
        """Remove what this sender has in transfer, except the generations to `keep`, and yield each item."""

    def partial_bytes(self, generation_id: str) -> int:
        """Return how many bytes an earlier transfer of a generation left."""

    def probe(self) -> ProbeResult:
        """Write, read back, rename and delete a small file. Raises BackupdError, OSError."""


def checksums_text(digests: Mapping[str, str]) -> bytes:
    """Return `SHA256SUMS` for the archives of these ids, as `sha256sum` writes it."""
    lines = (f"{digests[generation_id]}  {generation_id}{ARCHIVE_SUFFIX}\n" for generation_id in sorted(digests))
    return "".join(lines).encode()


def require_generation_id(text: str) -> None:
    """Raise GenerationMissing when `text` is not a generation id."""
    if not is_generation_id(text):
        raise GenerationMissing(f"{text[:120]!r} is not a generation id", "see backupd list")


def generation_missing(generation_id: str, store: str) -> GenerationMissing:
    """Return the error for a generation that a store does not have."""
    return GenerationMissing(f"no generation {generation_id} in store {store}", "see backupd list")


def find_manifest(store: Store, generation_id: str) -> bytes | None:
    """Return the manifest of a generation, None when `store` does not have it. Raises OSError."""
    try:
        return store.manifest(generation_id)
    except GenerationMissing:
        return None


def require_unchanged_manifest(store: Store, generation_id: str, before: bytes | None, own: bytes) -> None:
    """Raise GenerationTaken when another sender published: the manifest is neither the one `before` nor our `own`."""
    if find_manifest(store, generation_id) not in (before, own):
        raise generation_taken(generation_id, store.name)


def generation_taken(generation_id: str, store: str) -> GenerationTaken:
    """Return the error for a generation of another sender that has this id."""
    return GenerationTaken(
        f"{store} has another generation {generation_id}, from another sender: it was not overwritten",
        "give each sender its own directory on the replica, or move that generation away",
    )
