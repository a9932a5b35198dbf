"""What commands print: JSON, tables, progress bars on a terminal, warnings and errors."""

import json
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from zoneinfo import ZoneInfo

import click

from backupd.cli.table import TextTable
from backupd.errors import BackupdError
from backupd.formatting import human_bytes, local_time, printable
from backupd.masking import Mask
from backupd.model import NoProgress, Progress
from backupd.report import AnyReport, subject_of
from backupd.sqlite.history import KEPT_FOR
from backupd.tasks.doctor import Finding
from backupd.tasks.restore import RestoreResult

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


_NUMBERS = frozenset({"age", "size"})  # columns
_MASK = "backupd.mask"
_WITHOUT_CONFIGURATION = Mask()


def mask_output(mask: Mask) -> None:
    """Let everything that this command prints from now on pass `mask`."""
    click.get_current_context().meta[_MASK] = mask


def _mask() -> Mask:
    context = click.get_current_context(silent=True)
    mask: Mask = context.meta.get(_MASK, _WITHOUT_CONFIGURATION) if context else _WITHOUT_CONFIGURATION
    return mask


def echo(text: str, *, err: bool = False) -> None:
    """Print `text` and a line end, secrets masked, to standard output or, with `err`, to standard error."""
    click.echo(_mask()(text), err=err)


def print_json(facts: object) -> None:
    """Print `facts` as indented JSON; times are ISO 8601."""
    click.echo(json.dumps(_mask().of(json.loads(json.dumps(facts, default=_plain))), indent=2))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def print_error(message: str, hint: str | None) -> None:
    """Print what is wrong and what to do next to standard error."""
    lines = "\n".join(printable(line) for line in message.splitlines())
    echo(f"{click.style('error', fg='red', bold=True)}: {lines}", err=True)
    print_hint(hint)


def print_hint(hint: str | None) -> None:
    """Print what to do next, if there is a hint, to standard error."""
    if hint:
        echo(f"  {click.style('what to do', bold=True)}: {printable(hint)}", err=True)


def print_warning(warning: str) -> None:
    """Print a warning to standard error."""
    echo(f"{click.style('warning', fg='yellow', bold=True)}: {printable(warning)}", err=True)


def print_problems(report: AnyReport) -> None:
    """Print the warnings of a run, and why it failed, to standard error."""
    for warning in report.warnings:
        print_warning(warning)
    if report.outcome == "failed":
        print_error(f"{report.task} of {subject_of(report)}: {report.error}", report.hint)


def _print_finding(finding: Finding) -> None:
    """Print the result of one check, and what to do about it."""
    mark = click.style("ok   ", fg="green") if finding.ok else click.style("wrong", fg="red", bold=True)
    if finding.warning:
        mark = click.style("warn ", fg="yellow", bold=True)
    echo(f"{mark}  {finding.check}: {printable(finding.detail)}")
    if finding.hint:
        echo(f"         {printable(finding.hint)}")


def end_with_findings(findings: Sequence[Finding], *, as_json: bool) -> NoReturn:
    """Print the results of checks, and exit 1 if one is not ok."""
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            _print_finding(finding)
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def print_notes(notes: Sequence[str]) -> None:
    """Print notes below the facts that they are about."""
    for note in notes:
        echo(f"  note     {printable(note)}")


def fail(error: BackupdError, *, as_json: bool) -> NoReturn:
    """Print `error`, and exit with its code."""
    if as_json:
        print_json(failure_facts(error))
    print_error(error.message, error.hint)
    sys.exit(error.exit_code)


def failure_facts(failed: BackupdError | AnyReport) -> dict[str, object]:
    """Return what `--json` prints of an error, or of a run that failed, beside its subject."""
    message = failed.message if isinstance(failed, BackupdError) else failed.error
    return {"outcome": "failed", "error": message or "", "hint": failed.hint or "", "exit_code": failed.exit_code}


def stages_text(stages: Mapping[str, float], at_least_s: float = 0.0) -> str:
    """Return the stages of a run that took `at_least_s` seconds, with their seconds."""
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in stages.items() if seconds >= at_least_s)


def time_text(at: datetime, zone: str) -> str:
    """Return a time in `zone`, and in UTC, as in ids, where that differs."""
    local, utc = at.astimezone(ZoneInfo(zone)), f"{at.astimezone(UTC):%F %T} UTC"
    return utc if local.utcoffset() == timedelta() else f"{local:%F %T} {zone} ({utc})"


def minute_text(at: datetime, zone: str) -> str:
    """Return the minute of a time in `zone`."""
    return local_time(at, ZoneInfo(zone))


def print_restored(result: RestoreResult, zone: str, *, as_json: bool, planned: bool = False) -> None:
    """Print the result of a restore, or its plan; after a plan that was `planned` and printed, only further facts."""
    if as_json:
        print_json(result)
        return
    if not planned:
        verb = "would restore" if result.dry_run else "restored"
        what = result.generation or "the old database"
        echo(f"{verb} {what} to {result.target} ({human_bytes(result.snapshot_bytes)})")
    if result.taken_at is not None:
        if not planned:
            echo(f"  taken    {time_text(result.taken_at, zone)}")
        checked = "integrity checked" if result.level != "opaque" else "only digest and size could be checked"
        echo(f"  sha256   {result.snapshot_sha256}" + ("" if result.dry_run else f", {checked}"))
    echo(f"  mode     {result.mode}" + (f", owner {result.owner}" if result.owner else ", owner is you"))
    print_notes(result.notes)
    if result.directory:
        echo(f"  directory {Path(result.target).parent}, which was empty: owner {result.directory}")
    if result.old_damage:
        echo(f"  damaged  the old database: {result.old_damage}")
    if result.old_undecided:
        echo(f"  journal  {result.old_undecided}")
        echo(f"           kept as {result.kept}-journal: to get both back, undo before the app starts again")
    if result.kept:
        echo(f"  kept     {result.kept}: backupd clean removes it after {KEPT_FOR.days} days")
    if result.undo:
        echo(f"  undo     {result.undo}")


class _TerminalProgress:
    """Shows each stage of a task as a bar with its rate and the time left."""

    def __init__(self, bars: "Bars") -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, name: str, total_bytes: int) -> None:
        """Complete the bar of the previous stage, and begin one for `name`."""
        if self._task is not None:
            self._bars.update(self._task, completed=self._bars.tasks[self._task].total)
        self._task = self._bars.add_task(name, total=max(total_bytes, 1))

    def advance(self, done_bytes: int) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=done_bytes)


@contextmanager
def shown_progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Show progress on standard error while the block runs, if that is a terminal and `quiet` is not set."""
    if quiet or not sys.stderr.isatty():
        yield NoProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _TerminalProgress(bars)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], below: Collection[str] = ()) -> None:
    """Print `rows`, which a terminal gets in its width: the columns `below` under the rows where these are too long."""
    people = sys.stdout.isatty()
    mask = _mask()
    table = TextTable(headings, [[mask(cell) for cell in row] for row in rows], right=_NUMBERS, below=below)
    heading, *others = table.lines(shutil.get_terminal_size().columns if people else None)
    if people:
        heading = [click.style(line, bold=True) for line in heading]
    echo("\n".join(line for lines in (heading, *others) for line in lines))  # in one call, since each flushes
