"""A configuration as people and programs may see it: with every secret masked."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr

from backupd.config.schema import Config


def masked(config: Config) -> dict[str, Any]:
    """Return every key with its effective value, fit for JSON; each secret that is set reads "[secret]"."""
    return config.model_dump(mode="json", by_alias=True)


def secrets_of(config: Config) -> tuple[str, ...]:
    """Return every secret in clear, for the mask of the log."""
    return tuple(secrets_in(config))


def to_toml(config: Config) -> str:
    """Return every key that has a value as TOML, each secret as "[secret]"."""
    return "\n".join(_table_lines(masked(config), ())).lstrip("\n") + "\n"


def toml_value(value: object) -> str:
    """Write a text, number, switch or list of these as TOML does."""
    if isinstance(value, str):
        # JSON escapes as TOML does, but for the DEL character, which TOML allows in no string.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return json.dumps(value)


def toml_key(name: str) -> str:
    """Write one part of a key, in quotes where it needs them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else toml_value(name)


def _table_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    values = {name: value for name, value in table.items() if not isinstance(value, Mapping) and value is not None}
    if values and path:
        yield f"\n[{'.'.join(toml_key(part) for part in path)}]"
    for name, value in values.items():
        yield f"{toml_key(name)} = {toml_value(value)}"
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _table_lines(value, (*path, name))


def secrets_in(value: object) -> Iterator[str]:
    """Yield every secret in clear that `value`, a part of the configuration, holds."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for _, below in value:
            yield from secrets_in(below)
    elif isinstance(value, Mapping):
        for below in value.values():
            yield from secrets_in(below)
    elif isinstance(value, tuple):
        for below in value:
            yield from secrets_in(below)
