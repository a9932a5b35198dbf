"""TOML, environment and `…_FILE` secrets in; one frozen, validated Config out."""

from backupd.config.gate import GateSection
from backupd.config.kinds import WithheldSecret
from backupd.config.load import load_config, refuse_gate_alone
from backupd.config.render import (
    ALL_SECRETS,
    REPLICAS,
    config_digest,
    mask_of,
    masked,
    secrets_of,
    to_toml,
    toml_key,
    toml_value,
    withhold_secrets,
)
from backupd.config.schema import Config, KeyPath
from backupd.config.sections import DrillSection, ReplicaSection
from backupd.config.source_sets import SourceSets

__all__ = [
    "ALL_SECRETS",
    "REPLICAS",
    "Config",
    "DrillSection",
    "GateSection",
    "KeyPath",
    "ReplicaSection",
    "SourceSets",
    "WithheldSecret",
    "config_digest",
    "load_config",
    "mask_of",
    "masked",
    "refuse_gate_alone",
    "secrets_of",
    "to_toml",
    "toml_key",
    "toml_value",
    "withhold_secrets",
]
