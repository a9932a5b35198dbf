"""`backupd health`."""

import http.client
import json
import os
import re
import sys
from pathlib import Path

import click

LISTEN = "BACKUPD_HTTP__LISTEN"
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "::1"}  # noqa: S104 - not bound, but asked
_ADDRESS = re.compile(r".+:\d{1,5}", re.ASCII)
_TIMEOUT_S = 4.0


@click.command("health", epilog="Example: backupd health")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="Configuration file, as of the daemon.")
def command(config_file: Path | None) -> None:
    """Ask the running daemon whether it works (/livez): exits 0 if so, 1 if not; for the container's HEALTHCHECK.

    Whether backups are as young as they should be is another question: backupd status.
    """
    host, _, port = _listen(config_file).rpartition(":")
    try:
        connection = http.client.HTTPConnection(_EVERYWHERE.get(host, host.strip("[]")), int(port), timeout=_TIMEOUT_S)
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        text = answer.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        click.echo(f"the daemon does not answer on port {port}: {error}", err=True)
        sys.exit(1)
    click.echo("alive" if answer.status == http.client.OK else f"not alive: {_reasons(text)}")
    sys.exit(0 if answer.status == http.client.OK else 1)


def _listen(config_file: Path | None) -> str:
    """Return where the daemon listens; the environment, which goes first, spares the container most of the work."""
    if _ADDRESS.fullmatch(os.environ.get(LISTEN, "")):
        return os.environ[LISTEN]
    from backupd.cli.common import fail, read_config
    from backupd.errors import BackupdError

    try:
        return read_config(config_file).http.listen
    except BackupdError as error:
        fail(error, as_json=False)


def _reasons(text: str) -> str:
    try:
        return ", ".join(map(str, json.loads(text)["reasons"]))
    except (ValueError, LookupError, TypeError):
        return text[:200]
