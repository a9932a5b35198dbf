"""`backupd list` and `backupd show`: the generations of a store, and one of them."""

from dataclasses import dataclass, fields

import click

from backupd.archive.manifest import decode_manifest
from backupd.bootstrap.tasks import retention_rule
from backupd.catalog import GenerationHistory, RunRecord
from backupd.cli.common import command, open_context, opened, read_claims, require_sources, source_option, store_option
from backupd.cli.output import print_json, print_table, print_warning
from backupd.cli.pin import pin_facts, pin_text
from backupd.config import Config
from backupd.formatting import counted, human_age, human_bytes, printable
from backupd.model import LOCAL_STORE, Contents, Generation, Manifest, Pin
from backupd.report import describe, report_facts
from backupd.sqlite.shadow_tables import shadow_tables_of
from backupd.system.owners import owner_text
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.inventory import LATEST, Inventory, choose_generation
from backupd.tasks.prune import pins_in_force, plan_pruning
from backupd.tasks.requests import RetentionRule


@dataclass(frozen=True, slots=True)
class _Row:
    """What is shown of a generation: why it is kept, where copies are, and which other store made it, if one did."""

    generation: Generation
    kept_for: tuple[str, ...]
    pin: Pin | None
    stores: tuple[str, ...]
    other_store: str | None

    @property
    def verification(self) -> str:
        return "corrupt" if self.generation.damaged else self.generation.verification


@command("list", "backupd list --source tasks --json", {75: ""})
@store_option()
@source_option
def list_command(config: Config, store: str, names: tuple[str, ...], *, as_json: bool) -> None:
    """Show age, size, verification, why each generation is kept, and which stores have a copy."""
    context = open_context(config, writing=False)
    with opened(store, config, context) as (_, inventory):
        require_sources(names, config, inventory)
    foreign = () if store == LOCAL_STORE else read_claims(context).foreign(inventory)
    others = {key: group.store for group in foreign for key in group.ids}
    own = inventory.without(others)
    reasons = _reasons(_retention(store, config), config, own, context)
    reasons |= {key: (f"of another store ({other})",) for key, other in others.items()}
    # The store that is listed, and those that have a copy according to the catalog, which knows own ones alone.
    copies = {key: (store, *(name for name in at if name != store)) for key, at in context.copies().items()}
    stores, pins = copies | dict.fromkeys(others, (store,)), pins_in_force(own, context)
    rows = [
        _Row(g, reasons.get(g.id, ()), pins.get(g.id), stores.get(g.id, (store,)), others.get(g.id))
        for g in inventory.generations
        if not names or g.source in names
    ]
    if as_json:
        print_json([_facts(row) for row in rows])
        return
    _print(rows, context, store)
    for group in foreign:
        if group.source in config.sources and (not names or group.source in names):
            print_warning(f"{store} holds copies of {group.source} by another store: {group.describe(context.clock())}")
    elsewhere = {*others, *inventory.refused}
    if damaged := [row.generation.id for row in rows if row.generation.damaged and row.generation.id not in elsewhere]:
        at = "" if store == LOCAL_STORE else f" --store {store}"
        print_warning(f"damaged generations are not counted; to delete them: backupd remove{at} {' '.join(damaged)}")
    for problem in inventory.problems():
        print_warning(problem)


def _retention(store: str, config: Config) -> RetentionRule:
    """Return the retention policy of a store."""
    if store == LOCAL_STORE:
        return retention_rule(config)
    from backupd.bootstrap.replicas import replication_request

    return replication_request(config, store).retention


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


def _facts(row: _Row) -> dict[str, object]:
    generation = row.generation
    return {
        "id": generation.id,
        "source": generation.source,
        "taken_at": generation.taken_at,
        "archive_bytes": generation.archive_bytes,
        "snapshot_bytes": generation.snapshot_bytes,
        "verification": row.verification,
        "kept_for": list(row.kept_for),
        **pin_facts(row.pin),
        "stores": list(row.stores),
        "other_store": row.other_store,
    }


def _print(rows: list[_Row], context: TaskContext, store: str) -> None:
    if not rows:
        click.echo(f"no generations in {context.store.directory if store == LOCAL_STORE else store}")
        return
    now = context.clock()
    lines = [
        (
            row.generation.id,
            human_age((now - row.generation.taken_at).total_seconds()),
            human_bytes(row.generation.archive_bytes),
            row.verification,
            ", ".join(row.kept_for) or "removed by the next prune",
            ", ".join(row.stores),
        )
        for row in rows
    ]
    print_table(("generation", "age", "size", "verified", "kept for", "stores"), lines)


@command("show", "backupd show tasks-20261123-0400")
@click.argument("wanted", metavar="[ID|latest]")
@click.option("--source", metavar="NAME", help="Source of the latest one; needed where there are several.")
def show_command(config: Config, wanted: str, source: str | None, *, as_json: bool) -> None:
    """Read the generation from the local store."""
    context = open_context(config, writing=False)
    if wanted == LATEST:
        inventory = local_inventory(context)
        require_sources((source,) if source else (), config, inventory)
        manifest = choose_generation(inventory, wanted, source, None)
    else:
        manifest = decode_manifest(context.store.manifest(wanted), wanted)
    history = context.ask_catalog(lambda catalog: catalog.history(manifest.id), GenerationHistory((), ()))
    pin = context.pins.get(manifest.id)
    if as_json:
        runs = [_run_facts(run) for run in history.runs]
        print_json({"manifest": manifest, "history": {"runs": runs, "checks": history.checks}, **pin_facts(pin)})
        return
    _print_manifest(manifest)
    if pin is not None:
        click.echo(f"{'kept':<15} {pin_text(pin)}")
    _print_history(history)


def _run_facts(run: RunRecord) -> dict[str, object]:
    facts = {field.name: getattr(run, field.name) for field in fields(run)}
    return {**facts, "report": report_facts(run.report) if run.report else None}


def _print_manifest(manifest: Manifest) -> None:
    origin, snapshot, archive, verdict = manifest.origin, manifest.snapshot, manifest.archive, manifest.verdict
    lines = {
        "generation": manifest.id,
        "taken at": f"{manifest.taken_at:%F %T} UTC",
        "made by": f"store {manifest.store}",
        "source": f"{origin.path} (owner {owner_text(origin.uid, origin.gid)}, mode {origin.mode:04o})",
        "snapshot": f"{human_bytes(snapshot.size_bytes)}, "
        f"{counted(snapshot.page_count, 'page')} of {snapshot.page_size} bytes, "
        f"{snapshot.journal_mode}, by {snapshot.method}",
        "sha256": snapshot.sha256,
        "archive": f"{human_bytes(archive.size_bytes)}, {counted(archive.members, 'member')}",
        "archive sha256": archive.sha256,
        "verified": f"{verdict.level} ({', '.join(verdict.checks)})",
        "tables": _tables(manifest.contents) if manifest.contents else "unknown",
        "sqlite": f"written by {snapshot.sqlite_writer}, copied by {snapshot.sqlite_copier}",
        "backupd": manifest.backupd_version,
    }
    for name, text in lines.items():
        click.echo(f"{name:<15} {printable(text)}")
    for note in (*verdict.notes, *filter(None, [verdict.doubt])):
        click.echo(f"{'note':<15} {printable(note)}")


def _tables(contents: Contents) -> str:
    """Return the number of tables and rows; rows of a shadow table count in its virtual table."""
    shadows = {name for table, module in contents.virtual.items() for name in shadow_tables_of(table, module)}
    rows = sum(rows or 0 for table, rows in contents.tables.items() if table not in shadows)
    return f"{len(contents.tables)} with {counted(rows, 'row')}"


def _print_history(history: GenerationHistory) -> None:
    for run in history.runs:
        text = describe(run.report) if run.report else f"{run.task} of {run.source}: {run.outcome or 'running'}"
        click.echo(f"{run.started_at:%F %T}  {printable(text)}")
    for check in history.checks:
        click.echo(f"{check.checked_at:%F %T}  check in {check.store}: {printable(check.detail)}")
