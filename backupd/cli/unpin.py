"""`backupd unpin`."""

from pathlib import Path

import click

from backupd.cli.common import config_option, json_option, open_context, print_json, read_config, readable_errors
from backupd.formatting import printable
from backupd.tasks.prune import unpin_all


@click.command("unpin", epilog="Example: backupd unpin tasks-20261123-0400")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@config_option
@json_option
@readable_errors
def command(config_file: Path | None, ids: tuple[str, ...], *, as_json: bool) -> None:
    """Release pinned generations: from now on the retention policy decides about them."""
    context = open_context(read_config(config_file))
    released = unpin_all(ids, context)
    if as_json:
        print_json([{"id": one, "released": one in released} for one in ids])
        return
    for one in ids:
        click.echo(f"{printable(one)}: {'released' if one in released else 'was not pinned'}")
