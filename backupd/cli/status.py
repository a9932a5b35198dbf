"""`backupd status`."""

import sys
from pathlib import Path

import click

from backupd.cli.common import config_option, json_option, open_site, print_json, read_config, told_plainly
from backupd.service.overview import read_status
from backupd.service.plan import planned_tasks
from backupd.service.words import status_lines
from backupd.wiring import limits


@click.command("status", epilog="Example: backupd status --json")
@config_option
@json_option
@told_plainly
def command(config_file: Path | None, *, as_json: bool) -> None:
    """Tell how old the last proofs are, and whether all is well: what /health says, for people.

    Needs no running daemon. Exits 0 when healthy, 1 when not.
    """
    config = read_config(config_file)
    site = open_site(config, writing=False)
    status = read_status(planned_tasks(config), limits(config), site, site.clock())
    if as_json:
        print_json(status)
    else:
        for line in status_lines(status):
            click.echo(line)
    sys.exit(0 if status.health.healthy else 1)
