"""What all commands share: `--config`, `--json`, and errors that people can act on."""

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from traceback import walk_tb
from typing import Any, NoReturn

import click

from backupd.config import Config, load_config
from backupd.errors import BackupdError
from backupd.identity import become_owner_of_backups, settle
from backupd.jobs.site import Site
from backupd.model import Progress, RunReport
from backupd.oserrors import remedy, said
from backupd.starting import is_refusal, refusal
from backupd.text import printable
from backupd.wiring import build_site, writable

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


def told_plainly(command: Callable[..., None]) -> Callable[..., None]:
    """Let `command` end with a clear message and its exit code where it meets foreseen trouble."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - whatever click passes on
        as_json = bool(kwargs.get("as_json"))
        try:
            try:
                command(*args, **kwargs)
            except BackupdError as error:
                fail(error, as_json=as_json)
        except RuntimeError as error:
            if not is_refusal(error):
                raise
            fail(refusal(error), as_json=as_json)
        except BrokenPipeError:
            _discard_output()
            sys.exit(_NOBODY_READS)
        except OSError as error:
            if _is_of_output(error):
                _discard_output()
                print_error(f"standard output cannot be written: {error.strerror}", _NO_OUTPUT)
                sys.exit(1)
            fail(BackupdError(said(error), remedy(error)), as_json=as_json)

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


def print_trouble(report: RunReport) -> None:
    """Print the warnings of a run, and why it failed, to standard error."""
    for warning in report.warnings:
        print_warning(warning)
    if report.outcome == "failed":
        print_error(f"{report.task} of {report.source}: {report.error}", report.hint)


def worst_exit(reports: Iterable[RunReport]) -> int:
    """Return the exit code that matters most among those of `reports`."""
    return min((report.exit_code for report in reports), key=_WORST_FIRST.index, default=0)


def read_config(config_file: Path | None) -> Config:
    """Return the effective configuration. Raises ConfigError."""
    return load_config(config_file, os.environ)


def open_site(config: Config, progress: Progress | None = None, *, writing: bool | None = True) -> Site:
    """Become whom PUID asks for, and return the local store as `build_site` makes it.

    With `writing` of None it is written to where that is possible: a read-only mount will do as well. Its log is
    closed when the command ends. Raises ConfigError.
    """
    settle(config, os.environ)  # first: what may be written depends on who writes
    become_owner_of_backups(config, os.environ)
    site = build_site(config, progress, writing=writable(config) if writing is None else writing)
    click.get_current_context().call_on_close(site.log.close)
    return site


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
