"""`backupd verify`."""

import sys

import click

from backupd.bootstrap.tasks import workers
from backupd.cli import common, complete, output
from backupd.config import Config
from backupd.errors import CopyUnreadable, GenerationMissing
from backupd.formatting import human_duration, printable
from backupd.model import LOCAL_STORE
from backupd.tasks.choice import LATEST, choose_generation, warning_of_newer
from backupd.tasks.contents_check import ContentsCheck
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory
from backupd.tasks.provenance import refusal
from backupd.tasks.verify import VerificationResult, verify


@common.command(
    "verify",
    "backupd verify --all",
    {0: "all are verified", 1: "at least one is damaged, or could not be verified", 75: ""},
)
@click.argument("ids", nargs=-1, metavar="[ID|latest]...", shell_complete=complete.generations_or_latest)
@click.option("--all", "everything", is_flag=True, help="Every generation in the store.")
@common.store_option()
@common.source_option
def verify_command(
    config: Config, ids: tuple[str, ...], store: str, names: tuple[str, ...], *, everything: bool, as_json: bool
) -> None:
    """Check digests, unpacking and integrity; without an ID of the newest generation of each source.

    `latest` is the generation that backupd restore latest takes; with several --source, that of each. A damaged
    generation is marked, and no longer counts for retention. Where the store is read-only, archives are unpacked in
    the temporary directory (TMPDIR), and nothing is marked or logged.
    """
    if ids and everything:
        raise common.refuse_together("--all", "an ID")
    results = []
    with output.shown_progress(quiet=as_json) as progress:
        context = common.open_context(config, progress, writing=None)
        with common.opened(store, config, context) as (archives, inventory):
            common.require_sources(names, config, inventory)
            usable = _usable(ids, names or (*config.sources, *config.files), inventory, store, context)
            contents = ContentsCheck(archives.contents)  # each is read once, whatever lists name it
            for generation in _chosen(ids, names, usable, everything=everything):
                reserve = config.space.reserve
                try:
                    result = verify(
                        generation,
                        usable,
                        workers(config),
                        context,
                        reserve=reserve,
                        store=archives,
                        contents=contents,
                    )
                except GenerationMissing:
                    if ids:
                        raise
                    output.print_warning(f"{generation} was pruned since the listing: skipped")
                    continue
                results.append(result)
                _print(result, quiet=as_json)
    if as_json:
        output.print_json(results)
    failed = [result for result in results if not result.sound]
    unreadable = bool(failed) and all(result.unreadable for result in failed)
    sys.exit(CopyUnreadable.exit_code if unreadable else int(bool(failed)))


def _usable(
    ids: tuple[str, ...], names: tuple[str, ...], inventory: Inventory, store: str, context: TaskContext
) -> Inventory:
    """Leave out copies at a replica that another store made: of other sources, and of `names` unless all are.

    A generation of `ids` stays, or is refused where it may not be used. Raises ForeignCopies.
    """
    if store == LOCAL_STORE:
        return inventory
    claims = common.read_claims(context)
    foreign, usable = claims.foreign(inventory), claims.usable(inventory)
    asked = set(ids) | inventory.replaced
    others = {key for group in foreign if group.source not in names for key in group.ids} - asked
    hidden = [group for group in foreign if not group.ids <= usable.manifests.keys()]
    usable = usable.without(others)
    meant = [
        group
        for group in hidden
        if group.ids & set(ids) - inventory.replaced or (group.source in names and not usable.generations)
    ]
    if meant:
        raise refusal(meant, store, "they are not verified as copies of this one", inventory.now)
    return usable


def _chosen(ids: tuple[str, ...], names: tuple[str, ...], inventory: Inventory, *, everything: bool) -> list[str]:
    ids = tuple(key for wanted in ids for key in _resolved(wanted, names, inventory))
    unknown = [key for key in ids if all(key != g.id for g in inventory.generations)]
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


def _resolved(wanted: str, names: tuple[str, ...], inventory: Inventory) -> list[str]:
    """Return the ids that an argument means."""
    if wanted != LATEST:
        return [wanted]
    newest = [choose_generation(inventory, LATEST, name, None) for name in names or (None,)]
    for warning in filter(None, (warning_of_newer(manifest, inventory) for manifest in newest)):
        output.print_warning(warning)
    return [manifest.id for manifest in newest]


def _print(result: VerificationResult, *, quiet: bool) -> None:
    if result.warning:
        output.print_warning(result.warning)
    if quiet:
        return
    bad = "DAMAGED" if result.damaged else "NOT VERIFIED"
    word = click.style("verified", fg="green") if result.sound else click.style(bad, fg="red", bold=True)
    detail = "" if result.sound else f": {printable(result.detail)}"
    output.echo(f"{result.id}: {word} ({human_duration(result.duration_s)}){detail}")
