"""`backupd status`."""

import re
import sys
from functools import partial
from pathlib import Path

import click

from backupd.bootstrap.tasks import limits, monitors, planned_tasks
from backupd.cli.common import config_option, json_option, open_context, print_json, read_config, readable_errors
from backupd.status.current import read_status
from backupd.status.text import status_lines

_COLOURS = (
    (re.compile(r"^healthy$"), "green"),
    (
        re.compile(r"^NOT HEALTHY$|^  reason:|TOO OLD|CHECK THE CLOCK|DOES NOT WORK|ON HOLD|(?<=: )(never|failed)\b"),
        "red",
    ),
    (re.compile(r"^  warning:|(?<=: )degraded\b|NOT DELIVERED|FAILED"), "yellow"),
    (re.compile(r"^  what to do:"), None),
)


@click.command("status", epilog="Example: backupd status --json")
@config_option
@json_option
@readable_errors
def command(config_file: Path | None, *, as_json: bool) -> None:
    """Tell whether all is well, why not and what to do; how old the last proofs are, the last runs, what there is.

    Needs no running daemon. Exits 0 when healthy, 1 when not.
    """
    config = read_config(config_file)
    context = open_context(config, writing=False)
    status = read_status(planned_tasks(config), limits(config), context, context.clock(), monitors(config))
    if as_json:
        print_json(status)
    else:
        click.echo("\n".join(map(_coloured, status_lines(status))))
    sys.exit(0 if status.health.healthy else 1)


def _coloured(line: str) -> str:
    """Dress a line for a terminal; click takes the colours off where there is none."""
    for words, colour in _COLOURS:
        line = words.sub(partial(_dressed, colour), line)
    return line


def _dressed(colour: str | None, found: re.Match[str]) -> str:
    return click.style(found[0], fg=colour, bold=True)
