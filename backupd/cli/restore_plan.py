"""What a restore over a database will do: `--dry-run` shows it, and an operator at a terminal confirms it."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import click
from click.core import ParameterSource

from backupd.cli import common, output
from backupd.errors import NotConfirmed, TargetInUse, TargetRefused
from backupd.formatting import human_age, human_bytes, printable
from backupd.model import Manifest
from backupd.sqlite.history import KEPT, KEPT_FOR
from backupd.sqlite.target import STOPPED_FLAG, Target
from backupd.tasks.inventory import Inventory
from backupd.tasks.restore import RestoreRequest
from backupd.tasks.restore.database import planned_result

_ANOTHER = "another generation: backupd list, then backupd restore ID, or --at TIME, or --from STORE"
_NAMES_NO_WAY = frozenset({"config_file", "source"})  # where there are several sources, one has to be named


@dataclass(frozen=True, slots=True)
class Options:
    """How a restore is carried out, by the options of the command."""

    adopt: bool
    online: bool
    accept_older: bool
    allow_none: bool
    stopped: bool
    yes: bool
    dry_run: bool
    as_json: bool
    exact: bool = False


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """The generation `manifest`, found in the store of `inventory`, is to replace the database of `request`."""

    manifest: Manifest
    request: RestoreRequest
    inventory: Inventory
    place: str  # where that store is
    zone: str  # of the times that are shown
    online: bool

    def lines(self, now: datetime) -> Iterator[str]:
        """Yield the plan line by line; the last lines are about the database, which is only looked at."""
        manifest, request = self.manifest, self.request
        yield f"would restore {manifest.id} to {request.path} ({human_bytes(manifest.snapshot.size_bytes)})"
        age = human_age((now - manifest.taken_at).total_seconds())
        yield f"  taken    {output.time_text(manifest.taken_at, self.zone)}"
        yield f"  age      {age}"
        state = next(g.state for g in self.inventory.generations if g.id == manifest.id)
        yield f"  verified {state}; it is verified again before anything changes"
        yield f"  from     {self.place} (archive: {human_bytes(manifest.archive.size_bytes)})"
        yield from self._target_lines()

    def part_lines(self) -> Iterator[str]:
        """Yield the plan of a part of a restore point."""
        manifest, request = self.manifest, self.request
        yield f"  {request.source}: {manifest.id} to {request.path} ({human_bytes(manifest.snapshot.size_bytes)})"
        yield f"    taken    {output.time_text(manifest.taken_at, self.zone)}"
        with suppress(TargetRefused):  # the next line says why
            planned = planned_result(manifest, request, Target.inspect(request.path))
            yield f"    owner    {planned.owner or 'you'}, mode {planned.mode}"
        for line in self._target_lines():
            if not line.startswith("  undo"):
                yield f"  {line}"

    def _target_lines(self) -> Iterator[str]:
        try:
            yield from self._fate(Target.inspect(self.request.path))
        except TargetRefused as error:
            yield f"  database {error.message}"

    def _fate(self, target: Target) -> Iterator[str]:
        """Yield the changes to the database and its app, and how to undo them."""
        if target.old is None:
            yield "  database does not exist: it is created"
        elif self.online:
            yield f"  database is overwritten ({_size(target)}), after a safety backup of it"
            yield "  app      keeps running: restart it soon, its memory may be stale"
        else:
            yield f"  database is replaced ({_size(target)})"
            yield f"  kept     beside it, as {target.path.name}{KEPT}TIME, for at least {KEPT_FOR.days} days"
            yield f"  app      {_state_of_app(target, stopped=self.request.stopped)}"
        yield f"  undo     {self.request.undo_command if target.old else 'impossible: no database exists here'}"


def _size(target: Target) -> str:
    return human_bytes(target.old.size_bytes + target.bytes_in_use) if target.old else ""


def _state_of_app(target: Target, *, stopped: bool) -> str:
    try:
        with target.lease(stopped=stopped) as lease:
            return (
                "stopped: no process has the database open"
                if lease.held
                else f"stopped, as you confirmed ({STOPPED_FLAG})"
            )
    except TargetInUse:
        return "must be stopped first: a process has the database open"
    except TargetRefused as error:
        return f"must be stopped first: {error.message}"


class Plan(Protocol):
    """A restore that is shown before it is carried out."""

    def lines(self, now: datetime) -> Iterator[str]:
        """Yield the plan line by line."""


def print_plan(plan: Plan, now: datetime, *, err: bool = False) -> None:
    """Print `plan`, with `err` to standard error."""
    for line in plan.lines(now):
        output.echo(printable(line), err=err)


def is_to_be_confirmed(*also: str) -> bool:
    """Whether this command was typed at a terminal without saying what to restore, and how, except by `also`."""
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    return given <= _NAMES_NO_WAY | {*also} and common.can_ask()


def accept_shown(warning: str) -> bool:
    """Show why an older generation is chosen, and accept it: the operator confirms the plan that follows."""
    output.print_warning(warning)
    return True


def confirm(plan: Plan, now: datetime, another: str = _ANOTHER) -> None:
    """Show `plan`, and ask whether to carry it out; `another` is how to get another one. Raises NotConfirmed."""
    print_plan(plan, now, err=True)
    if not common.confirmed("Restore it?"):
        raise NotConfirmed("not restored: nothing was changed", another)
