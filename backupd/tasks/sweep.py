"""Sweep the contents of files that no list in a store names any more.

    mark: read the lists of all generations of files   sweep: remove what is not marked, and older than a day

A content is stored before the list that names it is published: hence the day. Where a list cannot be read, or a set of
files is on hold, nothing is swept. A sweep that is due is noted before the generations are removed, until it has ended:
killed anywhere, the next prune sweeps.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Final, Protocol

from backupd.archive.content import unpacked
from backupd.archive.file_list import contents_in
from backupd.errors import BackupdError, CopyCorrupt
from backupd.model import LOCAL_STORE, FilesManifest
from backupd.stores.contract import Archives, Contents, ListedContent
from backupd.system.os_errors import os_error_text
from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import Inventory
from backupd.tasks.pruning_plan import holds_on
from backupd.tasks.store_events import ContentsSwept

GRACE: Final = timedelta(hours=24)
_AT_ONCE: Final = 5000  # contents to remove
_HINT: Final = "if backupd verify finds that generation damaged, remove it: backupd remove ID"


class SweptStore(Archives, Protocol):
    """A store that has contents of files."""

    @property
    def contents(self) -> Contents:
        """The contents of files there."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep has removed, and left for a later one."""

    contents: int
    stored_bytes: int
    young: int  # contents that no list names either, but that are to stay for a while


def note_sweep(removed: Iterable[str], inventory: Inventory, context: TaskContext) -> None:
    """Note that contents are to be swept, if one of the generations that are about to be removed is of files.

    Raises OSError.
    """
    of_files = {generation.id for generation in inventory.generations if generation.kind == "files"}
    if not of_files.isdisjoint(removed):
        context.sweeps.add(inventory.store)


def sweep_if_due(
    store: SweptStore, inventory: Inventory, context: TaskContext, warn: Callable[[str], None] = lambda _text: None
) -> None:
    """Sweep the contents of a store whose `inventory` is what it holds now, if that is due.

    It stays due where contents are still too young, and where it could not be done; `warn` gets why. Only under the
    lock of the store.
    """
    sources = {generation.source for generation in inventory.generations if generation.kind == "files"}
    try:
        if not context.sweeps.due(inventory.store) or holds_on(sources, context):
            return
        swept = sweep(store, inventory)
        if swept.contents:
            context.emit(ContentsSwept(inventory.store, swept.contents, swept.stored_bytes))
        if not swept.young:
            context.sweeps.clear(inventory.store)
    except BackupdError as error:
        warn(f"no contents of files were removed from {inventory.store}: {error.message} ({error.hint})")
    except OSError as error:
        warn(f"contents of files that no generation needs could not be removed: {os_error_text(error)}")


def sweep(store: SweptStore, inventory: Inventory) -> Swept:
    """Remove the contents that no list in the `inventory` of a store names, but for young ones.

    Raises CopyCorrupt, GenerationMissing, where a list cannot be read, before anything is removed; OSError.
    """
    old, young = unneeded_contents(store, inventory)
    remove_contents(store, old)
    return Swept(len(old), sum(content.stored_bytes for content in old), len(young))


def unneeded_contents(store: SweptStore, inventory: Inventory) -> tuple[list[ListedContent], list[ListedContent]]:
    """Return the contents that no list in the `inventory` of a store names: those to be swept, and young ones.

    Raises what `sweep` does.
    """
    marked, newest, unmarked = marked_contents(store, inventory), 0.0, list[ListedContent]()
    for content in store.contents.list():
        newest = max(newest, content.modified_at)
        if content.digest not in marked:
            unmarked.append(content)
    # The clock of another host may run behind: it has reached the time of its newest content at least.
    now = inventory.now.timestamp() if inventory.store == LOCAL_STORE else min(inventory.now.timestamp(), newest)
    before = now - GRACE.total_seconds()
    old = [content for content in unmarked if content.modified_at < before]
    return old, [content for content in unmarked if content.modified_at >= before]


def remove_contents(store: SweptStore, contents: Iterable[ListedContent]) -> None:
    """Remove contents that no list names. Raises OSError."""
    left = iter(contents)
    while some := [content.digest.hex() for content in islice(left, _AT_ONCE)]:
        store.contents.remove(some)


def marked_contents(store: Archives, inventory: Inventory) -> set[bytes]:
    """Return the raw digests of all contents that a list in a store names; they take about 100 bytes each.

    Raises CopyCorrupt, GenerationMissing, OSError.
    """
    marked: set[bytes] = set()
    for generation in inventory.generations:
        if generation.kind != "files":
            continue
        manifest = inventory.manifests.get(generation.id)
        if not isinstance(manifest, FilesManifest):
            raise CopyCorrupt(
                f"which contents {generation.id} needs is not known: {inventory.refused[generation.id]}",
                inventory.how_to_repair(generation.id),
            )
        with unpacked(store.open(generation.id), manifest.archive.member_bytes) as stream:
            try:
                marked.update(contents_in(stream, manifest.files.list_sha256, generation.id))
            except CopyCorrupt as error:
                raise CopyCorrupt(f"{generation.id}: {error.message}", _HINT) from error
    return marked
