"""`backupd show`."""

from dataclasses import fields
from pathlib import Path

import click

from backupd.archive.manifest import decode_manifest
from backupd.catalog import GenerationHistory, RunRecord
from backupd.cli.common import (
    config_option,
    json_option,
    open_context,
    print_json,
    read_config,
    readable_errors,
    require_sources,
)
from backupd.cli.pin import pin_facts, pin_words
from backupd.formatting import counted, human_bytes, printable
from backupd.model import Manifest
from backupd.report import describe, report_facts
from backupd.sqlite.shadow_tables import shadow_tables_of
from backupd.system.owners import owner_text
from backupd.tasks.context import local_inventory
from backupd.tasks.inventory import LATEST, choose_generation


@click.command("show", epilog="Example: backupd show tasks-20261123-0400")
@click.argument("wanted", metavar="[ID|latest]")
@click.option("--source", "source", metavar="NAME", help="The latest of this source; needed where there are several.")
@config_option
@json_option
@readable_errors
def command(wanted: str, source: str | None, config_file: Path | None, *, as_json: bool) -> None:
    """Show one generation's manifest, and the runs and checks that concern it."""
    config = read_config(config_file)
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
    _print(manifest)
    if pin is not None:
        click.echo(f"{'kept':<15} {pin_words(pin)}")
    _print_history(history)


def _run_facts(run: RunRecord) -> dict[str, object]:
    facts = {field.name: getattr(run, field.name) for field in fields(run)}
    return {**facts, "report": report_facts(run.report) if run.report else None}


def _print(manifest: Manifest) -> None:
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
        "tables": _tables(manifest),
        "sqlite": f"written by {snapshot.sqlite_writer}, copied by {snapshot.sqlite_copier}",
        "backupd": manifest.backupd_version,
    }
    for name, text in lines.items():
        click.echo(f"{name:<15} {printable(text)}")
    for note in (*verdict.notes, *filter(None, [verdict.doubt])):
        click.echo(f"{'note':<15} {printable(note)}")


def _tables(manifest: Manifest) -> str:
    if manifest.contents is None:
        return "unknown"
    return f"{len(manifest.contents.tables)} with {counted(total_rows(manifest), 'row')}"


def total_rows(manifest: Manifest) -> int:
    """Return the rows of all tables that could be counted; those of shadow tables are in their virtual table."""
    contents = manifest.contents
    if contents is None:
        return 0
    shadows = {name for table, module in contents.virtual.items() for name in shadow_tables_of(table, module)}
    return sum(rows or 0 for table, rows in contents.tables.items() if table not in shadows)


def _print_history(history: GenerationHistory) -> None:
    for run in history.runs:
        text = describe(run.report) if run.report else f"{run.task} of {run.source}: {run.outcome or 'at work'}"
        click.echo(f"{run.started_at:%F %T}  {printable(text)}")
    for check in history.checks:
        click.echo(f"{check.checked_at:%F %T}  check in {check.store}: {printable(check.detail)}")
