"""Sections of sources whose path is a directory or a pattern: each database that is found becomes a source of its own.

    [sources.app]
    path = "/app/data"            storage/production.sqlite3 -> the source storage-production

A source that has generations keeps its name for ever, since their manifests have the path of its database. So names do
not change when databases come and go, and one that is gone stays a source, whose backup fails, until it is excluded.
"""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import TypeAdapter, ValidationError

from backupd.config import kinds
from backupd.config.known_databases import Named, known_databases
from backupd.errors import ConfigError
from backupd.formatting import counted, printable
from backupd.model import POINT, Manifest
from backupd.sqlite.discovery import MAX_DATABASES, Search, is_directory
from backupd.system.mounts import RESPONDS_S, responding_stat
from backupd.system.path_patterns import split_pattern

_LONGEST_NAME: Final = 100
_DIGITS: Final = 6
_UNNAMED: Final = "app"
_SUFFIXES: Final = (".db", ".sqlite", ".sqlite3", ".db3")
_UNRESPONSIVE: Final = (
    "check the disk or server of its mount (dmesg); with BACKUPD_BACKUPS_DIR elsewhere, backups can be used"
)

Table = Mapping[str, Any]


class Member(NamedTuple):
    """A database of a set: its path, and its search; or the set itself, where that has found none."""

    path: Path
    search: Search
    warning: str = ""  # why databases of its set may be missing
    known: bool = False  # whether it has generations


@dataclass(frozen=True, slots=True)
class SourceSet:
    """One such section, and what was found at its last search."""

    search: Search
    named: bool  # whether the operator chose the name of the section
    found: frozenset[str] = frozenset()  # relative paths
    real: str = ""  # the directory without links, empty where it could not be searched yet
    too_many_names: bool = False
    odd: frozenset[str] = frozenset()  # relative paths that no key can have

    @property
    def has_too_many(self) -> bool:
        """Whether there are so many databases that the operator has hardly meant them: none but known ones count."""
        return len(self.found) > MAX_DATABASES

    @property
    def is_certain(self) -> bool:
        """Whether all databases are known."""
        return not (self.has_too_many or self.too_many_names)

    @property
    def warning(self) -> str:
        """Why databases may be missing, empty where none is."""
        too_many = self.search.too_many_names if self.too_many_names else ""
        first = printable(min(self.odd, default=""))
        odd = f"{counted(len(self.odd), 'database')} with a name that cannot be used, such as {first}: rename it"
        return "; ".join(filter(None, (too_many, odd if self.odd else "")))

    def databases(self, kept: Collection[str]) -> dict[str, str]:
        """Return the relative path of each by its path: those found, and those of the paths `kept` that it covers."""
        real = self.real or os.fspath(self.search.directory)
        found = {} if self.has_too_many else {f"{real.rstrip(os.sep)}/{at}": at for at in self.found}
        return found | {path: at for path in kept if (at := _below(real, path)) and self.search.covers(at)}

    def again(self) -> Self:
        """Search once more. What was found stays where that is not possible, or where not all could be looked at."""
        contents = self.search.contents() if is_directory(self.search.directory) else None
        if contents is None:
            return self
        odd = frozenset(at for at in contents.databases if not kinds.is_path(str(self.search.directory / at)))
        found = frozenset(contents.databases) - odd
        if not contents.complete:
            found |= {at for at in self.found - found if not _is_gone(self.search.directory / at)}
        return replace(self, found=found, real=contents.real, too_many_names=contents.too_many, odd=odd)


@dataclass(frozen=True, slots=True)
class SourceSets:
    """All such sections of a configuration, and the sources that they are now."""

    sets: tuple[SourceSet, ...]
    backups: Path | None  # the directory of the backups, None where it has to be set
    tables: Mapping[str, Table] = field(repr=False)  # the sections as given, also those of single sources
    reserved: frozenset[str] = frozenset()  # names that no source may have
    members: Mapping[str, Member] = field(default_factory=dict)  # by the name of the source

    @classmethod
    def of(cls, table: Table, unnamed: Collection[str], backups: Path | None) -> Self:
        """Find the databases of all sections of `table` whose path is a directory or a pattern.

        `unnamed` are the sections whose name backupd has made; `backups` is the directory of the backups, None for its
        default. Neither that is searched, nor where a drill places its copy, nor what is under [files]. Raises
        ConfigError where a mount does not respond that may hold the backups as well.
        """
        tables, files = _tables(table, "sources"), _tables(table, "files")
        places = {name: place for name, one in tables.items() if (place := _Place.of(one, backups)) is not None}
        store = backups or _beside({place.parent for place in places.values()})
        known = known_databases(store) if store is not None and any(at.kind != "file" for at in places.values()) else ()
        of_sets = {name: place for name, place in places.items() if place.is_set(known)}
        drill = _tables(table).get("drill", {})
        paths = (store, drill.get("place_at"), *(one.get("path") for one in files.values()))
        without = tuple(Path(path) for path in paths if isinstance(path, str | Path))
        sets = (
            SourceSet(Search(name, at.directory, at.pattern, _exclude(tables[name]), without), name not in unnamed)
            for name, at in of_sets.items()
        )
        return cls.named(tuple(one.again() for one in sets), store, tables, frozenset((POINT, *files)), known)

    @classmethod
    def named(
        cls,
        sets: tuple[SourceSet, ...],
        backups: Path | None,
        tables: Mapping[str, Table],
        reserved: frozenset[str],
        known: Collection[Named],
    ) -> Self:
        """Return the sets with the names of what they have found, see `name_members`."""
        of_sets = {one.search.name for one in sets}
        single = {name: str(one["path"]) for name, one in tables.items() if "path" in one and name not in of_sets}
        members = name_members(sets, known, {*single, *reserved}, {*single.values()})
        return cls(sets, backups, tables, reserved, members)

    def again(self) -> Self:
        """Search once more."""
        sets = tuple(one.again() for one in self.sets)
        if sets == self.sets or self.backups is None:
            return self
        return self.named(sets, self.backups, self.tables, self.reserved, known_databases(self.backups))

    def knowing(self, copies: Iterable[Manifest]) -> Self:
        """Return the sets with databases that have copies elsewhere as well, the newest first: on a new machine."""
        if self.backups is None:
            return self
        known = (*known_databases(self.backups), *(Named(one.origin.path, one.source) for one in copies))
        return self.named(self.sets, self.backups, self.tables, self.reserved, known)

    def empty(self) -> bool:
        """Return whether a set has no database at all."""
        return any(one.path == one.search.path for one in self.members.values())

    def sources(self) -> dict[str, Table]:
        """Return the section of each source: of members what their set has, and on top what their own section has."""
        members = {one.search.name: dict[str, Table]() for one in self.sets}
        own = self._own_sections()
        for name, member in self.members.items():
            table: dict[str, Any] = {**self.tables[member.search.name], **self.tables.get(own.get(name, ""), {})}
            if member.path != member.search.path:
                table["path"] = str(member.path)
                if member.search.exclude:  # else it may be invalid
                    del table["exclude"]
            members[member.search.name][name] = table
        found: dict[str, Table] = {}
        for name, section in self.tables.items():
            if name in members or "path" in section:
                found |= members.get(name, {name: section})
        return found

    def sources_are_those_of(self, other: "SourceSets") -> bool:
        """Return whether names and databases are those of `other`, and so is what may be missing."""
        mine, its = ({name: (at.path, at.warning) for name, at in one.members.items()} for one in (self, other))
        return mine == its

    def databases(self) -> frozenset[Path]:
        """Return the paths of the databases that were found, or have generations."""
        return frozenset(one.path for one in self.members.values() if one.path != one.search.path)

    def lines(self) -> Iterator[str]:
        """Yield a line for each set: what was searched, and how many databases are sources now."""
        for one in self.sets:
            members = [at for at in self.members.values() if at.search == one.search and at.path != one.search.path]
            without = f" without {', '.join(one.search.exclude)}" if one.search.exclude else ""
            yield f"[sources.{one.search.name}] path = {one.search.path}{without}: {counted(len(members), 'database')}"

    def section_of(self, source: str, key: str) -> str:
        """Return the name of the section that sets `key` of a source."""
        own = self._own_sections().get(source)
        if own is not None and key in self.tables[own]:
            return own
        return self.members[source].search.name if source in self.members else source

    def misplaced(self) -> tuple[str, ...]:
        """Return the sections that have `exclude` although their path is that of a file."""
        sections = {one.search.name for one in self.sets}
        return tuple(name for name, table in self.tables.items() if table.get("exclude") and name not in sections)

    def unmatched(self) -> tuple[str, ...]:
        """Return the sections without a path that are about no database of a set."""
        own = {*self._own_sections().values()}
        return tuple(name for name, table in self.tables.items() if "path" not in table and name not in own)

    def _own_sections(self) -> dict[str, str]:
        """Return the sections without a path, by the members that they are about: keys of one database of a set."""
        without_path = {_alike(name): name for name, table in self.tables.items() if "path" not in table}
        return {name: without_path[_alike(name)] for name in self.members if _alike(name) in without_path}


class _Place(NamedTuple):
    """What the path of a section leads to: it begins with a directory."""

    directory: Path
    pattern: str
    kind: Literal["set", "file", "missing"]

    @classmethod
    def of(cls, section: Table, backups: Path | None) -> "_Place | None":
        """Return it, None without an absolute path. Raises ConfigError, see `SourceSets.of`."""
        path = section.get("path")
        if not isinstance(path, str) or not path.startswith(os.sep):
            return None
        seen = is_directory(Path(path))
        if seen is None and backups is None:
            raise ConfigError(f"{path} does not respond within {RESPONDS_S:.0f} s", _UNRESPONSIVE)
        directory, pattern = split_pattern(path)
        if seen is False and os.path.lexists(path):
            return cls(Path(path), "", "file")
        if pattern and not seen:
            return cls(Path(directory), pattern, "set")
        return cls(Path(path), "", "missing" if seen is False and not section.get("exclude") else "set")

    @property
    def parent(self) -> Path:
        """The directory beside whose databases the backups are by default."""
        return self.directory if self.kind == "set" else self.directory.parent

    def is_set(self, known: Collection[Named]) -> bool:
        """Whether it is a directory or a pattern; a missing one is, below which databases were."""
        return self.kind == "set" or any(_below(str(self.directory), one.path) for one in known)


def _beside(directories: Collection[Path]) -> Path | None:
    """Return the default of `backups_dir`: `backups` in the directory of all sources; None where they have several."""
    return next(iter(directories)) / "backups" if len(directories) == 1 else None


def section_name(path: str) -> str:
    """Return the name of the section for a file, a directory or a pattern; empty for a file whose name gives none."""
    directory, pattern = split_pattern(path)
    if pattern and is_directory(Path(path)) is not None and os.path.lexists(path):
        directory, pattern = path, ""
    name = _stem_of(directory)
    return name or (_UNNAMED if pattern or is_directory(Path(path)) else "")


def _stem_of(path: str) -> str:
    """Return the name of a source after the last part of a path, without its suffix; it may be empty."""
    return _plain(Path(path).stem)[:_LONGEST_NAME]


def name_members(
    sets: Collection[SourceSet], known: Collection[Named], taken: Collection[str], single: Collection[str] = ()
) -> dict[str, Member]:
    """Name each database of `sets`; those that have generations keep their name (`known`, the newest first).

    Else the only one of a set has the name that the operator chose, or that of its file; of several, each has that of
    its relative path, the first where two would have one name, and the others a digest as well. None has one of
    `taken`.
    Databases at the paths `single` have a section of their own.
    """
    names, seen = _Names(taken), set[str]()
    kept = {one.path: one.source for one in reversed([*known])}
    waiting: list[tuple[str, Member, str]] = []
    for one in sets:
        databases = one.databases(kept)
        alone = len(databases) == 1 and one.is_certain
        if not databases or one.has_too_many:
            waiting.append((one.search.name, Member(one.search.path, one.search), ""))
        for path, at in sorted(databases.items()):
            member = Member(one.search.directory / at, one.search, one.warning, path in kept)
            if path in seen or str(member.path) in single:
                continue
            seen.add(path)
            if names.is_free(kept.get(path, "")):
                names.give(kept[path], member, at)
            elif alone:
                waiting.append((one.search.name if one.named else _stem_of(at), member, at))
            else:
                waiting.append((_name_of(at), member, at))
    for name, member, at in waiting:
        names.give(name, member, at)
    return names.given


class _Names:
    """Names of sources, each given once; the environment does not tell upper from lower case."""

    def __init__(self, taken: Collection[str]) -> None:
        self._taken = {name.lower() for name in taken}
        self.given: dict[str, Member] = {}

    def is_free(self, name: str) -> bool:
        return bool(name) and name.lower() not in self._taken

    def give(self, name: str, member: Member, relative: str) -> None:
        """Give `member` this name, or one with as much of the digest of its relative path as makes it free."""
        digest = hashlib.sha256(os.fsencode(relative)).hexdigest()
        longer = (f"{name[: _LONGEST_NAME - 1 - most]}-{digest[:most]}".lstrip("-") for most in range(_DIGITS, 65))
        own = next(one for one in (name, *longer) if self.is_free(one) and len(one) <= _LONGEST_NAME)
        self._taken.add(own.lower())
        self.given[own] = member


def _is_gone(path: Path) -> bool:
    try:
        responding_stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _below(directory: str, path: str) -> str:
    """Return the relative path of what is below `directory`, empty for what is somewhere else."""
    above = f"{directory.rstrip('/')}/"
    return path.removeprefix(above) if path.startswith(above) else ""


def _name_of(relative: str) -> str:
    """Return the name of a source after a relative path without a usual suffix; it may be empty, or too long."""
    suffix = next((one for one in _SUFFIXES if relative.lower().endswith(one)), "")
    return _plain(relative[: len(relative) - len(suffix)])


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", text).lstrip("._-")


def _alike(name: str) -> str:
    """Return `name` as an environment variable spells it."""
    return re.sub("[-.]", "_", name.lower())


def _tables(table: Table, section: str = "") -> dict[str, Table]:
    """Return the tables in a section, those at the top for none."""
    found = table.get(section) if section else table
    return {name: one for name, one in found.items() if isinstance(one, Mapping)} if isinstance(found, Mapping) else {}


def _exclude(section: Table) -> tuple[str, ...]:
    """Return the patterns under `exclude`, none where they are invalid, which is found later."""
    try:
        return TypeAdapter[tuple[str, ...]](kinds.Patterns).validate_python(section.get("exclude", ()))
    except ValidationError:
        return ()
