"""`backupd list`."""

from collections.abc import Mapping
from pathlib import Path

import click

from backupd.cli.common import (
    claims_at,
    config_option,
    expiry_of,
    json_option,
    open_context,
    opened,
    print_json,
    print_warning,
    read_config,
    readable_errors,
    require_sources,
    source_option,
    store_option,
)
from backupd.cli.output import print_table
from backupd.cli.pin import pin_facts
from backupd.config import Config
from backupd.formatting import human_age, human_bytes
from backupd.model import LOCAL_STORE, Generation, Pin
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory
from backupd.tasks.prune import pins_in_force, plan_pruning
from backupd.tasks.requests import RetentionRule


@click.command("list", epilog="Example: backupd list --source tasks --json")
@config_option
@store_option
@source_option
@json_option
@readable_errors
def command(config_file: Path | None, store: str, names: tuple[str, ...], *, as_json: bool) -> None:
    """List generations, newest first: age, size, verification, why each is kept, and where copies are."""
    config = read_config(config_file)
    context = open_context(config, writing=False)
    with opened(store, config, context) as (_, inventory):
        require_sources(names, config, inventory)
    foreign = () if store == LOCAL_STORE else claims_at(store, inventory, None, context).foreign(inventory)
    own = inventory.without(key for group in foreign for key in group.ids)
    reasons = _reasons(expiry_of(store, config), config, own, context)
    reasons |= {key: (f"of another store ({group.store})",) for group in foreign for key in group.ids}
    copies, pins = context.copies(), pins_in_force(own, context)
    shown = [g for g in inventory.generations if not names or g.source in names]
    others = {key: group.store for group in foreign for key in group.ids}
    copies = {key: stores for key, stores in copies.items() if key not in others}
    if as_json:
        print_json([_facts(g, reasons, pins.get(g.id), _stores(g, copies, store), others.get(g.id)) for g in shown])
        return
    _print(shown, reasons, copies, context, store)
    for group in foreign:
        if group.source in config.sources and (not names or group.source in names):
            print_warning(
                f"{store} holds copies of {group.source} that another store has made: {group.words(context.clock())}"
            )
    for trouble in inventory.problems():
        print_warning(trouble)


def _reasons(
    retention: RetentionRule, config: Config, inventory: Inventory, context: TaskContext
) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for source in {g.source for g in inventory.generations}:
        if source in config.sources:
            found.update(plan_pruning(source, retention, inventory, context).reasons())
        else:
            found.update({g.id: ("source not configured",) for g in inventory.of(source)})
    return found


def _stores(generation: Generation, copies: Mapping[str, tuple[str, ...]], store: str) -> list[str]:
    """Name the store that was listed, and others that have a copy as far as the catalog knows."""
    return [store, *(name for name in copies.get(generation.id, ()) if name != store)]


def _verification(generation: Generation) -> str:
    return "corrupt" if generation.damaged else generation.verification


def _facts(
    generation: Generation,
    reasons: dict[str, tuple[str, ...]],
    pin: Pin | None,
    stores: list[str],
    other_store: str | None,
) -> dict[str, object]:
    return {
        "id": generation.id,
        "source": generation.source,
        "taken_at": generation.taken_at,
        "archive_bytes": generation.archive_bytes,
        "snapshot_bytes": generation.snapshot_bytes,
        "verification": _verification(generation),
        "kept_for": list(reasons.get(generation.id, ())),
        **pin_facts(pin),
        "stores": stores,
        "other_store": other_store,
    }


def _print(
    shown: list[Generation],
    reasons: dict[str, tuple[str, ...]],
    copies: Mapping[str, tuple[str, ...]],
    context: TaskContext,
    store: str,
) -> None:
    if not shown:
        click.echo(f"no generations in {context.store.directory if store == LOCAL_STORE else store}")
        return
    now = context.clock()
    rows = [
        (
            g.id,
            human_age((now - g.taken_at).total_seconds()),
            human_bytes(g.archive_bytes),
            _verification(g),
            ", ".join(reasons.get(g.id, ())) or "goes with the next prune",
            ", ".join(_stores(g, copies, store)),
        )
        for g in shown
    ]
    print_table(
        ("generation", "age", "size", "verified", "kept for", "stores"),
        rows,
        right=frozenset({"age", "size"}),
    )
