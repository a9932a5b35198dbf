"""`config.example.toml`, generated: `python -m backupd.config.example > config.example.toml`."""

import inspect
import sys
import textwrap
from collections.abc import Iterator

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from backupd.config.render import toml_value
from backupd.config.schema import Config, fields_of, is_named, table_of

_INTRODUCTION = """\
# backupd reads this file from /etc/backupd/config.toml, or from the path in --config or BACKUPD_CONFIG.
# Keys behind a # show their default, or an example where there is none.
#
# Every key can also be set in the environment, which overrides this file:
# BACKUPD_RETENTION__DAILY=14, BACKUPD_SOURCES__TASKS__METHOD=vacuum. An empty value counts as unset.
# Keep secrets in files of their own: BACKUPD_HTTP__TOKEN_FILE=/run/secrets/token.
#
# Relative paths start at the directory of this file.

"""
_WIDTH = 110
_CHOSEN_NAMES = {"sources": "tasks", "replicas": "offsite", "pings": "backup", "gate": "tasks", "files": "uploads"}
_LIVE = "sources.tasks"


def example_toml() -> str:
    """Return the example: each key with its description, and one source to edit."""
    return _INTRODUCTION + "\n".join(_table(Config, "")) + "\n"


def _table(table: type[BaseModel], above: str) -> Iterator[str]:
    """List the lines of a section: its values, then the sections below it, as TOML requires."""
    fields = fields_of(table).items()
    for name, field in fields:
        if not _is_section(field):
            yield from _prose(field.description or "")
            live = above == _LIVE and field.is_required()
            yield f"{'' if live else '#'}{name} = {_shown(field)}"
    for name, field in fields:
        if _is_section(field):
            yield from _section(name, field, f"{above}.{name}" if above else name)


def _section(name: str, field: FieldInfo, path: str) -> Iterator[str]:
    table = table_of(field.annotation)
    chosen = f"{path}.{_CHOSEN_NAMES[name]}" if table and is_named(field.annotation) else path
    yield from ("", *_prose(field.description or inspect.getdoc(table) or ""))
    yield f"[{chosen}]" if chosen in (name, _LIVE) else f"#[{chosen}]"
    if table is None:
        yield f"#{_CHOSEN_NAMES[name]} = {_shown(field)}"
    else:
        yield from _table(table, chosen)


def _is_section(field: FieldInfo) -> bool:
    return is_named(field.annotation) or table_of(field.annotation) is not None


def _prose(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _shown(field: FieldInfo) -> str:
    return toml_value(field.examples[0] if field.examples else field.default)


if __name__ == "__main__":
    sys.stdout.write(example_toml())
