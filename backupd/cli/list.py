"""`backupd list`: the generations of a store."""

from collections.abc import Collection
from dataclasses import dataclass

import click

from backupd.bootstrap.tasks import retention_rule
from backupd.cli.common import command, open_context, opened, read_claims, require_sources, source_option, store_option
from backupd.cli.list_points import PointRow, point_facts, point_rows, print_points
from backupd.cli.output import echo, fail, minute_text, print_json, print_table, print_warning
from backupd.cli.pin import pin_facts
from backupd.config import Config
from backupd.errors import CopyUnreadable
from backupd.formatting import human_age, human_bytes
from backupd.model import LOCAL_STORE, Generation, Pin
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory
from backupd.tasks.pruning_plan import PruningPlans, newest_points, pins_in_force
from backupd.tasks.requests import RetentionRule


@dataclass(frozen=True, slots=True)
class _Row:
    """What is shown of a generation: why it is kept, where copies are, and which other store made it, if one did."""

    generation: Generation
    kept_for: tuple[str, ...]
    pin: Pin | None
    stores: tuple[str, ...]
    other_store: str | None
    point: str | None  # the newest restore point that it is part of


@command("list", "backupd list --source tasks --json", {75: ""})
@click.option(
    "--points",
    is_flag=True,
    help="Show restore points: what was backed up together and restores as one, and how much that is.",
)
@store_option()
@source_option
def list_command(config: Config, store: str, names: tuple[str, ...], *, points: bool, as_json: bool) -> None:
    """Show local time (schedule.timezone), age, size, verification, why each generation is kept, and where copies are.

    IDs are in UTC.
    """
    context = open_context(config, writing=False)
    with opened(store, config, context) as (_, inventory):
        require_sources(names, config, inventory)
    foreign = () if store == LOCAL_STORE else read_claims(context).foreign(inventory)
    others = {key: group.store for group in foreign for key in group.ids - inventory.replaced}
    gone = frozenset[str]() if store == LOCAL_STORE else inventory.lost
    own = inventory.without({*others, *gone})
    plans = PruningPlans(_retention(store, config), own, context)
    reasons = _reasons(plans, config, own)
    reasons |= {key: (f"of another store ({other})",) for key, other in others.items()}
    reasons |= dict.fromkeys(gone, ("no longer there",))
    # The store that is listed, and those that have a copy according to the catalog, which knows own ones alone.
    known = {key: tuple(name for name in at if name != store) for key, at in context.copies().items()}
    copies = {key: elsewhere if key in gone else (store, *elsewhere) for key, elsewhere in known.items()}
    stores, pins = copies | dict.fromkeys(others, (store,)), pins_in_force(own, context)
    if points:
        kept_for: dict[str, tuple[str, ...]] = dict.fromkeys(plans.points.removed_ids, ())
        theirs = inventory.points.keys() - own.points.keys()
        kept_for |= {key: (f"of another store ({inventory.points[key].store})",) for key in theirs}
        kept_for.update(plans.points.reasons())
        found = point_rows(inventory, kept_for, pins, stores, names)
        _list_points(found, inventory, config, context, as_json=as_json)
        return
    newest = newest_points(inventory)
    rows = [
        _Row(g, reasons.get(g.id, ()), pins.get(g.id), stores.get(g.id, (store,)), others.get(g.id), newest.get(g.id))
        for g in inventory.generations
        if not names or g.source in names
    ]
    if as_json:
        print_json([_facts(row) for row in rows])
    else:
        _print(rows, context, store, config.schedule.timezone)
        for group in foreign:
            if group.source in {*config.sources, *config.files} and (not names or group.source in names):
                print_warning(
                    f"{store} holds copies of {group.source} by another store: {group.describe(inventory.now)}"
                )
        _warn_of_damage(rows, others, inventory)
    if store != LOCAL_STORE:
        try:
            inventory.require_readable()
        except CopyUnreadable as error:
            fail(error, as_json=False)


def _warn_of_damage(rows: list[_Row], others: Collection[str], inventory: Inventory) -> None:
    elsewhere = {*others, *inventory.refused}
    if damaged := [row.generation.id for row in rows if row.generation.damaged and row.generation.id not in elsewhere]:
        at = "" if inventory.store == LOCAL_STORE else f" --store {inventory.store}"
        print_warning(f"damaged generations are not counted; to delete them: backupd remove{at} {' '.join(damaged)}")
    for problem in inventory.problems():
        print_warning(problem)


def _retention(store: str, config: Config) -> RetentionRule:
    if store == LOCAL_STORE:
        return retention_rule(config)
    from backupd.bootstrap.replicas import replication_request

    return replication_request(config, store).retention


def _reasons(plans: PruningPlans, config: Config, inventory: Inventory) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for source in {g.source for g in inventory.generations}:
        if source in {*config.sources, *config.files}:
            found.update(plans.of(source).reasons())
        else:
            found.update({g.id: ("source not configured",) for g in inventory.of(source)})
    return found


def _facts(row: _Row) -> dict[str, object]:
    generation = row.generation
    return {
        "id": generation.id,
        "source": generation.source,
        "taken_at": generation.taken_at,
        "archive_bytes": generation.archive_bytes,
        "snapshot_bytes": generation.snapshot_bytes,
        "verification": generation.state,
        "kept_for": list(row.kept_for),
        **pin_facts(row.pin),
        "stores": list(row.stores),
        "other_store": row.other_store,
        "point": row.point,
    }


def _list_points(
    rows: list[PointRow], inventory: Inventory, config: Config, context: TaskContext, *, as_json: bool
) -> None:
    if as_json:
        print_json([point_facts(row) for row in rows])
        return
    place = str(context.store.directory) if inventory.store == LOCAL_STORE else inventory.store
    print_points(rows, inventory, place, config.schedule.timezone)
    for problem in inventory.problems():
        print_warning(problem)


def _size_text(generation: Generation) -> str:
    """Return the size of an archive; of a set of files that of the files, since its archive is their list alone."""
    return human_bytes(generation.snapshot_bytes if generation.kind == "files" else generation.archive_bytes)


def _print(rows: list[_Row], context: TaskContext, store: str, zone: str) -> None:
    if not rows:
        echo(f"no generations in {context.store.directory if store == LOCAL_STORE else store}")
        return
    now = context.clock()
    lines = [
        (
            row.generation.id,
            minute_text(row.generation.taken_at, zone),
            human_age((now - row.generation.taken_at).total_seconds()),
            _size_text(row.generation),
            row.generation.state,
            ", ".join(row.kept_for) or "removed by the next prune",
            ", ".join(row.stores),
        )
        for row in rows
    ]
    headings = ("generation", "taken", "age", "size", "verified", "kept for", "stores")
    print_table(headings, lines, below=("kept for", "stores"))
