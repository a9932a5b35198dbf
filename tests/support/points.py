"""Sets of files and restore points in a store, as backups would publish them, and an app that has one."""

import gzip
import hashlib
import io
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from backupd import __version__
from backupd.archive.archive import pack
from backupd.archive.file_list import FileEntry, contents_in, encode_entry
from backupd.archive.manifest import decode_manifest, decode_point, encode_manifest, encode_point
from backupd.model import (
    LOCAL_STORE,
    MANIFEST_SUFFIX,
    POINT,
    POINT_SUFFIX,
    DirectoryFacts,
    FilesFacts,
    FilesManifest,
    PointPart,
    RestorePoint,
    Verdict,
    archive_name,
    generation_id,
)
from backupd.stores.local import DirectoryStore
from backupd.system.held_file import HeldFile
from backupd.tasks.context import TaskContext
from support.bank import make_bank, spend, transfers
from support.directories import sha256
from support.in_process import run_here

OLD, NEW = [2, 3], [0, 1]  # transfers before a restore, and in the point


def publish_point(backups: Path, generations: Sequence[str], attempt: int = 1, at: datetime | None = None) -> str:
    """Publish the point of these generations in the store in `backups`, as of when they were made, or all `at` a time.

    Returns its id.
    """
    store = DirectoryStore(LOCAL_STORE, backups)
    manifests = [decode_manifest(store.manifest(key), key) for key in generations]
    parts = tuple(
        PointPart(
            source=manifest.source,
            kind=manifest.kind,
            generation=manifest.id,
            archive_sha256=manifest.archive.sha256,
            since=at or manifest.taken_at,
            until=(at or manifest.taken_at) + timedelta(milliseconds=3),
        )
        for manifest in manifests
    )
    taken_at = min(part.since for part in parts)
    key = generation_id(POINT, taken_at, attempt)
    point = RestorePoint(1, key, manifests[0].store, taken_at, __version__, parts)
    store.publish_point(key, encode_point(point))
    return key


def files_generation(
    context: TaskContext, tree: Mapping[str, bytes], taken_at: datetime, *, source: str = "uploads"
) -> str:
    """Publish a generation of a set of the files in `tree`, by their paths, and return its id."""
    identity = context.identity()
    with context.store.staging() as staging:
        entries = list(_entries(tree))
        with context.store.contents.adding(staging) as writer:
            for data in tree.values():
                with writer.part() as part:
                    part.write(data)
                    part.finish(hashlib.sha256(data).digest(), packed=False)
        lines = b"".join(map(encode_entry, entries))
        archive = HeldFile.create(staging, "archive")
        packed = pack(io.BytesIO(lines), archive.stream(), level=1, workers=1, advance=lambda _done: None)
        manifest = FilesManifest(
            kind="files",
            format=1,
            id=generation_id(source, taken_at),
            source=source,
            store=identity,
            taken_at=taken_at,
            backupd_version="1",
            origin=DirectoryFacts(f"/app/data/{source}", 1000, 1000, 0o755),
            files=FilesFacts(
                list_sha256=packed.snapshot_sha256,
                list_bytes=len(lines),
                files=len(tree),
                directories=len(entries) - len(tree),
                links=0,
                size_bytes=sum(map(len, tree.values())),
                skipped=0,
            ),
            archive=packed.archive,
            verdict=Verdict("full", ("contents", "list")),
        )
        context.store.place(manifest.id, archive, encode_manifest(manifest), kind="files")
    return manifest.id


def _entries(tree: Mapping[str, bytes]) -> Iterator[FileEntry]:
    paths = {tuple(path.split("/")): data for path, data in tree.items()}
    directories = {parts[:depth] for parts in paths for depth in range(1, len(parts))}
    for parts in sorted({*paths, *directories}, key=lambda parts: [part.encode() for part in parts]):
        path = "/".join(parts).encode()
        if parts in directories:
            yield FileEntry(path, "d", 0o755, 1000, 1000, 0)
        else:
            data = paths[parts]
            digest = hashlib.sha256(data).hexdigest()
            yield FileEntry(path, "f", 0o644, 1000, 1000, 0, size_bytes=len(data), digest=digest)


def assert_complete_points(there: Path) -> set[str]:
    """Fail unless all that is named there is there, once: contents by lists, archives by manifests, parts by indexes.

    Returns the ids of the points.
    """
    stored = [*there.glob("files/*/*")]
    contents = {path.name.split(".")[0] for path in stored}
    assert sorted(map(_digest_of, stored)) == sorted(contents)
    generations = {path.name.removesuffix(MANIFEST_SUFFIX) for path in there.glob(f"*{MANIFEST_SUFFIX}")}
    for generation in generations:
        manifest = decode_manifest((there / f"{generation}{MANIFEST_SUFFIX}").read_bytes(), generation)
        archive = (there / archive_name(generation, manifest.kind)).read_bytes()
        assert hashlib.sha256(archive).hexdigest() == manifest.archive.sha256
        if isinstance(manifest, FilesManifest):
            listed = io.BytesIO(gzip.decompress(archive))
            assert {*map(bytes.hex, contents_in(listed, manifest.files.list_sha256, generation))} <= contents
    points = {path.name.removesuffix(POINT_SUFFIX) for path in there.glob(f"*{POINT_SUFFIX}")}
    for key in points:
        assert decode_point((there / f"{key}{POINT_SUFFIX}").read_bytes(), key).generations <= generations
    return points


def _digest_of(stored: Path) -> str:
    """Return the digest of what a stored content holds."""
    data = stored.read_bytes()
    return hashlib.sha256(gzip.decompress(data) if stored.suffix else data).hexdigest()


@dataclass(frozen=True)
class PointedApp:
    """An app of two databases in two directories, with a restore point of them; both were written to since."""

    config: Path
    backups: Path
    tasks: Path
    notes: Path
    point: str
    generations: tuple[str, str]

    @property
    def databases(self) -> tuple[Path, Path]:
        return self.tasks, self.notes

    @property
    def digests(self) -> list[str]:
        return [sha256(path) for path in self.databases]

    @property
    def rows(self) -> list[int]:
        return [transfers(path) for path in self.databases]


def make_app(directory: Path, backups: Path | None = None, padding_bytes: int = 0) -> PointedApp:
    """Make an app in `directory`, with a configuration of its sources `tasks` and `notes`."""
    paths = {name: directory / place / f"{name}.db" for name, place in (("tasks", "data"), ("notes", "more"))}
    for path in paths.values():
        path.parent.mkdir()
        make_bank(path, rows=50)
        with closing(sqlite3.connect(path)) as app, app:
            app.execute("CREATE TABLE padding AS SELECT randomblob(?) AS bytes", (padding_bytes,))
    spend(paths["notes"])
    config, backups = directory / "backupd.toml", backups or directory / "backups"
    sources = "".join(f'[sources.{name}]\npath = "{path}"\n' for name, path in paths.items())
    config.write_text(f'backups_dir = "{backups}"\n{sources}[space]\nreserve = "0"\n')
    environ = {"BACKUPD_CONFIG": str(config)}
    ids = [run_here(environ, "backup", "--source", name, "--json").json["generation"] for name in paths]
    point = publish_point(backups, ids)
    for path in paths.values():
        spend(path, 2)
    return PointedApp(config, backups, *paths.values(), point, (ids[0], ids[1]))
