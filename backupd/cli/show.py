"""`backupd show`."""

from dataclasses import asdict, replace

import click

from backupd.archive.manifest import decode_manifest
from backupd.catalog import GenerationHistory
from backupd.cli import complete
from backupd.cli.common import command, open_context, require_mounted, require_sources
from backupd.cli.output import echo, minute_text, print_json, print_warning, time_text
from backupd.cli.pin import pin_facts, pin_text
from backupd.config import Config
from backupd.formatting import counted, human_bytes, printable
from backupd.model import AnyManifest, Contents, FilesManifest, Manifest
from backupd.report import describe, report_facts
from backupd.sqlite.shadow_tables import shadow_tables_of
from backupd.system.owners import owner_text
from backupd.tasks.choice import LATEST, choose_generation, warning_of_newer
from backupd.tasks.context import local_inventory


@command("show", "backupd show tasks-20261123-0400")
@click.argument("wanted", metavar="[ID|latest]", shell_complete=complete.generations_or_latest)
@click.option(
    "--source",
    metavar="NAME",
    shell_complete=complete.sources,
    help="Source of the latest one; needed where there are several.",
)
def show_command(config: Config, wanted: str, source: str | None, *, as_json: bool) -> None:
    """Read the generation from the local store."""
    context = open_context(config, writing=False)
    require_mounted(context)
    if wanted == LATEST:
        inventory = local_inventory(context)
        require_sources((source,) if source else (), config, inventory)
        manifest = choose_generation(inventory, wanted, source, None)
        if warning := warning_of_newer(manifest, inventory):
            print_warning(warning)
    else:
        manifest = decode_manifest(context.store.manifest(wanted), wanted)
    history = context.ask_catalog(lambda catalog: catalog.history(manifest.id), GenerationHistory((), ()))
    pin = context.pins.get(manifest.id)
    if as_json:
        runs = [
            asdict(replace(run, report=None)) | {"report": run.report and report_facts(run.report)}
            for run in history.runs
        ]
        print_json({"manifest": manifest, "history": {"runs": runs, "checks": history.checks}, **pin_facts(pin)})
        return
    _print(manifest, config.schedule.timezone)
    if pin is not None:
        echo(f"{'kept':<15} {pin_text(pin, config.schedule.timezone)}")
    _print_history(history, config.schedule.timezone)


def _print(manifest: AnyManifest, zone: str) -> None:
    origin, archive, verdict = manifest.origin, manifest.archive, manifest.verdict
    lines = {
        "generation": manifest.id,
        "taken at": time_text(manifest.taken_at, zone),
        "made by": f"store {manifest.store}",
        "source": f"{origin.path} (owner {owner_text(origin.uid, origin.gid)}, mode {origin.mode:04o})",
        **(_lines_of_files(manifest) if isinstance(manifest, FilesManifest) else _lines_of_database(manifest)),
        "archive": f"{human_bytes(archive.size_bytes)}, {counted(archive.members, 'member')}",
        "archive sha256": archive.sha256,
        "verified": f"{verdict.level} ({', '.join(verdict.checks)})",
        "backupd": manifest.backupd_version,
    }
    for name, text in lines.items():
        echo(f"{name:<15} {printable(text)}")
    for note in (*verdict.notes, *filter(None, [verdict.doubt])):
        echo(f"{'note':<15} {printable(note)}")


def _lines_of_database(manifest: Manifest) -> dict[str, str]:
    snapshot = manifest.snapshot
    return {
        "snapshot": f"{human_bytes(snapshot.size_bytes)}, "
        f"{counted(snapshot.page_count, 'page')} of {snapshot.page_size} bytes, "
        f"{snapshot.journal_mode}, by {snapshot.method}",
        "sha256": snapshot.sha256,
        "tables": _tables(manifest.contents) if manifest.contents else "unknown",
        "sqlite": f"written by {snapshot.sqlite_writer}, copied by {snapshot.sqlite_copier}",
    }


def _lines_of_files(manifest: FilesManifest) -> dict[str, str]:
    files = manifest.files
    return {
        "files": f"{counted(files.files, 'file')} of {human_bytes(files.size_bytes)} in all, "
        f"{counted(files.links, 'link')}, {files.skipped} skipped",
        "sha256": f"{files.list_sha256} (of the list)",
    }


def _tables(contents: Contents) -> str:
    """Return the number of tables and rows; rows of a shadow table count in its virtual table."""
    shadows = {name for table, module in contents.virtual.items() for name in shadow_tables_of(table, module)}
    rows = sum(rows or 0 for table, rows in contents.tables.items() if table not in shadows)
    return f"{len(contents.tables)} with {counted(rows, 'row')}"


def _print_history(history: GenerationHistory, zone: str) -> None:
    for run in history.runs:
        text = describe(run.report) if run.report else f"{run.task} of {run.source}: {run.outcome or 'running'}"
        echo(f"{minute_text(run.started_at, zone)}  {printable(text)}")
    for check in history.checks:
        echo(f"{minute_text(check.checked_at, zone)}  check in {check.store}: {printable(check.detail)}")
