"""`backupd serve`."""

from pathlib import Path

import click

from backupd.cli.common import config_option, read_config, readable_errors


@click.command("serve", epilog="Example: BACKUPD_DATABASE=/app/data/tasks.db backupd serve")
@config_option
@readable_errors
def command(config_file: Path | None) -> None:
    """Run the daemon: backups, pruning and scrubbing by schedule, with health, metrics and a page over HTTP.

    What was missed is caught up. SIGTERM ends it within 8 seconds, whatever it is doing; exits 0 then, 78 when the
    configuration cannot be used.
    """
    from backupd.daemon.main import serve

    serve(read_config(config_file))
