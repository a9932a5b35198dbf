"""The command line: each command runs the code that the schedule runs."""

import gc
from collections.abc import Mapping
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from backupd import __version__
from backupd.errors import EXIT_CODES, ConfigError, UsageError


class Entry(NamedTuple):
    """A command: the module below `backupd.cli` that defines it as NAME_command, and its short help."""

    module: str
    summary: str


_SOUGHT: Final = "$BACKUPD_CONFIG, /etc/backupd/config.toml, ./backupd.toml, else the environment alone"
# The only short help of each command, also the beginning of its long help. It stands here because importing all
# commands takes ten times as long as `backupd --help` may (docs/adr/0013-libraries.md).
COMMANDS: Final[Mapping[str, Entry]] = {
    "serve": Entry("serve", "Run the daemon."),
    "backup": Entry("backup", "Take one verified backup of every source now."),
    "list": Entry("list", "List generations, newest first."),
    "show": Entry("show", "Show one generation: its manifest, runs and checks."),
    "verify": Entry("verify", "Verify generations again."),
    "prune": Entry("prune", "Apply the retention policy, with the reason of each decision."),
    "pin": Entry("pin", "Keep generations until they are unpinned, in the store and at replicas."),
    "unpin": Entry("pin", "Release pinned generations."),
    "remove": Entry("prune", "Remove generations from one store now, whatever the retention policy keeps."),
    "clean": Entry("maintenance", "Remove old databases that restores replaced, and copies in quarantine."),
    "replicate": Entry("replicate", "Send the generations that a replica lacks, newest first."),
    "drill": Entry("drill", "Run a restore drill."),
    "restore": Entry("restore", "Restore an app's database: in place, online, or as a new file."),
    "doctor": Entry("doctor", "Check configuration, permissions, disk space and replicas."),
    "trust": Entry("trust", "Show the host keys of a replica, and the line that pins one."),
    "status": Entry("status", "Show whether everything is up to date, and what to do if not."),
    "log": Entry("log", "Show backup.log in readable form."),
    "notify": Entry("notify", "Show notification delivery; --test sends a test notification."),
    "health": Entry("serve", "Ask the running daemon whether it works (GET /livez)."),
    "gate": Entry("gate", "Run the deploy gate: back up, test and watch each deploy of an app."),
    "config": Entry("config", "Show or check the configuration."),
    "completion": Entry("complete", "Print the script that completes commands in a shell."),
    "catalog": Entry("maintenance", "Rebuild the catalog, the index of runs and generations."),
}


class Command(click.Command):
    """A command whose help lists its exit codes: `exits` says what some mean here, empty for the usual.

    Any command may exit with 0 and 2, one that reads the configuration (and has --config) also with 1 and 78, and
    others are in `exits`. The help is the docstring of the function, after the short help of a command that is in no
    group.
    """

    def __init__(
        self,
        name: str,
        *,
        example: str,
        exits: Mapping[int, str],
        group: bool = False,
        reads_config: bool = True,
        **settings: Any,  # noqa: ANN401 - click's
    ) -> None:
        if not group:
            settings["help"] = f"{COMMANDS[name].summary}\n\n{getdoc(settings['callback'])}"
        super().__init__(name, epilog=f"Example: {example}", **settings)
        codes = {0, UsageError.exit_code, *exits}
        if reads_config:
            text = f"Configuration file (default: {_SOUGHT})."
            self.params.append(click.Option(["--config", "config_file"], type=click.Path(path_type=Path), help=text))
            codes |= {1, ConfigError.exit_code}
        self.exits = {code: exits.get(code) or EXIT_CODES[code] for code in sorted(codes)}

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit codes, and then the example."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in self.exits.items()])
        super().format_epilog(ctx, formatter)


class _Lazy(click.Group):
    """Imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands in the order in which an operator meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Import the command and return it."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"backupd.cli.{COMMANDS[cmd_name].module}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        gc.freeze()  # imported modules stay until the end: no collection need visit them
        gc.enable()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command; the error for an unknown name suggests the nearest one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            similar = " or ".join(map(repr, get_close_matches(args[0], COMMANDS)))
            raise click.UsageError(f"{error.message}{similar and f' (Did you mean {similar}?)'}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all exit codes, and then the example."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])
        super().format_epilog(ctx, formatter)


@click.command(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: BACKUPD_DATABASE=/app/data/tasks.db backupd backup",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Back up SQLite apps, and verify that the backups restore."""
