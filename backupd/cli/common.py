"""What all commands share: `--config`, `--json`, and errors that people can act on."""

import functools
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from traceback import walk_tb
from typing import Any, NoReturn
from zoneinfo import ZoneInfo

import click

from backupd.bootstrap.tasks import build_context, retention_rule, writable
from backupd.config import Config, load_config
from backupd.errors import BackupdError, UsageError
from backupd.formatting import printable
from backupd.model import LOCAL_STORE, Manifest, Progress
from backupd.privileges import become_owner_of_backups, settle
from backupd.report import AnyReport
from backupd.stores.contract import Archives
from backupd.system.os_errors import foreseen_error
from backupd.tasks.context import TaskContext, local_inventory, read_inventory
from backupd.tasks.inventory import Inventory
from backupd.tasks.provenance import Provenance, adopt, provenance_of
from backupd.tasks.requests import RetentionRule

_SECONDS = re.compile(r"[T ]\d\d:?\d\d:?\d\d")
_WORST_FIRST = (1, 78, 75, 3, 0)
_NOBODY_READS = 128 + signal.SIGPIPE
_PRINTERS = ("click", "rich")
_NO_OUTPUT = "send it elsewhere; what the command did is done, and in backup.log"


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--config FILE`."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="Configuration file (default: $BACKUPD_CONFIG, /etc/backupd/config.toml, ./backupd.toml, "
        "else the environment alone).",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print facts as JSON, for machines.")(command)


def source_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--source NAME`, which may be repeated."""
    return click.option("--source", "names", multiple=True, metavar="NAME", help="This source only (may be repeated).")(
        command
    )


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--store NAME`."""
    return click.option("--store", "store", metavar="NAME", default="local", help="Store to look at (local).")(command)


def readable_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Let `command` end with a clear message and its exit code where it meets foreseen trouble."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - whatever click passes on
        as_json = bool(kwargs.get("as_json"))
        try:
            command(*args, **kwargs)
        except BrokenPipeError:
            _discard_output()
            sys.exit(_NOBODY_READS)
        except Exception as error:
            if isinstance(error, OSError) and _is_of_output(error):
                _discard_output()
                print_error(f"standard output cannot be written: {error.strerror}", _NO_OUTPUT)
                sys.exit(1)
            foreseen = foreseen_error(error)
            if foreseen is None:
                raise
            fail(foreseen, as_json=as_json)

    return guarded


def _is_of_output(error: OSError) -> bool:
    """Tell whether `error` came up while something was printed: it names no file then, and a disk may say the same."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return frame.f_globals["__name__"].partition(".")[0] in _PRINTERS


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends


def fail(error: BackupdError, *, as_json: bool) -> NoReturn:
    """Print `error`, and exit with its code."""
    if as_json:
        print_json(error_facts(error.message, error.hint, error.exit_code))
    print_error(error.message, error.hint)
    sys.exit(error.exit_code)


def error_facts(message: str, hint: str, exit_code: int) -> dict[str, object]:
    """Return what `--json` prints of an error."""
    return {"outcome": "failed", "error": message, "hint": hint, "exit_code": exit_code}


def print_error(message: str, hint: str | None) -> None:
    """Print what is wrong and what to do next to standard error."""
    lines = "\n".join(printable(line) for line in message.splitlines())
    click.echo(f"{click.style('error', fg='red', bold=True)}: {lines}", err=True)
    if hint:
        click.echo(f"  {click.style('what to do', bold=True)}: {hint}", err=True)


def print_warning(warning: str) -> None:
    """Print what somebody should look at to standard error."""
    click.echo(f"{click.style('warning', fg='yellow', bold=True)}: {printable(warning)}", err=True)


def print_trouble(report: AnyReport) -> None:
    """Print the warnings of a run, and why it failed, to standard error."""
    for warning in report.warnings:
        print_warning(warning)
    if report.outcome == "failed":
        print_error(f"{report.task} of {report.subject}: {report.error}", report.hint)


def worst_exit(reports: Iterable[AnyReport]) -> int:
    """Return the exit code that matters most among those of `reports`."""
    return min((report.exit_code for report in reports), key=_WORST_FIRST.index, default=0)


def read_config(config_file: Path | None) -> Config:
    """Return the effective configuration. Raises ConfigError."""
    return load_config(config_file, os.environ)


def open_context(config: Config, progress: Progress | None = None, *, writing: bool | None = True) -> TaskContext:
    """Become whom PUID asks for, and return the local store as `build_site` makes it.

    With `writing` of None it is written to where that is possible: a read-only mount will do as well. Its log is
    closed when the command ends. Raises ConfigError.
    """
    settle(config, os.environ)  # first: what may be written depends on who writes
    become_owner_of_backups(config, os.environ)
    context = build_context(config, progress, writing=writable(config) if writing is None else writing)
    click.get_current_context().call_on_close(context.log.close)
    return context


def print_json(facts: object) -> None:
    """Print `facts` as indented JSON; times are ISO 8601."""
    click.echo(json.dumps(facts, indent=2, default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def read_time(text: str | None, config: Config) -> datetime | None:
    """Return the last instant that a time means, in UTC: a date means its whole day, one without seconds its minute.

    One without a zone is meant in `schedule.timezone`. Raises UsageError.
    """
    if text is None:
        return None
    try:
        time = _last_instant(text)
        if time.tzinfo:
            return time.astimezone(UTC)
        local = time.replace(tzinfo=ZoneInfo(config.schedule.timezone))
        return max(local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))  # a clock set back shows it twice
    except (ValueError, OverflowError):  # the year 1 and the year 9999 may lie outside the calendar in UTC
        raise UsageError(f"{text!r} is no time", 'write it like "2026-11-20 14:00" (or with a zone, +01:00)') from None


def _last_instant(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if _is_date(text):
        return time.replace(hour=23, minute=59, second=59, microsecond=999_999)
    if _SECONDS.search(text):
        return time
    return time.replace(second=59, microsecond=999_999)  # a backup of 04:00 was taken some seconds later


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


@contextmanager
def opened(name: str, config: Config, context: TaskContext) -> Iterator[tuple[Archives, Inventory]]:
    """Lend the store of that name, the local one or a replica, with all that is in it.

    Raises UsageError when there is none of that name, ReplicaUnreachable and what else opening the replica raises.
    """
    require_store(name, config)
    if name == LOCAL_STORE:
        yield context.store, local_inventory(context)
        return
    from backupd.bootstrap.replicas import open_store  # brings paramiko, which nobody needs to look at local copies

    with open_store(config, name, context) as found:
        yield found


def require_store(name: str, config: Config) -> None:
    """Raise UsageError when there is no store of that name."""
    if name not in (LOCAL_STORE, *config.replicas):
        known = ", ".join((LOCAL_STORE, *config.replicas))
        hint = f"the configuration ({config.origin}) has: {known}"
        if "/" in name:
            hint += "; a directory is read as a replica: BACKUPD_REPLICAS__OLD__URL=file:/PATH, and the store is old"
        raise UsageError(f"there is no store {name!r}", hint)


def default_source(source: str | None, config: Config) -> str | None:
    """Return the source that is meant: the one that is named, else the only one that is configured."""
    return source or (next(iter(config.sources)) if len(config.sources) == 1 else None)


def claims_at(
    name: str,
    there: Inventory,
    source: str | None,
    context: TaskContext,
    *,
    adopting: bool = False,
    dry_run: bool = False,
) -> Provenance:
    """Return whose generations at replica `name` count as this store's own, once it was `adopting` those of others.

    A local store that cannot be read keeps nobody from a restore: nothing counts as own then, and all is usable.
    """
    try:
        here = read_inventory(context)
        claims = provenance_of(here, context)
    except OSError as error:
        if adopting:
            raise
        print_warning(
            f"{context.store.directory} cannot be read ({error.strerror}): which copies are its own is not known"
        )
        return Provenance(None, {}, frozenset())
    if not adopting:
        return claims
    return adopt(claims.foreign(there, source), here, there, name, context, dry_run=dry_run)


def tell_whose(manifest: Manifest, there: Inventory, claims: Provenance, name: str) -> None:
    """Print of which store a generation at replica `name` is, where that is another one: after a disaster."""
    for group in claims.foreign(there, manifest.source):
        if manifest.id in group.ids:
            way_on = f"this store goes on with them after: backupd replicate --to {name} --adopt"
            print_warning(f"{name} holds {group.words(there.now)}: {way_on}")


def expiry_of(name: str, config: Config) -> RetentionRule:
    """Return what may stay in the store of that name."""
    if name == LOCAL_STORE:
        return retention_rule(config)
    from backupd.bootstrap.replicas import replication_request

    return replication_request(config, name).retention


def require_sources(names: tuple[str, ...], config: Config, inventory: Inventory) -> None:
    """Accept sources that are configured or have left generations behind; raises UsageError for any other."""
    known = {*config.sources, *(generation.source for generation in inventory.generations)}
    for name in names:
        if name not in known:
            raise UsageError(f"unknown source {name!r}", f"known sources: {', '.join(sorted(known))}")
