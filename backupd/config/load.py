"""Make one validated Config of a file and the environment, or tell all that is wrong with them at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import InitSettingsSource

from backupd.config.environment import read_environment
from backupd.config.file import find_file, read_file
from backupd.config.links import links_note
from backupd.config.places import Places
from backupd.config.problems import explain
from backupd.config.schema import ENVIRONMENT, Config
from backupd.config.zone import unread_zone, zone_of
from backupd.errors import ConfigError

_HINT = "config.example.toml explains every key"


class _BesideTheDatabase(InitSettingsSource):
    """The default of `backups_dir`: where all databases are in one directory, `backups/` there."""

    def __call__(self) -> dict[str, Any]:
        sources = self.current_state.get("sources")
        tables = sources.values() if isinstance(sources, Mapping) else ()
        paths = [table.get("path") for table in tables if isinstance(table, Mapping)]
        directories = {Path(path).parent for path in paths if isinstance(path, str) and Path(path).is_absolute()}
        return {"backups_dir": str(directories.pop() / "backups")} if len(directories) == 1 else {}


class _TimeZoneOfTheEnvironment(InitSettingsSource):
    """The default of `schedule.timezone`: what TZ says, which a container is given for all that runs in it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        zone = zone_of(_zone_name(environ))
        super().__init__(Config, {"schedule": {"timezone": zone}} if zone else {})


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
    layers = (
        InitSettingsSource(Config, environment.table()),
        InitSettingsSource(Config, document.table),
        _BesideTheDatabase(Config, {}),
        _TimeZoneOfTheEnvironment(environ),
    )
    try:
        zone = _zone_name(environ)
        doubt = unread_zone(zone) if zone and zone_of(zone) is None else ""
        origin = str(document.file or ENVIRONMENT)
        config = Config.of(layers, origin, doubt, links_note(environment.ignored))
    except ValidationError as error:
        problems += explain(error, Places(document, environment.settings).locate)
    else:
        if not problems:
            return config
    raise ConfigError("\n".join(problems), hint=_HINT)


def _zone_name(environ: Mapping[str, str]) -> str:
    return environ.get("TZ", "").strip()
