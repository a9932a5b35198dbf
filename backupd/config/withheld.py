"""The configuration of a process that gets none of the secrets, or few of them."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from backupd.config.kinds import WithheldSecret
from backupd.config.render import digest_of_secrets
from backupd.config.schema import Config, KeyPath

ALL_SECRETS: Final[tuple[KeyPath, ...]] = ((),)
REPLICAS: Final = "replicas"


def withhold_secrets(config: Config, given: Iterable[KeyPath]) -> Config:
    """Return `config` without its secrets, but for those at or below the paths `given`; `(REPLICAS, NAME)` is one."""
    narrowed = config.model_copy(update=_changes(config, (), tuple(given)))
    return narrowed.with_digest_of_secrets(digest_of_secrets(config))


def _changes(table: BaseModel, above: KeyPath, given: tuple[KeyPath, ...]) -> dict[str, Any]:
    values = ((name, value, _without(value, (*above, name), given)) for name, value in table)
    return {name: new for name, value, new in values if new is not value}


def _without(value: Any, path: KeyPath, given: tuple[KeyPath, ...]) -> Any:  # noqa: ANN401 - values are of any type
    if any(path[: len(known)] == known for known in given):
        return value
    if isinstance(value, SecretStr):
        return WithheldSecret()
    if isinstance(value, BaseModel):
        changes = _changes(value, path, given)
        return value.model_copy(update=changes) if changes else value
    if isinstance(value, Mapping):
        return {name: _without(below, (*path, name), given) for name, below in value.items()}
    if isinstance(value, tuple):
        return tuple(_without(item, path, given) for item in value)
    return value
