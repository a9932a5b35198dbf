"""Where `backupd restore` restores to: the database of a source, and the directory that it lies in."""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from backupd.bootstrap.tasks import sources, workers
from backupd.cli.common import open_context
from backupd.config import Config
from backupd.errors import UsageError
from backupd.model import Manifest, Progress
from backupd.privileges import (
    Identity,
    become_owner_of_backups,
    become_root_again,
    follows_owner,
    hand_over_backups,
    may_override_rights,
    settle,
)
from backupd.sqlite.permissions import apply_permissions, plan_permissions
from backupd.tasks.context import TaskContext
from backupd.tasks.restore.in_place import RestoreRequest


def restore_site(config: Config, progress: Progress, *, reading: bool) -> TaskContext:
    """Return the local store, made where there is none unless it is only for `reading`; a read-only one will do."""
    settle(config, os.environ)  # first: a private directory hides even whether there is a store in it
    return open_context(config, progress, writing=None if reading or config.backups_dir.exists() else True)


def only_source(source: str | None, config: Config) -> str:
    """Return the one source that is meant. Raises UsageError where there are several."""
    names = sources(config, (source,) if source else ())
    if len(names) > 1:
        raise UsageError(f"which source: {', '.join(names)}?", "name it with --source")
    return names[0]


def replacement(source: str, config: Config, *, stopped: bool, dry_run: bool) -> RestoreRequest:
    """Return what is to be put in place of the database of `source`. Raises UsageError where none is configured."""
    if source not in config.sources:
        known = ", ".join(config.sources)
        raise UsageError(
            f"the configuration ({config.origin}) does not say where the database of {source!r} lies; it has: {known}",
            "add it to [sources], or restore to a new file (--to PATH)",
        )
    return RestoreRequest(source, config.sources[source].path, workers(config), stopped, dry_run)


def with_directories(found: Iterable[tuple[RestoreRequest, Manifest]], config: Config) -> list[RestoreRequest]:
    """Give the directories of databases, where they were made empty, to their owners, and become that owner if we may.

    All of them first: only root can. In a dry run it is only told, and the store may be out of reach from then on.
    Raises ConfigError.
    """
    become_root_again()  # `open_context` may have made us somebody else
    requests = [_with_directory(request, manifest, config) for request, manifest in found]
    if not any(request.dry_run for request in requests):
        settle(config, os.environ)  # also where another restore has just given the directory away
        become_owner_of_backups(config, os.environ)
    return requests


def _with_directory(request: RestoreRequest, manifest: Manifest, config: Config) -> RestoreRequest:
    if os.geteuid() != 0 or not (follows_owner(os.environ) or may_override_rights()):
        return request  # root that stays root could not write to a directory of another user
    database = Path(os.path.realpath(request.path))
    rights = plan_permissions(database, manifest.origin, config.backups_dir)
    if rights is not None and rights.uid is not None and not request.dry_run:
        if follows_owner(os.environ):  # before its directory shuts us out
            gid = rights.uid if rights.gid is None else rights.gid
            hand_over_backups(config, Identity(rights.uid, gid, f"the owner of {database.parent}"))
        if not apply_permissions(database.parent, rights):
            return request
    return replace(request, directory=rights)
