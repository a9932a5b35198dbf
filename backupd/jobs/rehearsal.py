"""Prove the app on a restored copy: place it, run a command, ask the app for its health, look at its migrations."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from backupd.errors import DrillFailed
from backupd.jobs.command import Command, environment_for
from backupd.jobs.healthurl import require_silent, require_well
from backupd.jobs.order import AppProof
from backupd.jobs.place import Place
from backupd.jobs.run import Run
from backupd.model import SourceFacts
from backupd.sqlite.answer import ask_copy


def place_of(app: AppProof, run: Run) -> Place | None:
    """Return the place where the app expects its database, None where it is not asked for."""
    return Place(app.place_at, app.databases, run.warn) if app.place_at else None


def prove_app(app: AppProof, restored: Path, origin: SourceFacts, run: Run) -> None:
    """Do what `app` asks for, in the order of its fields, on `restored` or on the copy of it that was placed.

    Each is a stage of `run`, and stands in its report once it is proven. Raises DrillFailed, TargetRefused, OSError;
    whatever happens the place is cleaned up, and no process of the command lives on.
    """
    if app.health_url:
        require_silent(app.health_url, app.timeout_s)
    with ExitStack() as stack:
        database, place = restored, place_of(app, run)
        if place:
            with run.stage("place"):
                database = stack.enter_context(place.holding(restored, origin))
        if app.command:
            environ = environment_for(database, os.environ, app.secrets)
            command = stack.enter_context(_told(app.command, environ, restored.parent, run))
            with _proving("command", run):
                command.require_success(app.timeout_s)
        if app.health_url:
            with _proving("health", run):
                require_well(app.health_url, app.timeout_s)
        if app.user_version is not None or app.query is not None:
            with _proving("migrations", run):
                _require_migrated(app, database)


@contextmanager
def _proving(what: str, run: Run) -> Iterator[None]:
    with run.stage(what):
        yield
    note_proven(run, what)


def note_proven(run: Run, *what: str) -> None:
    """Let the report say that this is proven."""
    drill = run.report.drill
    if drill is not None:
        run.update(drill=replace(drill, proven=(*drill.proven, *what)))


@contextmanager
def _told(words: tuple[str, ...], environ: dict[str, str], directory: Path, run: Run) -> Iterator[Command]:
    """Run a command during the block, and let the report have the end of what it said, its last words too."""
    command = Command(words, environ, directory)
    try:
        with command:
            yield command
    finally:
        if run.report.drill is not None:
            run.update(drill=replace(run.report.drill, output=command.output()))


def _require_migrated(app: AppProof, database: Path) -> None:
    found = ask_copy(database, app.query, app.timeout_s)
    if app.user_version is not None and found.user_version < app.user_version:
        raise DrillFailed(
            f"the migrations did not apply: PRAGMA user_version is {found.user_version}, not {app.user_version}",
            "look at the log of the app that was started on the restored copy",
        )
    if app.query is not None and found.answer != app.answer:
        raise DrillFailed(
            f"the migrations did not apply: {app.query} gave {found.answer!r}, not {app.answer!r}",
            "look at the log of the app, and at drill.query and drill.answer",
        )
