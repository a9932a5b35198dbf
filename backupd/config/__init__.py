"""TOML, environment and `…_FILE` secrets in; one frozen, validated Config out."""

from backupd.config.digest import config_digest
from backupd.config.load import load_config
from backupd.config.render import masked, secrets_of, to_toml, toml_key, toml_value
from backupd.config.schema import Config
from backupd.config.sections import (
    App,
    Drill,
    Health,
    Http,
    Lock,
    Notify,
    Pack,
    Replica,
    Retention,
    Schedule,
    ShrinkGuard,
    Source,
    Space,
)

__all__ = [
    "App",
    "Config",
    "Drill",
    "Health",
    "Http",
    "Lock",
    "Notify",
    "Pack",
    "Replica",
    "Retention",
    "Schedule",
    "ShrinkGuard",
    "Source",
    "Space",
    "config_digest",
    "load_config",
    "masked",
    "secrets_of",
    "to_toml",
    "toml_key",
    "toml_value",
]
