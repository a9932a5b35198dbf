"""The interface of every store; one suite of tests runs against each kind."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple, Protocol

from backupd.errors import ContentMissing, GenerationMissing, GenerationTaken
from backupd.model import SUFFIXES, Kind, archive_name, is_generation_id, is_point_id

CHECKSUMS: Final = "SHA256SUMS"
HIDDEN: Final = ".backupd"
STAGING: Final = "staging"  # in HIDDEN of a directory: a directory of each run
CONTENTS: Final = "files"  # the directory of the contents of files
PROBE_DATA: Final = b"written, renamed and deleted by backupd doctor"
CONTENT_HINT: Final = "backupd verify --all names the generations that need it; another store may have it whole"
_DIGEST: Final = re.compile("[0-9a-f]{64}", re.ASCII)
MayRead = Callable[[int | None], bool]  # tells whether the user of this id may read what is stored


def anybody(_uid: int | None) -> bool:
    """Return True: what is stored is no secret."""
    return True


@dataclass(frozen=True, slots=True)
class ListedGeneration:
    """A generation in a listing: archive and manifest exist; the manifest has not been read."""

    id: str
    archive_bytes: int
    kind: Kind = "database"

    @property
    def archive_name(self) -> str:
        """The name of the file of its archive."""
        return archive_name(self.id, self.kind)


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
    contents: int = 0  # of files, that were not there yet


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


class ListedContent(NamedTuple):  # a tuple is made fast, and listings are long
    """The content of a file in a listing."""

    digest: bytes  # SHA-256 of what it holds
    stored_bytes: int
    modified_at: float  # seconds since 1970, by the clock of its store


class Contents(Protocol):
    """The contents of files, each once in a store, by the SHA-256 of what it holds: `files/ab/ab12…`, or `….gz`.

    Each is absent or complete, even when a process is killed.
    """

    def list(self) -> Iterator[ListedContent]:
        """Yield all contents, in no order; whatever else lies there is skipped. Raises OSError."""

    def sizes(self) -> Mapping[bytes, int]:
        """Return the stored bytes of each, by its raw digest, from listings: none is read. Raises OSError."""

    def open(self, digest: str) -> BinaryIO:
        """Open what is stored for reading, unpacked, and not yet compared with `digest` (in hex).

        Reading raises CopyCorrupt where a stored file does not unpack, and OSError. Raises ContentMissing, OSError.
        """

    def opened(self, digests: Iterable[str]) -> Iterator[tuple[str, Callable[[], BinaryIO]]]:
        """Yield each digest, in no order, with what opens it as `open` does, to be called before the next.

        Where a store is far away, many small ones are read at once.
        """

    def remove(self, digests: Collection[str]) -> None:
        """Remove what no list names any more; missing ones are accepted. Raises OSError."""


class SendableContents(Contents, Protocol):
    """The contents of the local store, as they are sent to replicas."""

    def open_stored(self, digest: str) -> tuple[str, BinaryIO]:
        """Open the file of a content as it is stored; returns its name too. Raises ContentMissing, OSError."""

    def require_sound(self, digest: str) -> None:
        """Read a content, and compare it with its digest. Raises CopyCorrupt, ContentMissing, OSError."""


class ReplicaContents(Contents, Protocol):
    """The contents at a replica."""

    def publish(self, digests: Iterable[str], local: SendableContents, damaged: Collection[str] = ()) -> "Transfer":
        """Send the stored files of `digests` from the `local` store, durably; each is verified before it gets its name.

        What is already there in the size that it has here is not sent again, unless it is among the `damaged`: that is
        replaced. Raises CopyCorrupt, ContentMissing, ReplicaUnreachable, OSError.
        """


class Points(Protocol):
    """The indexes of restore points: `ID.point.json`, published after all parts, and removed before any."""

    def points(self) -> tuple[str, ...]:
        """Return the ids of all restore points, in order. Raises OSError."""

    def point(self, point_id: str) -> bytes:
        """Return the bytes of an index, at most MANIFEST_MAX_BYTES + 1. Raises GenerationMissing, OSError."""

    def indexes(self, ids: Sequence[str]) -> Iterator[Callable[[], bytes]]:
        """Yield for each of `ids` a function that returns its index, as `point` does; several are requested at once."""

    def publish_point(self, point_id: str, encoded: bytes) -> None:
        """Write an index, durably; one that is there already must have these bytes. Raises GenerationTaken, OSError."""

    def remove_point(self, point_id: str) -> None:
        """Remove an index, durably; a missing one is accepted. Raises OSError."""


class Store(Archives, Points, Protocol):
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
        """Write `SHA256SUMS` with the archives of these names and their digests: after publishing, before removing."""

    def free_space(self) -> int | None:
        """Return the free bytes, None when the store does not say."""


class Replica(Store, Protocol):
    """A store that copies are sent to."""

    @property
    def contents(self) -> ReplicaContents:
        """The contents of the files of all sets."""

    @property
    def last_transfer(self) -> Transfer:
        """The transfer of the last successful `publish`."""

    @property
    def sent_bytes(self) -> int:
        """Bytes of archives sent so far, failed transfers included; it only grows."""

    def publish(
        self,
        generation_id: str,
        archive: Path,
        manifest: bytes,
        kind: Kind = "database",
        replaces: bytes | None = None,
    ) -> None:
        """Put a verified archive (a local file) and its manifest in place, the manifest last, durably.

        Of the manifests that may be there, only this one and `replaces` are overwritten: the caller has seen that one,
        and that its copy is damaged. Raises GenerationTaken for another.
        """

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


def content_names(digest: str) -> tuple[str, str]:
    """Return the names that the file of a content may have: where it is packed, and where it is stored as it is."""
    return f"{digest}.gz", digest


def content_digest(name: str) -> bytes | None:
    """Return the raw digest of the content whose file has this name, None for another file."""
    digest = name.removesuffix(".gz")
    return bytes.fromhex(digest) if is_digest(digest) else None


def is_digest(text: str) -> bool:
    """Return whether `text` is a SHA-256 in hex digits."""
    return _DIGEST.fullmatch(text) is not None


def content_missing(digest: str, store: str, what: str = "is not there") -> ContentMissing:
    """Return the error for a content that a store does not have."""
    return ContentMissing(f"the content {digest[:64]!r} of a file {what} in store {store}", CONTENT_HINT)


def checksums_text(digests: Mapping[str, str]) -> bytes:
    """Return `SHA256SUMS` for the archives of these names, as `sha256sum` writes it."""
    in_order = sorted(digests, key=lambda name: archive_in(name) or (name, ""))
    return "".join(f"{digests[name]}  {name}\n" for name in in_order).encode()


def archive_in(name: str) -> tuple[str, Kind] | None:
    """Return the generation and the kind of the archive that has this file name, None for another file."""
    for kind, suffix in SUFFIXES.items():
        if name.endswith(suffix) and is_generation_id(generation_id := name.removesuffix(suffix)):
            return generation_id, kind
    return None


def listing(archives: Mapping[tuple[str, Kind], int], manifests: Collection[str]) -> Listing:
    """Return the generations that have an archive (their sizes by id and kind) and a manifest, in order of their ids.

    Of two archives that have one id, that of a database is listed.
    """
    complete: dict[str, ListedGeneration] = {}
    for (generation_id, kind), size_bytes in sorted(archives.items()):
        if generation_id in manifests:
            complete.setdefault(generation_id, ListedGeneration(generation_id, size_bytes, kind))
    return tuple(complete.values())


def require_point_id(text: str) -> None:
    """Raise GenerationMissing when `text` is not the id of a restore point."""
    if not is_point_id(text):
        raise GenerationMissing(f"{text[:120]!r} is not the id of a restore point", "see backupd list --points")


def point_missing(point_id: str, store: str) -> GenerationMissing:
    """Return the error for a restore point that a store does not have."""
    return GenerationMissing(f"no restore point {point_id} in store {store}", "see backupd list --points")


def require_own_point(store: Points, name: str, point_id: str, encoded: bytes) -> None:
    """Raise GenerationTaken unless the index that is in the `store` of this name has these bytes. Raises OSError."""
    try:
        taken = store.point(point_id) != encoded
    except GenerationMissing:  # anything that is no file
        taken = True
    if taken:
        raise GenerationTaken(
            f"{name} has another restore point {point_id}: it was not overwritten",
            "give each sender its own directory on the replica, or move that file away",
        )


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


def require_unchanged_manifest(store: Store, generation_id: str, replaces: bytes | None, own: bytes) -> None:
    """Raise GenerationTaken when another sender published: the manifest is neither the one `replaces` nor our `own`."""
    if find_manifest(store, generation_id) not in (None, replaces, own):
        raise generation_taken(generation_id, store.name)


def generation_taken(generation_id: str, store: str) -> GenerationTaken:
    """Return the error for a generation of another sender that has this id."""
    return GenerationTaken(
        f"{store} has another generation {generation_id}, from another sender: it was not overwritten",
        "give each sender its own directory on the replica, or move that generation away",
    )
