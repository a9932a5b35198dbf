"""Check the app on a restored copy: place it, run a command, request the app's health, query its migrations."""

import http.client
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from backupd.errors import CheckFailed, DrillFailed
from backupd.model import SourceFacts
from backupd.sqlite.file_format import is_encrypted
from backupd.sqlite.inspection import query_copy
from backupd.system.command import Command, CommandEnd
from backupd.system.held_file import HeldFile
from backupd.system.http import HttpRequest, RequestFailed, send_request
from backupd.system.process import environment_without
from backupd.tasks.doctor import Finding, check_program, run_check
from backupd.tasks.drill.app_database import AppDatabase
from backupd.tasks.requests import AppCheck, DrillRequest
from backupd.tasks.run import DrillRun

RESTORED: Final = "BACKUPD_RESTORED_DATABASE"
_POLL_S: Final = 0.5
_ANSWER_S: Final = 5.0
_SEE_THE_APP: Final = "look at the log of the app that was started on the restored copy"
WHICH_SOURCE: Final = "set drill.source (BACKUPD_DRILL__SOURCE) to the source whose database the app is checked on"
_COMMAND_HINTS: Final[Mapping[str, str]] = {
    "late": "start processes that keep running in the background, or raise drill.timeout_s",
    "unusable": "check drill.command",
}


def app_database(app: AppCheck, run: DrillRun) -> AppDatabase | None:
    """Return the database of the second instance of the app, None where no path is configured for it."""
    return AppDatabase(app.place_at, app.databases, run.warn) if app.place_at else None


def check_app(app: AppCheck, restored: HeldFile, origin: SourceFacts, run: DrillRun) -> None:
    """Run the checks of `app`, in the order of its fields, on `restored` or on the copy of it that is placed.

    Each is a stage of `run`, and is in its report once it has passed. Raises DrillFailed, TargetRefused, OSError; in
    every case the placed copy is removed, and all processes of the command end.
    """
    if app.health_url:
        _require_unhealthy(app.health_url, app.timeout_s)
    with ExitStack() as stack:
        database, path, placed = restored, restored.path, app_database(app, run)
        if placed:
            with run.stage("place"):
                database, path = stack.enter_context(placed.holding(restored, origin)), placed.path
        if app.command:
            environ = environment_without(app.secrets, os.environ) | {RESTORED: str(path)}
            command = Command(app.command, environ, Path(restored.directory.fixed_path))
            stack.callback(_add_output, command, run)  # called after the command has ended
            stack.enter_context(command)
            with _check("command", run):
                _require_success(command.wait(app.timeout_s))
        if app.health_url:
            with _check("health", run):
                _require_healthy(app.health_url, app.timeout_s)
        if app.user_version is not None or app.query is not None:
            with _check("migrations", run):
                _require_migrated(app, database)


@contextmanager
def _check(name: str, run: DrillRun) -> Iterator[None]:
    with run.stage(name):
        yield
    add_proven(run, name)


def add_proven(run: DrillRun, *checks: str) -> None:
    """Add checks that passed to the report."""
    drill = run.details.drill
    run.details = replace(run.details, drill=replace(drill, proven=(*drill.proven, *checks)))


def _add_output(command: Command, run: DrillRun) -> None:
    run.details = replace(run.details, drill=replace(run.details.drill, output=command.output()))


def _require_success(end: CommandEnd) -> None:
    if end.failure:
        raise DrillFailed(end.failure, _COMMAND_HINTS.get(end.how, "read its output (backupd drill --json)"))


def _require_migrated(app: AppCheck, database: HeldFile) -> None:
    found = query_copy(database, app.query, app.timeout_s)
    if app.user_version is not None and found.user_version < app.user_version:
        what = f"PRAGMA user_version is {found.user_version}, expected at least {app.user_version}"
        raise DrillFailed(what, _SEE_THE_APP)
    if app.query is not None and found.answer != app.answer:
        raise DrillFailed(
            f"drill.query returned {found.answer!r:.200}, expected {app.answer!r}: {app.query}",
            "look at the log of the app, and check drill.query and drill.answer",
        )


def health_problem(url: str) -> str:
    """Request `url` once; return how it answered, empty for 200."""
    try:
        response = send_request(HttpRequest(url), timeout_s=_ANSWER_S, direct=True)
    except RequestFailed as error:
        return f"no answer: {error}"
    return "" if response.status == http.client.OK else f"it {response.words(urlsplit(url).query)}"


def _require_healthy(url: str, timeout_s: float) -> None:
    """Wait until `url` answers 200. Raises DrillFailed after `timeout_s`, with the last answer."""
    deadline = time.monotonic() + timeout_s
    while problem := health_problem(url):
        if time.monotonic() >= deadline:
            raise DrillFailed(f"{url} did not answer 200 within {timeout_s:.0f} s: {problem}", _SEE_THE_APP)
        time.sleep(_POLL_S)


def _require_unhealthy(url: str, timeout_s: float) -> None:
    """Wait until `url` no longer answers 200: an instance without the copy would prove nothing. Raises DrillFailed."""
    deadline = time.monotonic() + timeout_s
    while not health_problem(url):
        if time.monotonic() >= deadline:
            raise DrillFailed(
                f"{url} answers 200 though the restored copy is not in place yet: it proves nothing",
                "it may be the live app, or an instance that still has the copy of an earlier drill open; the second "
                "instance must run only while its database exists (docs/drill.md)",
            )
        time.sleep(_POLL_S)


def check_drill_setup(request: DrillRequest) -> Iterator[Finding]:
    """Yield a finding for each part of the set-up that the checks of `request` need, for `backupd doctor`."""
    app = request.app
    if request.unclear:
        yield Finding("drill", ok=False, detail=request.unclear, hint=WHICH_SOURCE)
    if app is None:
        return
    if app.place_at:
        yield run_check("drill place", partial(_check_place, app.place_at, app))
    if app.command:
        yield run_check("drill command", partial(check_program, app.command[0], "drill.command"))
    if app.health_url:
        yield run_check("drill URL", partial(_check_url, app.health_url))
    if (app.user_version is not None or app.query is not None) and request.path is not None:
        yield run_check("drill query", partial(_check_query, request.path))


def _check_place(place_at: Path, app: AppCheck) -> str:
    AppDatabase(place_at, app.databases).require_usable()
    return f"{place_at} is free and writable"


def _check_url(url: str) -> str:
    if not health_problem(url):
        raise CheckFailed(
            f"{url} already answers 200, without a restored copy: a drill could prove nothing with it",
            "use the URL of a second instance, which runs only while its database exists (docs/drill.md)",
        )
    return f"{url} does not respond yet, as expected before a drill"


def _check_query(path: Path) -> str:
    with suppress(OSError):  # a missing database is a finding of its source
        if is_encrypted(os.fspath(path)):
            raise CheckFailed(
                f"{path} is encrypted: drill.query and drill.user_version cannot read a copy of it",
                "let drill.command check the copy, with the app's key",
            )
    return f"{path} is not encrypted: a copy can be queried"
