"""Prove that the app can be proven on a restored copy, before the first drill."""

import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from backupd.errors import CheckFailed
from backupd.system.fs import write_durably
from backupd.tasks.doctor.finding import Finding, finding
from backupd.tasks.drill.app_check import why_unwell
from backupd.tasks.drill.app_database import Place
from backupd.tasks.requests import AppCheck, DrillRequest


def examine_drill(request: DrillRequest) -> Iterator[Finding]:
    """Yield a finding for each of place, command and URL that the drill of `order` would use."""
    app = request.app
    if app is None:
        return
    if app.place_at:
        place_at = app.place_at
        yield finding("drill place", lambda: _place(place_at, app))
    if app.command:
        yield finding("drill command", lambda: _command(app.command[0]))
    if app.health_url:
        url = app.health_url
        yield finding("drill URL", lambda: _url(url))


def _place(place_at: Path, app: AppCheck) -> str:
    Place(place_at, app.databases).require_free()
    probe = place_at.with_name(f".{place_at.name}.{secrets.token_hex(4)}")
    try:
        write_durably(probe, b"written and deleted by backupd doctor")
    finally:
        probe.unlink(missing_ok=True)
    return f"{place_at} is free, and can be written"


def _command(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise CheckFailed(f"{program} is no program that user {os.geteuid()} may run", "check drill.command and PATH")
    return f"{found} can be run"


def _url(url: str) -> str:
    if not why_unwell(url):
        raise CheckFailed(
            f"{url} answers 200 already, without a restored copy: a drill could prove nothing by it",
            "let it be that of a second instance, which runs only while its database is there (docs/drill.md)",
        )
    return f"{url} is silent, as it should be before a drill"
