"""`backupd config`."""

import click

from backupd.bootstrap.notifications import require_usable_channels
from backupd.bootstrap.tasks import refuse_shared_databases
from backupd.cli import COMMANDS
from backupd.cli.common import command
from backupd.cli.output import echo, print_json, print_warning
from backupd.config import Config, masked, to_toml

config_command = click.Group(
    "config", help=COMMANDS["config"].summary, epilog="Example: backupd config check --config /etc/backupd/config.toml"
)


@command("show", "backupd config show --json", group=config_command, secrets=None, without_sources=True)
def show(config: Config, *, as_json: bool) -> None:
    """Show the effective configuration, secrets masked."""
    if as_json:
        print_json(masked(config))
    else:
        found = [f"# {line}" for line in config.source_sets.lines()] if config.source_sets else []
        echo("\n".join([f"# from {config.origin}", *found, to_toml(config)]).removesuffix("\n"))
    _print_note(config)


@command("check", "backupd config check", group=config_command, secrets=None, without_sources=True)
def check(config: Config, *, as_json: bool) -> None:
    """Check the configuration; an error names file, line and key."""
    refuse_shared_databases(config)
    require_usable_channels(config)
    warnings = [warning for warning in (config.timezone_warning, config.exposure) if warning]
    if as_json:
        notes = [note for note in (config.note, config.skipped) if note]
        print_json({"origin": config.origin, "valid": True, "warnings": warnings, "notes": notes})
        return
    named = {"sources": config.sources, "gates": config.gate}
    parts = [f"{what}: {', '.join(names)}" for what, names in named.items() if names]
    echo(f"{config.origin}: valid, {'; '.join(parts)}")
    for warning in warnings:
        print_warning(warning)
    _print_note(config)


def _print_note(config: Config) -> None:
    """Print which environment variables were ignored, to standard error: `show` prints a configuration."""
    if config.note:
        echo(f"note: {config.note}", err=True)
