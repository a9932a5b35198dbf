"""Make one validated Config of a file and the environment, or tell all that is wrong with them at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backupd.config.environment import read_environment
from backupd.config.file import find_file, read_file
from backupd.config.links import links_note
from backupd.config.places import Places
from backupd.config.problems import explain
from backupd.config.schema import ENVIRONMENT, Config
from backupd.config.zone import unread_zone, zone_of
from backupd.errors import ConfigError

_HINT = "config.example.toml explains every key"


def load_config(config_file: Path | None, environ: Mapping[str, str], cwd: Path | None = None) -> Config:
    """Return the effective configuration: `environ` over the file over the defaults, each path absolute.

    The file is `config_file`, else $BACKUPD_CONFIG, else /etc/backupd/config.toml, else backupd.toml in `cwd`
    (by default the working directory); without any, the environment stands alone. Relative paths in a file
    start at its directory, others at `cwd`. A TZ that means nothing is a doubt that the Config carries. Raises
    ConfigError with one line for each thing that is wrong.
    """
    here = Path.cwd() if cwd is None else cwd
    document = read_file(find_file(config_file, environ, here))
    environment = read_environment(environ, here, document.chosen_names())
    problems = list(environment.problems)
    if document.problem is not None:  # what the file would have set is unknown: no use to go on
        raise ConfigError("\n".join([document.problem, *problems]), hint=_HINT)
    chosen = merge(document.table, environment.table())
    table = merge({**_backups_dir_beside_database(chosen), **_zone_of_environment(environ)}, chosen)
    try:
        zone = _zone_name(environ)
        doubt = unread_zone(zone) if zone and zone_of(zone) is None else ""
        origin = str(document.file or ENVIRONMENT)
        config = Config.of(table, origin, doubt, links_note(environment.ignored))
    except ValidationError as error:
        problems += explain(error, Places(document, environment.settings).locate)
    else:
        if not problems:
            return config
    raise ConfigError("\n".join(problems), hint=_HINT)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above`; where both have a table, the two tables are merged likewise."""
    merged = dict(below)
    for key, value in above.items():
        other = merged.get(key)
        merged[key] = merge(other, value) if isinstance(other, dict) and isinstance(value, dict) else value
    return merged


def _backups_dir_beside_database(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default of `backups_dir`: where all databases are in one directory, `backups/` there."""
    sources = table.get("sources")
    tables = sources.values() if isinstance(sources, Mapping) else ()
    paths = [source.get("path") for source in tables if isinstance(source, Mapping)]
    directories = {Path(path).parent for path in paths if isinstance(path, str) and Path(path).is_absolute()}
    return {"backups_dir": str(directories.pop() / "backups")} if len(directories) == 1 else {}


def _zone_of_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the default of `schedule.timezone`: what TZ says, which applies to all programs in a container."""
    zone = zone_of(_zone_name(environ))
    return {"schedule": {"timezone": zone}} if zone else {}


def _zone_name(environ: Mapping[str, str]) -> str:
    return environ.get("TZ", "").strip()
