"""The schema of the configuration and the flat list of its keys: validation, environment names and the example."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from backupd.config import kinds, sections
from backupd.config.gate import GateSection
from backupd.config.ownership import exposure
from backupd.config.source_sets import Member, SourceSets
from backupd.errors import ConfigError
from backupd.model import LOCAL_STORE
from backupd.pings import PingHelper, require_ping_names, unknown_ping_names
from backupd.runbook import DOCS_URL
from backupd.sqlite.database_files import SIDE_SUFFIXES, files_of_database
from backupd.stores.sftp.url import Address, DirectoryAddress, parse_address

ANY = "*"
ENVIRONMENT = "environment"
_SEVERAL = 2

KeyPath = tuple[str, ...]


class Config(sections.Table):
    """The effective configuration: validated, frozen, every path absolute.

    Made by `load_config` only; by itself it reads neither files nor the environment.
    """

    model_config = ConfigDict(validate_default=True)  # a default must fit the other sections too

    sources: kinds.NamedSources[sections.SourceSection]  # empty for a gate alone, see `load_config`
    backups_dir: kinds.FilePath = Field(
        description="Directory that keeps the generations; default: backups/ beside the database.",
        examples=["/app/data/backups"],
    )
    docs_url: kinds.ServerUrl = Field(
        DOCS_URL,
        description="Address of the directory that contains runbook.md and runbook.es.md, to which the status page and "
        "messages link: your own copy of docs/, if that of the project cannot be reached.",
    )
    files: kinds.NamedSources[sections.FilesSection] = Field({})
    retention: sections.RetentionSection = sections.RetentionSection()
    schedule: sections.ScheduleSection = sections.ScheduleSection()
    log: sections.LogSection = sections.LogSection()
    space: sections.SpaceSection = sections.SpaceSection()
    shrink_guard: sections.ShrinkGuardSection = sections.ShrinkGuardSection()
    lock: sections.LockSection = sections.LockSection()
    pack: sections.PackSection = sections.PackSection()
    replicas: kinds.NamedReplicas[sections.ReplicaSection] = Field({})
    drill: sections.DrillSection = sections.DrillSection()
    hooks: sections.HooksSection = sections.HooksSection()
    http: sections.HttpSection = sections.HttpSection()
    health: sections.HealthSection = sections.HealthSection()
    notify: sections.NotifySection = sections.NotifySection()
    app: sections.AppSection = sections.AppSection()
    pings: kinds.Named[kinds.PingUrl] = Field(
        {},
        description="URLs of outside monitors (healthchecks.io, Uptime Kuma), called when a run begins, succeeds and "
        "fails; by task (backup, replicate, drill, prune, scrub), or by task and its source or replica (backup-tasks). "
        "daily is called once a day, only while everything is up to date. Where the URL alone does not show the kind "
        "of monitor, write uptime-kuma: or healthchecks: before it.",
        examples=["https://hc-ping.com/0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"],
    )

    gate_dir: kinds.FilePath = Field(
        Path("/var/lib/backupd/gate"),
        description="Directory in which the deploy gate keeps its last deploys, the output of tests and its log.",
        examples=["/var/lib/backupd/gate"],
    )
    gate: kinds.Named[GateSection] = Field({})

    _origin: str = PrivateAttr(ENVIRONMENT)
    _secret_files: tuple[str, ...] = PrivateAttr(())
    _timezone_warning: str = PrivateAttr("")
    _note: str = PrivateAttr("")
    _skipped: str = PrivateAttr("")
    _digest_of_secrets: str = PrivateAttr("")
    _ping_helper: PingHelper | None = PrivateAttr(None)
    _source_sets: SourceSets | None = PrivateAttr(None)

    @field_validator("sources")
    @classmethod
    def _are_different_databases(
        cls, sources: Mapping[str, sections.SourceSection]
    ) -> Mapping[str, sections.SourceSection]:
        named: dict[Path, str] = {}
        for name, source in sources.items():
            other = named.setdefault(source.path, name)
            if other != name:
                raise ValueError(f"{other} and {name} are the same database {source.path}: keep one of them")
        return sources

    @field_validator("backups_dir")
    @classmethod
    def _is_no_database(cls, directory: Path, info: ValidationInfo) -> Path:
        for name, source in info.data.get("sources", {}).items():
            if source.path == directory:
                raise ValueError(f"is the database of source {name}: set a separate directory")
            if str(directory) in (f"{source.path}{suffix}" for suffix in SIDE_SUFFIXES):
                raise ValueError(f"is the path of a side file of source {name}: set a separate directory")
        return directory

    @field_validator("files")
    @classmethod
    def _are_separate_directories(
        cls, files: Mapping[str, sections.FilesSection], info: ValidationInfo
    ) -> Mapping[str, sections.FilesSection]:
        """Refuse names of sources, files in two sets, and backups or a database as a set; skip invalid sections."""
        sources, backups_dir = info.data.get("sources"), info.data.get("backups_dir")
        for name, section in files.items():
            for other, its in files.items():
                if other != name and section.path in (its.path, *its.path.parents):
                    raise ValueError(f"{other} is in the directory of {name}, {section.path}: keep one of them")
            if backups_dir in (section.path, *section.path.parents):
                raise ValueError(f"{name}: {section.path} is in backups_dir: set another directory")
            if sources is not None:
                _require_fits(name, section, sources, others_may_come=bool(info.context))
        return files

    @field_validator("replicas")
    @classmethod
    def _are_different_directories(
        cls, replicas: Mapping[str, sections.ReplicaSection], info: ValidationInfo
    ) -> Mapping[str, sections.ReplicaSection]:
        """Refuse one directory twice, or `backups_dir`, by the URLs alone; opening a replica reports an invalid URL."""
        backups_dir = info.data.get("backups_dir")
        named: dict[Address, str] = {}
        for name, replica in replicas.items():
            with suppress(ConfigError):
                address = _normal(parse_address(replica.url))
                other = named.setdefault(address, name)
                if other != name:
                    raise ValueError(f"{other} and {name} have the same directory {replica.url}: give each its own")
                if backups_dir is not None and address == _normal(DirectoryAddress(backups_dir)):
                    raise ValueError(f"{name} is backups_dir itself: set another directory, on another disk")
        return replicas

    @field_validator("drill")
    @classmethod
    def _fits_the_rest(cls, drill: sections.DrillSection, info: ValidationInfo) -> sections.DrillSection:
        """Refuse an unknown source or store, and a place that would overwrite files; skip sections that are invalid."""
        sources, replicas = info.data.get("sources"), info.data.get("replicas")
        if sources is None:
            return drill
        if replicas is not None and drill.from_ not in (None, LOCAL_STORE, *replicas):
            known = ", ".join((LOCAL_STORE, *replicas))
            raise ValueError(f"from: unknown store {drill.from_!r}; known stores: {known}")
        if drill.source is not None and drill.source not in sources and not info.context:
            raise ValueError(f"source: unknown source {drill.source!r}; known sources: {', '.join(sources)}")
        if place := drill.place_at:
            for name, source in sources.items():
                if files_of_database(place) & files_of_database(source.path):
                    raise ValueError(f"place_at: {place} is the database of source {name} or one of its side files")
            if info.data.get("backups_dir") in place.parents:
                raise ValueError(f"place_at: {place} is inside backups_dir: set a path outside it")
        return drill

    @field_validator("pings")
    @classmethod
    def _are_of_runs(cls, pings: Mapping[str, SecretStr], info: ValidationInfo) -> Mapping[str, SecretStr]:
        if "sources" in info.data and "replicas" in info.data:
            sources = (*info.data["sources"], *info.data.get("files", ()))
            require_ping_names(pings, sources, info.data["replicas"], others_may_come=bool(info.context))
        return pings

    @classmethod
    def of(
        cls,
        table: Mapping[str, Any],
        origin: str,
        timezone_warning: str = "",
        note: str = "",
        skipped: str = "",
        *,
        others_may_come: bool = False,
    ) -> Self:
        """Validate `table`, nested as a TOML file is; `timezone_warning` applies where it sets no time zone.

        Where databases are searched, `others_may_come`, or are not there yet: names of unknown sources are no errors.
        Raises pydantic's ValidationError.
        """
        config = cls.model_validate(table, context=others_may_come)
        config._origin, config._note, config._skipped = origin, note, skipped  # noqa: SLF001 - of its own class
        if "timezone" not in config.schedule.model_fields_set:
            config._timezone_warning = timezone_warning  # noqa: SLF001 - of its own class
        return config

    @property
    def origin(self) -> str:
        """The file that was read, or "environment" where there is none."""
        return self._origin

    @property
    def timezone_warning(self) -> str:
        """Why the time zone is UTC although TZ is set, empty where TZ is unset or understood."""
        return self._timezone_warning

    @property
    def digest_of_secrets(self) -> str:
        """The digest of the secrets of replicas that were withheld from this process; empty where none were."""
        return self._digest_of_secrets

    def with_digest_of_secrets(self, digest: str) -> Self:
        """Return a copy for a process from which secrets are withheld."""
        copy = self.model_copy()
        copy._digest_of_secrets = digest  # noqa: SLF001 - of its own class
        return copy

    @property
    def ping_helper(self) -> PingHelper | None:
        """The process that pings for this one, which was not given the URLs; None where there is none."""
        return self._ping_helper

    def with_ping_helper(self, helper: PingHelper) -> Self:
        """Return a copy for a process that pings by way of `helper`."""
        copy = self.model_copy()
        copy._ping_helper = helper  # noqa: SLF001 - of its own class
        return copy

    @property
    def source_sets(self) -> SourceSets | None:
        """The sections whose path is a directory or a pattern, and what was found there; None where there is none."""
        return self._source_sets

    def with_source_sets(self, found: SourceSets) -> Self:
        """Return a copy whose sources are those of `found`; the same where it has no sets."""
        if not found.sets:
            return self
        sources = {name: sections.SourceSection(**table) for name, table in found.sources().items()}
        copy = self.model_copy(update={"sources": sources})
        copy._source_sets = found  # noqa: SLF001 - of its own class
        return copy

    @property
    def unclear_drill(self) -> str:
        """Why it is not clear on the database of which source a drill checks the app; empty where it is, or not."""
        source, known = self.drill.source, ", ".join(self.sources)
        if not self.drill.checks_app or source in self.sources or (source is None and len(self.sources) < _SEVERAL):
            return ""
        if source is None:
            return f"source: is required, because there are several sources: {known}"
        return f"source: unknown source {source!r}; known sources: {known}"

    @property
    def unknown_names(self) -> tuple[str, ...]:
        """The keys that name a source which is none now: of a database that is not there, or misspelled."""
        known = (*self.sources, *self.files)
        pings = unknown_ping_names(self.pings, known, self.replicas)
        optional = len(self.sources) == 1
        files = (
            f"files.{name}.with"
            for name, section in self.files.items()
            if section.with_ not in self.sources and (section.with_ or (section.query and not optional))
        )
        return (*(f"pings.{name}" for name in pings), *files)

    def member(self, source: str) -> Member | None:
        """Return how a source was found, None for a single file."""
        return self._source_sets.members.get(source) if self._source_sets else None

    @property
    def secret_files(self) -> tuple[str, ...]:
        """The files from which secrets were read: those of variables, and that of the configuration if it has some."""
        return self._secret_files

    def with_secret_files(self, files: tuple[str, ...]) -> Self:
        """Return a copy whose secrets were read from `files`."""
        copy = self.model_copy()
        copy._secret_files = files  # noqa: SLF001 - of its own class
        return copy

    @property
    def note(self) -> str:
        """Which variables of the environment were ignored, and why; empty for none."""
        return self._note

    @property
    def skipped(self) -> str:
        """Why a file in the working directory was not read; empty where there is none."""
        return self._skipped

    @property
    def exposure(self) -> str:
        """Who else can write the file that was read, empty where it is well protected or there is none."""
        databases = {name: source.path for name, source in self.sources.items()}
        return "" if self._origin == ENVIRONMENT else exposure(Path(self._origin), databases)


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its path from the root, with `*` for a name that the operator chooses, and what it contains."""

    path: KeyPath
    is_secret: bool
    is_file: bool

    def matches(self, path: KeyPath) -> bool:
        """Return whether `path` is this key, with any chosen names in it."""
        return len(path) == len(self.path) and self.is_under(path)

    def is_under(self, path: KeyPath) -> bool:
        """Return whether this key is `path`, or below it."""
        return len(path) <= len(self.path) and all(
            part and own in (ANY, part) for part, own in zip(path, self.path, strict=False)
        )


@cache
def all_keys() -> tuple[Key, ...]:
    """Return every key of the schema, in its order."""
    return tuple(_keys(Config, ()))


def key_at(path: KeyPath) -> Key | None:
    """Return the key at `path`, `None` where the schema has none."""
    return next((key for key in all_keys() if key.matches(path)), None)


def fields_of(table: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of `table` by the names that an operator writes."""
    return {field.alias or name: field for name, field in table.model_fields.items()}


def table_of(annotation: object) -> type[BaseModel] | None:
    """Return the section that a field of this annotation contains, `None` where it contains a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for part in get_args(annotation) if (table := table_of(part))), None)


def is_named(annotation: object) -> bool:
    """Return whether the field maps names that the operator chooses."""
    return get_origin(annotation) is Mapping


def _require_fits(
    name: str,
    section: sections.FilesSection,
    sources: Mapping[str, sections.SourceSection],
    *,
    others_may_come: bool,
) -> None:
    """Raise ValueError where set of files `name` contradicts `sources`."""
    if same := [other for other in sources if other.lower() == name.lower()]:
        raise ValueError(f"{name}: {same[0]} is a source in [sources] already: rename one")
    for other, source in sources.items():
        if str(section.path) in (f"{source.path}{suffix}" for suffix in SIDE_SUFFIXES):
            raise ValueError(f"{name}: {section.path} is a side file of source {other}: set a directory")
    if others_may_come:
        return
    if section.with_ is not None and section.with_ not in sources:
        raise ValueError(f"{name}: with: unknown source {section.with_!r}; known sources: {', '.join(sources)}")
    if section.query is not None and section.with_ is None and len(sources) != 1:
        raise ValueError(f"{name}: query: needs with, the source whose database it reads: {', '.join(sources)}")


def _keys(table: type[BaseModel], above: KeyPath) -> Iterator[Key]:
    for name, field in fields_of(table).items():
        path = (*above, name, ANY) if is_named(field.annotation) else (*above, name)
        below = table_of(field.annotation)
        if below is not None:
            yield from _keys(below, path)
        else:
            yield Key(path, _mentions(field.annotation, SecretStr), _mentions(field.annotation, Path))


def _mentions(annotation: Any, kind: type) -> bool:  # noqa: ANN401 - annotations are of any type
    return annotation is kind or any(_mentions(part, kind) for part in get_args(annotation))


def _normal(address: Address) -> Address:
    return DirectoryAddress(Path(os.path.normpath(address.path))) if isinstance(address, DirectoryAddress) else address
