"""Two apps that back up different databases under one source name into one directory: told apart by their paths.

A database that is moved has another path from then on. Where an earlier path comes back, two are backed up in turn:
then each is pruned by itself, so that no copy of one takes the place of a copy of the other.
"""

import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from backupd.errors import OtherDatabase
from backupd.model import Generation, Manifest
from backupd.tasks.inventory import Inventory

_WAY_OUT = "give each app a backups_dir of its own, or its source another name"


def histories(generations: Iterable[Generation], manifests: Iterable[Manifest]) -> list[list[Generation]]:
    """Part the `generations` of one source by database where several were backed up in turn, as `manifests` tell.

    All of them are in the result, in the order given; those without a manifest are with the first.
    """
    ordered = sorted(manifests, key=lambda manifest: (manifest.taken_at, manifest.id))
    if not _in_turn([manifest.origin.path for manifest in ordered]):
        return [list(generations)]
    paths = {manifest.id: manifest.origin.path for manifest in ordered}
    first = ordered[0].origin.path
    parted: dict[str, list[Generation]] = {}
    for generation in generations:
        parted.setdefault(paths.get(generation.id, first), []).append(generation)
    return list(parted.values())


def sharing(inventory: Inventory, source: str, path: Path) -> str:
    """Say in words that another database is backed up in turn with that at `path`, and was the last; else nothing."""
    own, manifests = recorded_path(path), inventory.manifests_of(source)
    newest = manifests[0].origin.path if manifests else own
    if newest == own or not _taken_in_turn(manifests, own):
        return ""
    return f"{newest} and {own} are backed up in turn as {source} in one directory: {_WAY_OUT}"


def require_same_database(manifest: Manifest, inventory: Inventory, path: Path) -> None:
    """Refuse a generation of another database than that at `path`, where both are backed up in turn.

    Raises OtherDatabase.
    """
    own, manifests = recorded_path(path), inventory.manifests_of(manifest.source)
    mine = next((found.id for found in manifests if found.origin.path == own), "none")
    if manifest.origin.path != own and _taken_in_turn(manifests, own):
        raise OtherDatabase(
            f"{manifest.id} is of {manifest.origin.path}, not of {own}, of which {mine} is the newest",
            f"say which you mean by its id; where two apps share this directory: {_WAY_OUT}",
        )


def recorded_path(path: Path) -> str:
    """Return how a manifest writes the path of the database that `path` leads to."""
    return os.path.realpath(path).encode(errors="backslashreplace").decode()


def _in_turn(paths: Sequence[str]) -> bool:
    """Tell whether a path comes back after another."""
    runs = [path for path, _ in groupby(paths)]
    return len(set(runs)) < len(runs)


def _taken_in_turn(newest_first: Sequence[Manifest], now: str) -> bool:
    """Tell the same of the databases of all manifests, and the one that would come next."""
    return _in_turn([*(manifest.origin.path for manifest in reversed(newest_first)), now])
