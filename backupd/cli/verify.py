"""`backupd verify`."""

import sys
from pathlib import Path

import click

from backupd.bootstrap.tasks import workers
from backupd.cli.common import (
    claims_at,
    config_option,
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
from backupd.cli.output import shown_progress
from backupd.errors import GenerationMissing, UsageError
from backupd.formatting import human_duration, printable
from backupd.model import LOCAL_STORE
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import LATEST, Inventory, choose_generation
from backupd.tasks.provenance import refusal
from backupd.tasks.verify import VerificationResult, verify


@click.command("verify", epilog="Example: backupd verify --all")
@click.argument("ids", nargs=-1, metavar="[ID|latest]...")
@click.option("--all", "everything", is_flag=True, help="Every generation in the store.")
@config_option
@store_option
@source_option
@json_option
@readable_errors
def command(
    ids: tuple[str, ...],
    config_file: Path | None,
    store: str,
    names: tuple[str, ...],
    *,
    everything: bool,
    as_json: bool,
) -> None:
    """Prove generations again: digests, unpacking and integrity; without an ID the newest of each source.

    `latest` is the newest that counts, as `backupd restore latest` takes it; of each --source where several are named.

    Exits 0 when all are sound, 1 when one is not. A damaged one is marked, and no longer counts for retention. On a
    read-only store archives are unpacked in the system's temporary directory (TMPDIR), and nothing is marked or logged.
    """
    config = read_config(config_file)
    results = []
    with shown_progress(quiet=as_json) as progress:
        context = open_context(config, progress, writing=None)
        with opened(store, config, context) as (place, found):
            require_sources(names, config, found)
            inventory = _usable(ids, names or tuple(config.sources), found, store, context)
            for generation in _wanted(ids, names, inventory, everything=everything):
                try:
                    result = verify(
                        generation, inventory, workers(config), context, reserve=config.space.reserve, store=place
                    )
                except GenerationMissing:
                    if ids:
                        raise
                    print_warning(f"{generation} was pruned meanwhile: skipped")
                    continue
                results.append(result)
                _print(result, quiet=as_json)
    if as_json:
        print_json(results)
    sys.exit(0 if all(result.sound for result in results) else 1)


def _usable(
    ids: tuple[str, ...], names: tuple[str, ...], there: Inventory, store: str, context: TaskContext
) -> Inventory:
    """Leave out what another store has made at a replica: of other sources, and of these but after a disaster.

    What is asked for by its id stays, and is refused where it may not be used. Raises ForeignCopies.
    """
    if store == LOCAL_STORE:
        return there
    claims = claims_at(store, there, None, context)
    foreign, usable = claims.foreign(there), claims.usable(there)
    others = {key for group in foreign if group.source not in names for key in group.ids} - set(ids)
    hidden = [group for group in foreign if not group.ids <= usable.manifests.keys()]
    usable = usable.without(others)
    meant = [group for group in hidden if group.ids & set(ids) or (group.source in names and not usable.generations)]
    if meant:
        raise refusal(meant, store, "they are not verified as copies of this one", there.now)
    return usable


def _wanted(ids: tuple[str, ...], names: tuple[str, ...], inventory: Inventory, *, everything: bool) -> list[str]:
    if ids and everything:
        raise UsageError("--all and an ID do not go together", "give one of the two")
    ids = tuple(key for name in ids for key in _meant(name, names, inventory))
    unknown = [name for name in ids if all(name != g.id for g in inventory.generations)]
    if unknown:
        raise GenerationMissing(f"there is no generation {', '.join(unknown)}", f"see {inventory.list_command}")
    if ids:
        return list(dict.fromkeys(ids))
    found = [g for g in inventory.generations if not names or g.source in names]
    if not found:
        raise GenerationMissing(f"there is no generation in store {inventory.store}", inventory.how_to_fill)
    if everything:
        return [g.id for g in found]
    newest = {g.source: g.id for g in reversed(found)}
    return sorted(newest.values())


def _meant(wanted: str, names: tuple[str, ...], inventory: Inventory) -> list[str]:
    if wanted != LATEST:
        return [wanted]
    return [choose_generation(inventory, LATEST, name, None).id for name in names or (None,)]


def _print(result: VerificationResult, *, quiet: bool) -> None:
    if result.warning:
        print_warning(result.warning)
    if quiet:
        return
    word = click.style("sound", fg="green") if result.sound else click.style("DAMAGED", fg="red", bold=True)
    detail = "" if result.sound else f": {printable(result.detail)}"
    click.echo(f"{result.id}: {word} ({human_duration(result.duration_s)}){detail}")
