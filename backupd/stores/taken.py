"""Two senders to one directory: what one has published the other does not overwrite."""

from backupd.errors import GenerationMissing, GenerationTaken
from backupd.stores.contract import Store


def manifest_there(store: Store, generation_id: str) -> bytes | None:
    """Return the manifest that `store` has under that id, None when there is none. Raises OSError."""
    try:
        return store.manifest(generation_id)
    except GenerationMissing:
        return None


def refuse_other(store: Store, generation_id: str, before: bytes | None, mine: bytes) -> None:
    """Raise GenerationTaken when somebody has put another manifest there since it said `before`."""
    if manifest_there(store, generation_id) not in (before, mine):
        raise taken(generation_id, store.name)


def taken(generation_id: str, name: str) -> GenerationTaken:
    """Return the error that says so."""
    return GenerationTaken(
        f"{name} holds another {generation_id}, which is not of this store: it was not overwritten",
        "give each sender a directory of its own there, or move that generation away",
    )
