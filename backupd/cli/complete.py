"""What the shell completes: sources, stores, generations and times; and `backupd completion`, which sets it up.

It reads names of files only, and says nothing where the configuration or the store cannot be read.
"""

import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

import click
from click.shell_completion import get_completion_class

from backupd.cli import Command

if TYPE_CHECKING:
    from backupd.config import Config

Complete = Callable[[click.Context, click.Parameter, str], list[str]]
_SHELLS: Final = ("bash", "zsh", "fish")
_MANIFEST: Final = ".manifest.json"
_TIME_IN_ID: Final = re.compile(r"-(\d{8}-\d{4})(?:-\d+)?$")


def _completer(names_of: "Callable[[Config], Iterable[str]]") -> Complete:
    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        from backupd.config import load_config
        from backupd.errors import BackupdError

        try:
            names = names_of(load_config(context.params.get("config_file"), os.environ))
            return [name for name in names if name.startswith(incomplete)]
        except (BackupdError, OSError):  # the command itself reports it
            return []

    return complete


def _ids(config: "Config") -> list[str]:
    """Return the ids of the local store, newest first."""
    from backupd.model import is_generation_id

    found = [path.name.removesuffix(_MANIFEST) for path in config.backups_dir.glob(f"*{_MANIFEST}")]
    return sorted(filter(is_generation_id, found), key=_minute, reverse=True)


def _minute(generation_id: str) -> str:
    found = _TIME_IN_ID.search(generation_id)
    return found[1] if found else ""


def _points(config: "Config") -> list[str]:
    """Return the ids of the local restore points, newest first."""
    from backupd.model import POINT_SUFFIX, is_point_id

    found = [path.name.removesuffix(POINT_SUFFIX) for path in config.backups_dir.glob(f"*{POINT_SUFFIX}")]
    return sorted(filter(is_point_id, found), reverse=True)


def _times(config: "Config") -> list[str]:
    """Return the minutes of the local generations as `--at` reads them, newest first."""
    zone = ZoneInfo(config.schedule.timezone)
    minutes = sorted({_minute(name) for name in _ids(config)}, reverse=True)
    times = (datetime.strptime(minute, "%Y%m%d-%H%M").replace(tzinfo=UTC) for minute in minutes)
    return [f"{time.astimezone(zone):%Y-%m-%d %H:%M}" for time in times]


def _stores(config: "Config") -> list[str]:
    from backupd.model import LOCAL_STORE

    return [LOCAL_STORE, *config.replicas]


sources = _completer(lambda config: (*config.sources, *config.files))
replicas = _completer(lambda config: config.replicas)
stores = _completer(_stores)
generations = _completer(_ids)
generations_and_points = _completer(lambda config: [*_ids(config), *_points(config)])
generations_or_latest = _completer(lambda config: ["latest", *_ids(config)])
points_or_latest = _completer(lambda config: ["latest", *_points(config)])
times = _completer(_times)


@click.command(
    "completion",
    cls=Command,
    example="backupd completion bash",
    exits={},
    reads_config=False,
)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion_command(shell: str) -> None:
    """Complete commands, options, sources, stores, generations and times: put the script where the shell looks for it.

    bash looks in /etc/bash_completion.d, zsh in the directories of fpath (as _backupd), fish in
    ~/.config/fish/completions (as backupd.fish).
    """
    from backupd.cli import cli
    from backupd.cli.output import echo

    script = get_completion_class(shell)
    if script is not None:  # click has all three
        echo(script(cli, {}, "backupd", "_BACKUPD_COMPLETE").source())
