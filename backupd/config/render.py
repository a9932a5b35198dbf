"""A configuration without its secrets: as JSON, as TOML, as a digest, and for a process that needs few of them."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from backupd import __version__
from backupd.config.kinds import WithheldSecret
from backupd.config.schema import Config, KeyPath
from backupd.masking import Mask
from backupd.system.mounts import responding_stat
from backupd.system.small_file import read_small_file

ALL_SECRETS: Final[tuple[KeyPath, ...]] = ((),)
REPLICAS: Final = "replicas"
_WITHOUT_EFFECT_ON_RUNS: Final = {
    *("docs_url", "schedule", "http", "health", "notify", "app", "pings", "gate_dir", "gate")
}
# Enough to notice a change, and too little to confirm a guess at a secret: one guess of 65,536 matches by chance.
_DIGEST_BYTES: Final = 2


def masked(config: Config) -> dict[str, Any]:
    """Return every key with its effective value, fit for JSON; each secret that is set reads "[secret]"."""
    return config.model_dump(mode="json", by_alias=True)


def secrets_of(value: object) -> tuple[str, ...]:
    """Return every secret in clear text in `value`, the configuration or a part of it; none that was withheld."""
    if isinstance(value, WithheldSecret):
        return ()
    if isinstance(value, SecretStr):
        return (value.get_secret_value(),)
    below: Iterable[object] = ()
    if isinstance(value, Mapping):
        below = value.values()
    elif isinstance(value, BaseModel | tuple):  # a model yields pairs of name and value, which are tuples too
        below = value
    return tuple(chain.from_iterable(map(secrets_of, below)))


def mask_of(config: Config) -> Mask:
    """Return the mask of every secret of the configuration, and of the queries of its URLs, which may contain keys."""
    urls = (config.drill.health_url, config.app.health_url, *(gate.health_url for gate in config.gate.values()))
    return Mask(secrets_of(config), [*config.hooks.urls, *(url for url in urls if url)])


def to_toml(config: Config) -> str:
    """Return every key that has a value as TOML, each secret as "[secret]"."""
    return "\n".join(_table_lines(masked(config), ())).lstrip("\n") + "\n"


def toml_value(value: object) -> str:
    """Return a text, number, boolean or list of these as TOML."""
    if isinstance(value, str):
        # JSON escapes as TOML does, except for the DEL character, which TOML forbids in strings.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    return json.dumps(value)


def toml_key(name: str) -> str:
    """Return one part of a key, in quotes where TOML requires them."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else toml_value(name)


def config_digest(config: Config) -> str:
    """Return a digest of everything that decides whether a run succeeds: four hex digits, keyed by `backups_dir`.

    A run that failed under another digest is retried at once. Beside the configuration of runs, the digest covers what
    an operator repairs elsewhere: `known_hosts` files, the database files (mounted, restored, another owner), the user
    and the version. Secrets cannot be derived from it.
    """
    facts = {
        "config": config.model_dump(exclude=_WITHOUT_EFFECT_ON_RUNS),
        "secrets": digest_of_secrets(config),
        "known_hosts": [_read(replica.known_hosts) for replica in config.replicas.values() if replica.known_hosts],
        "databases": [_file_facts(Path(source.path)) for source in config.sources.values()],
        "directories": [_file_facts(section.path) for section in config.files.values()],
        "user": (os.geteuid(), os.getegid()),
        "version": __version__,
    }
    return _digest(facts, config)


def digest_of_secrets(config: Config) -> str:
    """Return the digest of the secrets of replicas, also where they were withheld from this process."""
    return config.digest_of_secrets or _digest(secrets_of(config.replicas), config)


def withhold_secrets(config: Config, given: Iterable[KeyPath]) -> Config:
    """Return `config` without its secrets, but for those at or below the paths `given`; `(REPLICAS, NAME)` is one."""
    narrowed = config.model_copy(update=_changes(config, (), tuple(given)))
    return narrowed.with_digest_of_secrets(digest_of_secrets(config))


def _digest(facts: object, config: Config) -> str:
    text = json.dumps(facts, sort_keys=True, default=str).encode()
    key = blake2b(os.fsencode(config.backups_dir)).digest()
    return blake2b(text, digest_size=_DIGEST_BYTES, key=key).hexdigest()


def _table_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    values = {name: value for name, value in table.items() if not isinstance(value, Mapping) and value is not None}
    if values and path:
        yield f"\n[{'.'.join(toml_key(part) for part in path)}]"
    for name, value in values.items():
        yield f"{toml_key(name)} = {toml_value(value)}"
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _table_lines(value, (*path, name))


def _read(path: Path) -> str:
    try:
        return read_small_file(path, links=True).decode(errors="replace")
    except OSError as error:
        return str(error)


def _file_facts(path: Path) -> tuple[int, ...]:
    """Return identity, owner, mode and whether it has bytes; empty where the file is missing or not accessible."""
    try:
        state = responding_stat(path)
    except OSError:
        return ()
    return (state.st_dev, state.st_ino, state.st_uid, state.st_gid, state.st_mode, int(state.st_size > 0))


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
