"""`backupd config`."""

from pathlib import Path

import click

from backupd.bootstrap.tasks import refuse_shared_databases
from backupd.cli.common import config_option, json_option, print_json, read_config, readable_errors
from backupd.config import Config, masked, to_toml


@click.group("config", epilog="Example: backupd config check --config /etc/backupd/config.toml")
def command() -> None:
    """Show or check the configuration."""


@command.command("show", epilog="Example: backupd config show --json")
@config_option
@json_option
@readable_errors
def show(config_file: Path | None, *, as_json: bool) -> None:
    """Show the effective configuration, secrets masked."""
    config = read_config(config_file)
    if as_json:
        print_json(masked(config))
    else:
        click.echo(f"# from {config.origin}\n{to_toml(config)}", nl=False)
    _print_note(config)


@command.command("check", epilog="Example: backupd config check")
@config_option
@json_option
@readable_errors
def check(config_file: Path | None, *, as_json: bool) -> None:
    """Check the configuration; exits 78 and names file, line and key where it cannot be used."""
    config = read_config(config_file)
    refuse_shared_databases(config)
    warnings = [config.timezone_warning] if config.timezone_warning else []
    if as_json:
        notes = [config.note] if config.note else []
        print_json({"origin": config.origin, "valid": True, "warnings": warnings, "notes": notes})
        return
    click.echo(f"{config.origin}: valid, sources: {', '.join(config.sources)}")
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    _print_note(config)


def _print_note(config: Config) -> None:
    """Print what of the environment was ignored, to standard error: what `show` prints is a configuration."""
    if config.note:
        click.echo(f"note: {config.note}", err=True)
