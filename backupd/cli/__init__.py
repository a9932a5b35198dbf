"""What an operator types: one command a file, over the same jobs that the schedule runs."""

import gc
from importlib import import_module
from typing import ClassVar

import click

from backupd import __version__


class _Lazy(click.Group):
    """Imports a command only when it is called: `backupd --help` answers at once."""

    # Module, and the first sentence of the command's docstring as far as a colon or semicolon: a test compares both. To
    # import all commands for it would take 0.7 s (docs/adr/0013-libraries.md).
    commands_help: ClassVar[dict[str, tuple[str, str]]] = {
        "serve": ("serve", "Run the daemon."),
        "backup": ("backup", "Take one verified backup of every source now."),
        "list": ("list", "List generations, newest first."),
        "show": ("show", "Show one generation's manifest, and the runs and checks that concern it."),
        "verify": ("verify", "Prove generations again."),
        "prune": ("prune", "Apply the retention policy, each generation with its reason."),
        "pin": ("pin", "Keep generations, here and at replicas, until they are released."),
        "unpin": ("unpin", "Release pinned generations."),
        "remove": ("remove", "Remove generations from one store now, whatever the retention policy says."),
        "clean": ("clean", "Remove old databases that restores have replaced, and damaged copies in quarantine."),
        "replicate": ("replicate", "Send the generations that a replica lacks, newest first."),
        "drill": ("drill", "Rehearse a restore."),
        "restore": ("restore", "Put a generation in place of its app's database."),
        "doctor": ("doctor", "Prove the whole set-up before the first night."),
        "trust": ("trust", "Show the host keys of replica NAME, how to compare them, and the line that pins one."),
        "status": ("status", "Tell whether all is well, why not and what to do."),
        "log": ("log", "Show backup.log readably."),
        "notify": ("notify", "Tell how messages and pings fare."),
        "health": ("health", "Ask the running daemon whether it works (/livez)."),
        "config": ("config", "Show or check the configuration."),
        "catalog": ("catalog", "Work on the catalog, the index of runs and generations."),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the order in which an operator meets them."""
        return list(self.commands_help)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Import the command and return it."""
        if cmd_name not in self.commands_help:
            return None
        module, _ = self.commands_help[cmd_name]
        command: click.Command = import_module(f"backupd.cli.{module}").command
        gc.freeze()  # what was imported stays until the end: no collection need look at it
        gc.enable()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.commands_help.items()])


@click.command(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: BACKUPD_DATABASE=/app/data/tasks.db backupd backup",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Back up SQLite apps, and prove that the backups restore.

    \b
    Exit codes: 0 well, 1 failed, 2 usage, 3 published but degraded,
    75 busy (try again later), 78 configuration.
    """  # noqa: D301 - \b keeps click from rewrapping
