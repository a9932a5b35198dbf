"""Prove the app on a restored copy: place it, run a command, ask the app for its health, look at its migrations."""

import http.client
import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.error import HTTPError

from backupd.errors import DrillFailed
from backupd.formatting import printable
from backupd.model import Contents, SourceFacts
from backupd.sqlite.inspection import query_copy
from backupd.tasks.drill.app_database import Place
from backupd.tasks.drill.command import Command, environment_for
from backupd.tasks.requests import AppCheck
from backupd.tasks.run import DrillRun

_EVERY_S: Final = 0.5
_ANSWER_S: Final = 5.0
_LONGEST_WORDS: Final = 200


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nowhere: a page to log in is no word of health."""

    def redirect_request(self, *_arguments: object) -> None:
        """Return nothing, so that the redirection itself is the answer."""


# Straight to the app, whatever proxy the environment names.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)
_MOST = 3


def place_of(app: AppCheck, run: DrillRun) -> Place | None:
    """Return the place where the app expects its database, None where it is not asked for."""
    return Place(app.place_at, app.databases, run.warn) if app.place_at else None


def prove_app(app: AppCheck, restored: Path, origin: SourceFacts, run: DrillRun) -> None:
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
def _proving(what: str, run: DrillRun) -> Iterator[None]:
    with run.stage(what):
        yield
    note_proven(run, what)


def note_proven(run: DrillRun, *what: str) -> None:
    """Let the report say that this is proven."""
    drill = run.details.drill
    run.details = replace(run.details, drill=replace(drill, proven=(*drill.proven, *what)))


@contextmanager
def _told(words: tuple[str, ...], environ: dict[str, str], directory: Path, run: DrillRun) -> Iterator[Command]:
    """Run a command during the block, and let the report have the end of what it said, its last words too."""
    command = Command(words, environ, directory)
    try:
        with command:
            yield command
    finally:
        run.details = replace(run.details, drill=replace(run.details.drill, output=command.output()))


def _require_migrated(app: AppCheck, database: Path) -> None:
    found = query_copy(database, app.query, app.timeout_s)
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


def why_unwell(url: str) -> str:
    """Ask `url` once, and return in words what it answered, empty for 200."""
    try:
        with _OPENER.open(url, timeout=_ANSWER_S) as answer:
            return "" if answer.status == http.client.OK else f"it answered {answer.status}"
    except HTTPError as error:
        with error:
            return f"it answered {error.code}{_words_of(error)}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"nobody answered: {getattr(error, 'reason', None) or error}"


def require_well(url: str, timeout_s: float) -> None:
    """Ask until `url` answers 200. Raises DrillFailed after `timeout_s`, with the last answer."""
    give_up = time.monotonic() + timeout_s
    while why := why_unwell(url):
        if time.monotonic() >= give_up:
            raise DrillFailed(
                f"{url} did not answer 200 within {timeout_s:.0f} s: {why}",
                "look at the log of the app that was started on the restored copy",
            )
        time.sleep(_EVERY_S)


def require_silent(url: str, timeout_s: float) -> None:
    """Wait until `url` answers 200 no more: who is well before it has the copy is another. Raises DrillFailed."""
    give_up = time.monotonic() + timeout_s
    while not why_unwell(url):
        if time.monotonic() >= give_up:
            raise DrillFailed(
                f"{url} answers 200 though the restored copy is not in place yet: it proves nothing",
                "it may be the live app, or an instance that kept the copy of an earlier drill open: let the second "
                "instance run only while its database is there (docs/drill.md)",
            )
        time.sleep(_EVERY_S)


def _words_of(error: HTTPError) -> str:
    try:
        words = error.read(_LONGEST_WORDS).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        words = ""
    return f": {printable(words)}" if words else ""


def differences(found: Contents | None, expected: Contents | None) -> str:
    """Return in words how the contents `found` in a copy differ from those `expected`, empty when they do not.

    Rows that either side could not count (`None`) are passed over: that takes functions that only the app has. So is
    all of it where nothing of the contents is expected.
    """
    if expected is None:
        return ""
    if found is None:
        return "its contents could not be counted"
    told = list(_table_counts(found, expected))
    more = f" and {len(told) - _MOST} more differences" if len(told) > _MOST else ""
    return "; ".join(told[:_MOST]) + more


def _table_counts(found: Contents, expected: Contents) -> Iterator[str]:
    for table in sorted(expected.tables.keys() - found.tables.keys()):
        yield f"table {table} is missing"
    for table in sorted(found.tables.keys() - expected.tables.keys()):
        yield f"table {table} is not in the manifest"
    for table in sorted(found.tables.keys() & expected.tables.keys()):
        rows, wanted = found.tables[table], expected.tables[table]
        if None not in (rows, wanted) and rows != wanted:
            yield f"table {table} has {rows} rows, not {wanted}"
    if found.schema_sha256 != expected.schema_sha256:
        yield "its schema has another digest"
