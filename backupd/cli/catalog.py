"""`backupd catalog`."""

from pathlib import Path

import click

from backupd.cli.common import config_option, json_option, open_context, print_json, read_config, readable_errors
from backupd.tasks.context import rebuild_catalog


@click.group("catalog", epilog="Example: backupd catalog rebuild")
def command() -> None:
    """Work on the catalog, the index of runs and generations."""


@command.command("rebuild", epilog="Example: backupd catalog rebuild")
@config_option
@json_option
@readable_errors
def rebuild(config_file: Path | None, *, as_json: bool) -> None:
    """Make the catalog anew from the manifests; what can be read of the old history is kept."""
    count = rebuild_catalog(open_context(read_config(config_file)))
    if as_json:
        print_json({"generations": count})
    else:
        click.echo(f"catalog rebuilt: {count} generations")
