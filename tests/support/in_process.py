"""Commands in this very process: where a new one for each would only cost time, or a test shortens a timeout."""

import os
from collections.abc import Mapping

from click.testing import CliRunner

from backupd.cli import cli
from support.command import CommandResult
from support.fork_server import StartedAgain, noticed


def run_here(environ: Mapping[str, str], *arguments: object) -> CommandResult:
    """Run `backupd ARGUMENTS` with nothing else of backupd's in its environment, and without a terminal."""
    words = [str(argument) for argument in arguments]
    env: dict[str, str | None] = {name: None for name in os.environ if name.startswith("BACKUPD_")}
    env |= environ
    try:
        with noticed():
            done = CliRunner().invoke(cli, words, env=env, catch_exceptions=False)
    except StartedAgain as again:
        env = {name: None for name in (*env, *os.environ) if name.startswith("BACKUPD_")} | again.environ
        done = CliRunner().invoke(cli, words, env=env, catch_exceptions=False)
    return CommandResult(done.exit_code, done.stdout, done.stderr)
