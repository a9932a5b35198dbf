"""`backupd status`."""

import re
import sys

import click

from backupd.bootstrap.tasks import limits, planned_tasks, retention_rule
from backupd.cli.common import command, open_context
from backupd.cli.output import echo, print_json
from backupd.config import Config
from backupd.status.current import StatusScope, read_status
from backupd.status.text import status_lines

_COLOURS = (
    (re.compile(r"^healthy$"), "green"),
    (
        re.compile(r"^NOT HEALTHY$|^  reason:|TOO OLD|CHECK THE CLOCK|DOES NOT WORK|ON HOLD|(?<=: )(never|failed)\b"),
        "red",
    ),
    (re.compile(r"^  warning:|(?<=: )degraded\b|NOT DELIVERED|FAILED"), "yellow"),
    (re.compile(r"^  (?:what to do|runbook):"), None),
)


@command("status", "backupd status --json", {0: "healthy", 1: "not healthy"})
def status_command(config: Config, *, as_json: bool) -> None:
    """Show the age of the last backup, copy and drill, the last runs, and what is in the store.

    The daemon need not run.
    """
    context = open_context(config, writing=False)
    now, rule = context.clock(), retention_rule(config)
    status = read_status(StatusScope(planned_tasks(config), limits(config), rule, config.pings, context, now))
    if as_json:
        print_json(status)
    else:
        echo("\n".join(map(_coloured, status_lines(status, config.docs_url))))
    sys.exit(0 if status.health.healthy else 1)


def _coloured(line: str) -> str:
    """Colour the words of a line; click removes the colours where there is no terminal."""
    for words, colour in _COLOURS:
        line = words.sub(click.style(r"\g<0>", fg=colour, bold=True), line)
    return line
