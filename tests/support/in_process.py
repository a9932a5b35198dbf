"""Commands in this very process: where a test shortens a timeout, or many runs of their own would only cost time."""

import os
from collections.abc import Mapping

from click.testing import CliRunner

from backupd.cli import cli
from support.command import CommandResult


def run_here(environ: Mapping[str, str], *arguments: object) -> CommandResult:
    """Run `backupd ARGUMENTS` with nothing else of backupd's in its environment, and without a terminal."""
    outside = {name: None for name in os.environ if name.startswith("BACKUPD_")}
    done = CliRunner().invoke(cli, [*map(str, arguments)], env={**outside, **environ}, catch_exceptions=False)
    return CommandResult(done.exit_code, done.stdout, done.stderr)
