"""The names of the files that make up a database."""

from pathlib import Path

# https://sqlite.org/tempfiles.html: what lies there under these names SQLite takes for a part of the database.
SIDE_SUFFIXES = ("-wal", "-shm", "-journal")


def side_files(database: Path) -> tuple[Path, ...]:
    """Return where WAL, shared memory and rollback journal of `database` would be."""
    return tuple(Path(f"{database}{suffix}") for suffix in SIDE_SUFFIXES)


def files_of_database(database: Path) -> frozenset[Path]:
    """Return the path of `database`, and those of its side files."""
    return frozenset((database, *side_files(database)))


def same_place(one: Path, other: Path) -> bool:
    """Tell whether two databases would share a file, whatever links or mounts lead there. Raises OSError."""
    first, second = one.parent, other.parent
    if not (first.exists() and second.exists() and first.samefile(second)):
        return False
    names = (frozenset(path.name for path in files_of_database(each)) for each in (one, other))
    return bool(next(names) & next(names))
