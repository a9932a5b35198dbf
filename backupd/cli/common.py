"""What all commands share: their options, errors that people can act on, and the stores that they open."""

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any, Final

import click

from backupd.bootstrap.launch import handed_config, launch
from backupd.bootstrap.tasks import build_context, writable
from backupd.cli import Command, complete
from backupd.cli.output import echo, fail, mask_output, print_error, print_warning
from backupd.config import REPLICAS, Config, KeyPath, load_config, mask_of, refuse_gate_alone
from backupd.errors import StoreUnusable, UnexpectedError, UsageError
from backupd.formatting import counted
from backupd.model import LOCAL_STORE, AnyManifest, Progress
from backupd.privileges import ROOT_HINT, become_owner_of_backups, drop_privileges, runs_as_root
from backupd.report import AnyReport
from backupd.system.os_errors import dangling_link, foreseen_error
from backupd.tasks.choice import Accept
from backupd.tasks.context import TaskContext, local_inventory, read_inventory
from backupd.tasks.inventory import Inventory
from backupd.tasks.provenance import Provenance, provenance_of
from backupd.tasks.restore.extract import FilesStore

_WORST_FIRST: Final = (1, 78, 75, 3, 0)
_CLOSED_PIPE: Final = 128 + signal.SIGPIPE
_PRINTERS: Final = ("click", "rich")
_NO_OUTPUT: Final = "send the output elsewhere; the command has done its work, and backup.log has the result"

_OF_CLICK: Final = (click.ClickException, click.Abort, click.exceptions.Exit)
_REPORT: Final = "report this with backup.log"

Body = Callable[..., None]
# Gets the arguments of a command, and returns whether it has done the work by a backupd somewhere else.
Elsewhere = Callable[..., bool]
# The paths of the secrets that a command with these arguments needs.
Secrets = Callable[[Config, Mapping[str, Any]], Iterable[KeyPath]]

source_option = click.option(
    *("--source", "names"),
    multiple=True,
    metavar="NAME",
    shell_complete=complete.sources,
    help="Only this source (repeatable).",
)
label_option = click.option("--label", metavar="TEXT", help="A short text that list, show and the page show beside it.")
accept_older_option = click.option(
    "--accept-older", is_flag=True, help="Use an older generation if the newest cannot be used."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Show each decision with its reason; change nothing.")


def store_option(verb: str = "look at") -> Callable[[Body], Body]:
    """Return `--store NAME`, the local one unless another is named."""
    return click.option(
        "--store",
        metavar="NAME",
        default=LOCAL_STORE,
        show_default=True,
        shell_complete=complete.stores,
        help=f"Store to {verb}.",
    )


def of_store(_config: Config, arguments: Mapping[str, Any]) -> Iterable[KeyPath]:
    """Return the secrets that most commands need: those of the replica that `--store` names."""
    return ((REPLICAS, arguments.get("store", LOCAL_STORE)),)


def all_secrets(_config: Config, _arguments: Mapping[str, Any]) -> Iterable[KeyPath]:
    """Return the secrets of a command that hands them to runs, or tries services and masks them in what these say.

    Those of the gate are for `backupd gate` alone.
    """
    return [(section,) for section in Config.model_fields if section != "gate"]


def command(
    name: str,
    example: str,
    exits: Mapping[int, str] | None = None,
    *,
    group: click.Group | None = None,
    secrets: Secrets | None = of_store,
    pings: bool = False,
    without_sources: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Callable[[Body], Command]:
    """Make a function a `Command`, of `group` where there is one; it gets the effective `config`, and `as_json`.

    Errors that are foreseen end it with a message and their exit code. The other arguments: see `with_config`.
    """

    def decorate(body: Body) -> Command:
        make = click.command(name, cls=Command, example=example, exits=exits or {}, group=group is not None)
        made = make(with_config(body, secrets, pings=pings, without_sources=without_sources, elsewhere=elsewhere))
        made.params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print facts as JSON, for machines."))
        if group:
            group.add_command(made)
        return made

    return decorate


def with_config(
    body: Body,
    secrets: Secrets | None,
    *,
    pings: bool = False,
    without_sources: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Body:
    """Return `body` with the configuration of `config_file` as its first argument, and with readable errors.

    A command that reads or writes what an app can change has only the secrets whose paths `secrets` returns; with
    `pings` another process pings its runs. `None` is for one that only looks at the configuration. A configuration for
    the gate alone is an error, except to a command that works `without_sources`. Where `elsewhere` does the work, no
    configuration is read.
    """

    @functools.wraps(body)
    def guarded(config_file: Path | None, **arguments: Any) -> None:  # noqa: ANN401 - whatever click passes on
        as_json = bool(arguments.get("as_json"))
        try:
            try:
                if elsewhere is not None and elsewhere(config_file, **arguments):
                    return
                config = handed_config() or _read_config(config_file, secrets, arguments, pings=pings)
                mask_output(mask_of(config))
                if config.skipped:
                    print_warning(config.skipped)
                if not without_sources:
                    refuse_gate_alone(config)
                body(config, **arguments)
            except Exception as error:
                if _is_of_output(error) or isinstance(error, _OF_CLICK):
                    raise
                fail(foreseen_error(error) or UnexpectedError.of(error, _REPORT), as_json=as_json)
        except BrokenPipeError:
            _discard_output()
            sys.exit(_CLOSED_PIPE)
        except OSError as error:
            _discard_output()
            print_error(f"standard output cannot be written: {error.strerror}", _NO_OUTPUT)
            sys.exit(1)

    return guarded


def _read_config(
    config_file: Path | None, secrets: Secrets | None, arguments: Mapping[str, Any], *, pings: bool
) -> Config:
    """Return the configuration, where this command need not start again without its secrets. Raises ConfigError."""
    config = load_config(config_file, os.environ)
    return config if secrets is None else launch(config, secrets(config, arguments), pings=pings)


def _is_of_output(error: Exception) -> bool:
    """Whether printing raised `error`: an OSError that names no file, as that of a failing disk may not either."""
    if not isinstance(error, OSError):
        return False
    *_, (frame, _) = walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].partition(".")[0] in _PRINTERS


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends


def worst_exit(reports: Iterable[AnyReport]) -> int:
    """Return the exit code that matters most among those of `reports`."""
    return min((report.exit_code for report in reports), key=_WORST_FIRST.index, default=0)


def can_ask() -> bool:
    """Whether an operator at a terminal can answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirmed(question: str) -> bool:
    """Ask `question` on standard error, and return whether the answer is yes."""
    echo(f"{question} Type yes to continue:", err=True)  # a whole line: bars hide partial ones
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def accepting_older(*, sure: bool, quiet: bool) -> Accept:
    """Return what tells whether an older generation is used: if `sure`, or if the operator at a terminal says so."""

    def accept(warning: str) -> bool:
        if sure or quiet or not can_ask():
            return sure
        print_warning(warning)
        return confirmed("Use the older generation?")

    return accept


def refuse_together(first: str, second: str) -> UsageError:
    """Return the error for two options that contradict each other."""
    return UsageError(f"{first} and {second} do not go together", "give one of the two")


def open_context(config: Config, progress: Progress | None = None, *, writing: bool | None = True) -> TaskContext:
    """Drop to the user that PUID names or the backups belong to, and return the context of tasks.

    With `writing` of None the store is written where that is possible: a read-only mount is enough. The log is closed
    when the command ends. Raises ConfigError.
    """
    drop_privileges(config, os.environ)  # first: what is writable depends on the user
    become_owner_of_backups(config, os.environ)
    if writing and (as_root := runs_as_root(os.environ)):
        print_warning(f"backupd runs as root, {as_root}; {ROOT_HINT}")
    context = build_context(config, progress, writing=writable(config) if writing is None else writing)
    click.get_current_context().call_on_close(context.log.close)
    return context


def open_context_for_restore(config: Config, progress: Progress, *, reading: bool) -> TaskContext:
    """Return the context; the store is created where it is missing, unless `reading`. It may be read-only."""
    drop_privileges(config, os.environ)  # first: a private directory hides even whether there is a store in it
    return open_context(config, progress, writing=None if reading or config.backups_dir.exists() else True)


@contextmanager
def opened(name: str, config: Config, context: TaskContext) -> Iterator[tuple[FilesStore, Inventory]]:
    """Open the store of that name, the local one or a replica, with its inventory.

    Raises UsageError when no store has that name, StoreUnusable, ReplicaUnreachable and other errors of the connection.
    """
    require_store(name, config)
    if name == LOCAL_STORE:
        require_mounted(context)
        yield context.store, local_inventory(context)
        return
    from backupd.bootstrap.replicas import open_store  # imports paramiko, which local stores do not need

    with open_store(config, name, context) as found:
        yield found


def require_mounted(context: TaskContext) -> None:
    """Raise StoreUnusable where the directory of the backups is a link to a missing one, which is no empty store."""
    if link := dangling_link(context.store.directory):
        raise StoreUnusable(link, "mount what the link leads to, or correct backups_dir (BACKUPD_BACKUPS_DIR)")


def require_store(name: str, config: Config) -> None:
    """Raise UsageError when no store has that name."""
    if name not in (LOCAL_STORE, *config.replicas):
        known = ", ".join((LOCAL_STORE, *config.replicas))
        hint = f"the configuration ({config.origin}) has: {known}"
        if "/" in name:
            hint += "; to read a directory, configure a replica: BACKUPD_REPLICAS__OLD__URL=file:/PATH, and name it old"
        raise UsageError(f"there is no store {name!r}", hint)


def require_sources(names: tuple[str, ...], config: Config, inventory: Inventory) -> None:
    """Raise UsageError for a source that is neither configured nor has generations."""
    known = {*config.sources, *config.files, *(generation.source for generation in inventory.generations)}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no source {name!r}", f"known sources: {', '.join(sorted(known))}")


def read_claims(context: TaskContext) -> Provenance:
    """Return which generations count as this store's own.

    A local store that cannot be read does not prevent a restore: no generation counts as own, and all are usable.
    """
    try:
        return provenance_of(read_inventory(context), context)
    except OSError as error:
        directory = context.store.directory
        print_warning(f"{directory} cannot be read ({error.strerror}): it is unknown which copies are its own")
        return Provenance(None, {}, frozenset())


def warn_of_foreign(chosen: Sequence[AnyManifest], replica: Inventory, claims: Provenance, name: str) -> None:
    """Warn, once, where generations at replica `name` are of another store, as after a disaster."""
    ids = {manifest.id for manifest in chosen}
    groups = [group for group in claims.foreign(replica) if not ids.isdisjoint(group.ids)]
    if groups:
        others = f", and those of {counted(len(groups) - 1, 'more source')}" if len(groups) > 1 else ""
        way_on = f"to adopt them into this store: backupd replicate --to {name} --adopt"
        print_warning(f"{name} holds {groups[0].describe(replica.now)}{others}; {way_on}")
