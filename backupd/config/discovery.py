"""A source that is named by a directory: the one database below it, which stays the source once it has generations."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from backupd.archive.manifest import decode_manifest
from backupd.errors import ConfigError, ManifestInvalid
from backupd.model import MANIFEST_MAX_BYTES, MANIFEST_SUFFIX, is_generation_id
from backupd.sqlite.discovery import app_files, find_database, is_directory
from backupd.system.directory import Directory
from backupd.system.mounts import RESPONDS_S
from backupd.system.owners import rights_of_owner

_MOST_MANIFESTS: Final = 100


@dataclass(frozen=True, slots=True)
class Discovery:
    """The directory that the only source names, and its database; the directory itself while that is not found.

    `named` is whether the operator named the source; else its name comes from the file.
    """

    directory: Path
    source: str
    database: Path
    named: bool = True

    @classmethod
    def of(cls, table: Mapping[str, Any], found_in: Path | None, backups: Path | None) -> Self | None:
        """Return the discovery of the only source in `table`, whose name comes from the file if it was `found_in` one.

        None where it names no directory, or where there are several sources. Raises ConfigError.
        """
        sources = table.get("sources")
        if not isinstance(sources, Mapping) or len(sources) != 1:
            return None
        ((name, source),) = sources.items()
        path = source.get("path") if isinstance(source, Mapping) else None
        if not isinstance(path, str) or not Path(path).is_absolute():
            return None
        if found_in is not None:
            return cls(found_in, name, Path(path), named=False)
        database = database_below(Path(path), backups)
        return cls(Path(path), name, database) if database else None

    @property
    def complete(self) -> bool:
        """Whether the database was found."""
        return self.database != self.directory

    def again(self) -> Self:
        """Look once more, where the database was not found yet."""
        database = None if self.complete else find_database(self.directory)
        if database is None:
            return self
        return replace(self, database=database, source=self.source if self.named else source_name(database))


def database_below(directory: Path, backups: Path | None) -> Path | None:
    """Return the database below `directory` that is backed up; None where that is a file or missing.

    It is the only one; else, or where that has no generation in `backups` (by default those in `directory`) and another
    one below has, the one of the newest generation: a choice does not change when files come and go. It is `directory`
    itself where none can be chosen, also because its mount does not respond: that is looked at again. Raises
    ConfigError where the backups are on that mount too.
    """
    seen = is_directory(directory)
    if seen is None and backups is None:
        what = f"{directory} does not respond within {RESPONDS_S:.0f} s"
        hint = "check the disk or server of its mount (dmesg); with BACKUPD_BACKUPS_DIR elsewhere, backups can be used"
        raise ConfigError(what, hint)
    if seen is False:
        return None
    files = app_files(directory) if seen else None
    found, real = (files.only, files.real) if files else (None, os.fspath(directory))
    before = tuple(_databases_of(backups or directory / "backups", Path(real)))
    if before and (found is None or real / found.relative_to(directory) not in before):
        return directory / before[0].relative_to(real)
    return found or directory


def _databases_of(backups: Path, above: Path) -> Iterator[Path]:
    """Yield the databases below `above` whose generations are in `backups`, that of the newest one first."""
    with suppress(OSError), rights_of_owner(backups.stat(), readable=os.access(backups, os.R_OK)):
        with Directory.open(backups) as store:
            names = (name.removesuffix(MANIFEST_SUFFIX) for name in store.names() if name.endswith(MANIFEST_SUFFIX))
            ids = sorted(filter(is_generation_id, names), key=lambda one: one.rsplit("-", 2)[1:], reverse=True)
            found = [path for one in ids[:_MOST_MANIFESTS] if (path := _origin(store, one)) and above in path.parents]
        yield from found


def _origin(store: Directory, generation_id: str) -> Path | None:
    try:
        raw = store.read(f"{generation_id}{MANIFEST_SUFFIX}", MANIFEST_MAX_BYTES)
        path = decode_manifest(raw, generation_id).origin.path
    except (OSError, ManifestInvalid):
        return None
    return Path(path) if path == os.path.normpath(path) else None


def source_name(database: Path) -> str:
    """Return the name of a source after the file of its database; it may be empty."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", database.stem).lstrip("._-")[:100]
