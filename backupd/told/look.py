"""Looks at what there may be to tell of; changes nothing."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from backupd.calls import CallFailed, Reply, call
from backupd.catalog import CatalogUnavailable, LastRun, read_catalog
from backupd.health import HealthFacts, Limit, Standing
from backupd.jobs.site import Site
from backupd.jobs.standing import health_facts, present_inventory
from backupd.text import printable
from backupd.told.deploy import Seen
from backupd.told.trouble import Look

_ANSWER_S = 5.0
_OK = 200
_LONGEST_VERSION = 100


@dataclass(frozen=True, slots=True)
class App:
    """The app beside: where it tells whether it is well, and where its version is told; see `[app]`."""

    health_url: str
    version: str | None = None
    version_file: Path | None = None
    version_header: str | None = None
    version_field: str = "version"
    timeout: timedelta = timedelta(minutes=5)


def take_look(limits: Iterable[Limit], subjects: frozenset[str], site: Site) -> Look:
    """Look at proofs, holds, damaged generations and runs; raises nothing: what could not be seen is named."""
    limits = tuple(limits)
    health, damaged = _health(limits, site)
    ours = {key: source for key, source in damaged.items() if source in subjects}
    runs: tuple[LastRun, ...] | None = ()
    error = None
    if site.catalog_path.exists():
        try:
            with read_catalog(site.catalog_path) as catalog:
                runs = tuple(catalog.last_runs(site.clock()))
        except CatalogUnavailable as trouble:
            runs, error = None, trouble
    return Look(health, subjects, runs, ours, error)


def _health(limits: tuple[Limit, ...], site: Site) -> tuple[HealthFacts, Mapping[str, str]]:
    try:
        inventory = present_inventory(site)
        damaged = {one.id: one.source for one in inventory.generations if not one.verified}
        return health_facts(limits, inventory, site), damaged
    except OSError:
        standings = tuple(Standing(limit.task, limit.subject, None, limit.limit_s) for limit in limits)
        return HealthFacts(standings, unknown=("the directory of the backups cannot be read",)), {}


def look_at_app(app: App) -> Seen:
    """Ask the app whether it is well and which version it has."""
    reply = None
    try:
        reply = call(app.health_url, timeout_s=_ANSWER_S, direct=True)
        key = urlsplit(app.health_url).query
        trouble = "" if reply.status == _OK else f"its health_url {reply.words(key)}"
    except CallFailed as error:
        trouble = f"its health_url: {error}"
    version = app.version or _from_file(app) or (_from_reply(app, reply) if reply else "")
    return Seen("app", printable(version.strip())[:_LONGEST_VERSION] or None, trouble)


def _from_file(app: App) -> str:
    if app.version_file is not None:
        with suppress(OSError), app.version_file.open(encoding="utf-8", errors="replace") as stream:
            return stream.readline(_LONGEST_VERSION + 1)
    return ""


def _from_reply(app: App, reply: Reply) -> str:
    if app.version_header is not None and app.version_header.lower() in reply.headers:
        return reply.headers[app.version_header.lower()]
    try:
        value = json.loads(reply.body)
        for name in app.version_field.split("."):
            value = value[name]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return str(value) if isinstance(value, str | int | float) else ""
