"""Every key that the schema knows, as a flat list: for environment names, suggestions and paths."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from backupd.config.schema import Config

ANY = "*"
KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its path from the root, with `*` for a name of the operator's choice, and what it holds."""

    path: KeyPath
    is_secret: bool
    is_file: bool

    def matches(self, path: KeyPath) -> bool:
        """Tell whether `path` is this key, whatever the chosen names in it."""
        return len(path) == len(self.path) and self.is_under(path)

    def is_under(self, path: KeyPath) -> bool:
        """Tell whether this key is `path`, or below it."""
        return len(path) <= len(self.path) and all(
            part and mine in (ANY, part) for part, mine in zip(path, self.path, strict=False)
        )


def fields_of(table: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of `table` by the names that an operator writes."""
    return {field.alias or name: field for name, field in table.model_fields.items()}


def table_of(annotation: object) -> type[BaseModel] | None:
    """Return the section that a field of this annotation holds, `None` where it holds a value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((table for part in get_args(annotation) if (table := table_of(part))), None)


def is_named(annotation: object) -> bool:
    """Tell whether the field maps names that the operator chooses."""
    return get_origin(annotation) is Mapping


@cache
def all_keys() -> tuple[Key, ...]:
    """Return every key of the schema, in its order."""
    return tuple(_keys(Config, ()))


def key_at(path: KeyPath) -> Key | None:
    """Return the key that `path` leads to, if the schema has one there."""
    return next((key for key in all_keys() if key.matches(path)), None)


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
