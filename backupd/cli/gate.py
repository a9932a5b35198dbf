"""`backupd gate`."""

from collections.abc import Iterable, Mapping
from typing import Any

import click

from backupd.cli.common import command
from backupd.cli.output import end_with_findings
from backupd.config import Config, KeyPath


def of_gate(_config: Config, _arguments: Mapping[str, Any]) -> Iterable[KeyPath]:
    """Return the secrets that the gate needs."""
    return (("gate",), ("http", "token"), ("notify",))


@command(
    "gate",
    "backupd gate --check",
    {
        0: "ended by SIGTERM; with --check: no problems",
        1: "it cannot serve; with --check: at least one problem",
        75: "another gate uses the same directory",
    },
    secrets=of_gate,
    without_sources=True,
)
@click.option("--check", is_flag=True, help="Check what each gate needs, then exit; nothing is deployed.")
def gate_command(config: Config, *, check: bool, as_json: bool) -> None:
    """Before each push that a webhook reports is deployed to CapRover, the data is backed up and the commit tested.

    After it, the app is watched until it is up. A step that fails stops the deploy. POST /hooks/NAME receives the
    pushes for [gate.NAME]; GET / shows the last deploys. SIGTERM ends it within 8 seconds; what is under way goes on
    when it starts again.
    """
    if not check:
        from backupd.gate.main import serve  # slow to import, and only once this command has started again

        serve(config)
    from backupd.gate.check import check_gates

    end_with_findings(list(check_gates(config)), as_json=as_json)
