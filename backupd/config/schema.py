"""The one schema of the configuration: validation, environment names and the example come from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationInfo, field_validator

from backupd.config import kinds
from backupd.config.rehearsal import refuse_misfit
from backupd.config.sections import (
    AppSection,
    DrillSection,
    HealthSection,
    HttpSection,
    LockSection,
    NotifySection,
    PackSection,
    ReplicaSection,
    RetentionSection,
    ScheduleSection,
    ShrinkGuardSection,
    SourceSection,
    SpaceSection,
)
from backupd.config.targets import refuse_shared_targets
from backupd.model import RetentionPolicy
from backupd.pings.monitors import require_ping_names
from backupd.sqlite.database_files import SIDE_SUFFIXES

ENVIRONMENT = "environment"

Sources = Annotated[kinds.Named[SourceSection], Field(min_length=1)]


class Config(BaseModel):
    """The effective configuration: validated, frozen, every path absolute.

    Made by `load_config` only; by itself it reads neither files nor the environment.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,  # a default, too, must fit the other sections
    )

    sources: Sources
    backups_dir: kinds.FilePath = Field(
        description="Directory that keeps the generations; default: backups/ beside the database.",
        examples=["/app/data/backups"],
    )
    retention: RetentionSection = RetentionSection()
    schedule: ScheduleSection = ScheduleSection()
    space: SpaceSection = SpaceSection()
    shrink_guard: ShrinkGuardSection = ShrinkGuardSection()
    lock: LockSection = LockSection()
    pack: PackSection = PackSection()
    replicas: kinds.NamedReplicas[ReplicaSection] = {}
    drill: DrillSection = DrillSection()
    http: HttpSection = HttpSection()
    health: HealthSection = HealthSection()
    notify: NotifySection = NotifySection()
    app: AppSection = AppSection()
    pings: kinds.Named[kinds.PingUrl] = Field(
        {},
        description="URLs of outside monitors (healthchecks.io, Uptime Kuma) that hear when a run begins, succeeds and "
        "fails: by task (backup, replicate, drill, prune, scrub), or by task and what it is of (backup-tasks). daily "
        "hears once a day, only while all proofs are within their limits. A kind before the URL, uptime-kuma: or "
        "healthchecks:, helps where its shape does not tell.",
        examples=["https://hc-ping.com/0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"],
    )

    _origin: str = PrivateAttr(ENVIRONMENT)
    _zone_doubt: str = PrivateAttr("")
    _note: str = PrivateAttr("")

    @field_validator("sources")
    @classmethod
    def _are_different_databases(cls, sources: Mapping[str, SourceSection]) -> Mapping[str, SourceSection]:
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
                raise ValueError(f"is the database of source {name}: backups need a directory of their own")
            if str(directory) in (f"{source.path}{suffix}" for suffix in SIDE_SUFFIXES):
                raise ValueError(f"is where SQLite puts a side file of source {name}: give backups another name")
        return directory

    @field_validator("replicas")
    @classmethod
    def _are_different_directories(
        cls, replicas: Mapping[str, ReplicaSection], info: ValidationInfo
    ) -> Mapping[str, ReplicaSection]:
        refuse_shared_targets(replicas, info.data.get("backups_dir"))
        return replicas

    @field_validator("drill")
    @classmethod
    def _fits_the_rest(cls, drill: DrillSection, info: ValidationInfo) -> DrillSection:
        if "sources" in info.data:
            refuse_misfit(drill, info.data["sources"], info.data.get("replicas"), info.data.get("backups_dir"))
        return drill

    @field_validator("pings")
    @classmethod
    def _are_of_runs(cls, pings: Mapping[str, SecretStr], info: ValidationInfo) -> Mapping[str, SecretStr]:
        if "sources" in info.data and "replicas" in info.data:
            require_ping_names(pings, info.data["sources"], info.data["replicas"])
        return pings

    @classmethod
    def of(cls, table: Mapping[str, Any], origin: str, timezone_warning: str = "", note: str = "") -> Self:
        """Validate `table`, nested as a TOML file is; `timezone_warning` is a warning where it sets no time zone.

        Raises pydantic's ValidationError.
        """
        config = cls(**table)
        config._origin, config._note = origin, note
        if "timezone" not in config.schedule.model_fields_set:
            config._zone_doubt = timezone_warning
        return config

    @property
    def origin(self) -> str:
        """The file that was read, or "environment" where there is none."""
        return self._origin

    @property
    def timezone_warning(self) -> str:
        """Why the time zone is UTC though TZ asks for another, empty where it does not."""
        return self._zone_doubt

    @property
    def note(self) -> str:
        """What of the environment was ignored, and why; empty where nothing was."""
        return self._note

    def policy(self) -> RetentionPolicy:
        """Return how many generations stay in the directory of backups."""
        return self.retention.policy()
