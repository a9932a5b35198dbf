"""TOML, environment and `…_FILE` secrets in; one frozen, validated Config out."""

from backupd.config.load import load_config
from backupd.config.render import config_digest, mask_of, masked, secrets_of, to_toml, toml_key, toml_value
from backupd.config.schema import Config
from backupd.config.sections import DrillSection, ReplicaSection

__all__ = [
    "Config",
    "DrillSection",
    "ReplicaSection",
    "config_digest",
    "load_config",
    "mask_of",
    "masked",
    "secrets_of",
    "to_toml",
    "toml_key",
    "toml_value",
]
