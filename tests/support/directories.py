"""Directories that tests look into, and mounts that they make."""

import hashlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.history import kept_files
from support.daemon import wait_until


def rows(path: Path, query: str) -> list[Any]:
    """Query a database that no other process has open, and close it."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def contents(directory: Path) -> dict[str, bytes]:
    """Return the bytes of every file; those of `-shm` are locks, and not compared."""
    return {p.name: b"" if p.name.endswith("-shm") else p.read_bytes() for p in directory.iterdir() if p.is_file()}


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def beside(database: Path) -> set[str]:
    """Return the names of all that lies beside a database."""
    return {path.name for path in database.parent.iterdir()} - {database.name}


def state(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return owner, group, mode and content of every file."""
    bytes_of = contents(directory)
    return {p.name: (s.st_uid, s.st_gid, s.st_mode, bytes_of[p.name]) for p in directory.iterdir() if (s := p.stat())}


def kept_databases(target: Path) -> tuple[Path, ...]:
    """Return the old databases that restores to `target` kept, oldest first."""
    with DatabasePlace.open(target.resolve()) as place:
        return tuple(one.path for one in kept_files(place) if one.path in one.files)


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """Make `directory` a file system of `size` (`1m`) while the block runs."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


@contextmanager
def read_only(directory: Path) -> Iterator[Path]:
    """Mount `directory` read-only elsewhere, as a volume with `:ro` is."""
    mount = directory.parent / "read-only"
    mount.mkdir()
    subprocess.run(["mount", "--bind", directory, mount], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", mount], check=True)
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


@contextmanager
def mounted(source: Path, point: Path) -> Iterator[Path]:
    """Mount a file or a directory at `point`, which is made, as `docker run -v source:point` does."""
    if source.is_dir():
        point.mkdir()
    else:
        point.touch()
    subprocess.run(["mount", "--bind", source, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@contextmanager
def hidden(directory: Path) -> Iterator[None]:
    """Let nothing of `directory` be seen while the block runs."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


@contextmanager
def through_fuse(directory: Path, *options: str) -> Iterator[Path]:
    """Mount `directory` elsewhere through bindfs(1), as a share of another machine is."""
    mount = directory.with_name(f"{directory.name}-through-fuse")
    mount.mkdir()
    subprocess.run(["bindfs", "-o", "allow_other", *options, directory, mount], check=True)
    try:
        yield mount
    finally:
        wait_until(  # the server of a share on top of it lets go of it only a moment after it was unmounted
            lambda: subprocess.run(["umount", mount], check=False, capture_output=True).returncode == 0, "unmounting"
        )


@contextmanager
def two_files(directory: Path) -> Iterator[tuple[int, int]]:
    """Make `copy` and `copy-journal`, and open them for writing while the block runs."""
    descriptors = [os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL) for name in ("copy", "copy-journal")]
    try:
        yield descriptors[0], descriptors[1]
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def fill(directory: Path) -> Path:
    """Leave no room on the file system of `directory`; return the file that took it."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while stream.write(b"\0" * size):
                    pass
            except OSError:
                continue
    return filler


def identity_of(path: Path) -> tuple[int, int]:
    """Return device and inode of a file."""
    state = path.stat()
    return state.st_dev, state.st_ino
