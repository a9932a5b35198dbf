"""`backupd serve` and `backupd health`: the daemon, and the question whether it works.

What only one of them needs is imported inside it: Docker runs `backupd health` every few seconds.
"""

import http.client
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from backupd.cli import Command

if TYPE_CHECKING:
    from backupd.config import Config

LISTEN: Final = "BACKUPD_HTTP__LISTEN"
_LOOPBACK: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "::1"}  # noqa: S104 - asked, not bound
_ADDRESS: Final = re.compile(r".+:\d{1,5}", re.ASCII)
_TIMEOUT_S: Final = 4.0


@click.command(
    "serve",
    cls=Command,
    example="BACKUPD_DATABASE=/app/data/tasks.db backupd serve",
    exits={0: "ended by SIGTERM", 1: "it cannot serve"},
)
def serve_command(config_file: Path | None) -> None:
    """Back up, prune, replicate, scrub and drill by schedule; serve health, metrics and a status page over HTTP.

    What was missed while it did not run is caught up. SIGTERM ends it within 8 seconds, whatever it is doing.
    """
    from backupd.cli.common import all_secrets, with_config

    with_config(_serve, all_secrets)(config_file=config_file)


def _serve(config: "Config") -> NoReturn:
    from backupd.daemon.main import serve  # slow to import, and only once this command has started again

    serve(config)


@click.command(
    "health", cls=Command, example="backupd health", exits={0: "it works", 1: "it does not work, or does not answer"}
)
def health_command(config_file: Path | None) -> None:
    """Run it as the HEALTHCHECK of the container.

    Whether backups are recent enough is another question: backupd status.
    """
    host, _, port = _listen(config_file).rpartition(":")
    try:
        connection = http.client.HTTPConnection(_LOOPBACK.get(host, host.strip("[]")), int(port), timeout=_TIMEOUT_S)
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        text = answer.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        click.echo(f"the daemon does not answer on port {port}: {error}", err=True)
        sys.exit(1)
    click.echo("alive" if answer.status == http.client.OK else f"not alive: {_reasons(text)}")
    sys.exit(0 if answer.status == http.client.OK else 1)


def _listen(config_file: Path | None) -> str:
    """Return where the daemon listens; no file is read where the environment says it, as that has precedence."""
    if _ADDRESS.fullmatch(os.environ.get(LISTEN, "")):
        return os.environ[LISTEN]
    from backupd.cli.output import fail
    from backupd.config import load_config
    from backupd.errors import BackupdError

    try:
        return load_config(config_file, os.environ).http.listen
    except BackupdError as error:
        fail(error, as_json=False)


def _reasons(text: str) -> str:
    try:
        return ", ".join(map(str, json.loads(text)["reasons"]))
    except (ValueError, LookupError, TypeError):
        return text[:200]
