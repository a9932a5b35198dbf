"""TOML, environment and `…_FILE` secrets in; one frozen, validated Config out."""

from backupd.config.digest import config_digest
from backupd.config.load import load_config
from backupd.config.render import masked, secrets_of, to_toml, toml_key, toml_value
from backupd.config.schema import Config
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

__all__ = [
    "AppSection",
    "Config",
    "DrillSection",
    "HealthSection",
    "HttpSection",
    "LockSection",
    "NotifySection",
    "PackSection",
    "ReplicaSection",
    "RetentionSection",
    "ScheduleSection",
    "ShrinkGuardSection",
    "SourceSection",
    "SpaceSection",
    "config_digest",
    "load_config",
    "masked",
    "secrets_of",
    "to_toml",
    "toml_key",
    "toml_value",
]
