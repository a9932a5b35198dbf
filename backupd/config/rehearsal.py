"""Whether a drill fits the rest of the configuration, as far as names alone can tell."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from backupd.config.sections import DrillSection, SourceSection
from backupd.model import LOCAL_STORE
from backupd.sqlite.database_files import files_of_database


def refuse_misfit(
    drill: DrillSection, sources: Mapping[str, SourceSection], replicas: Iterable[str] | None, backups_dir: Path | None
) -> None:
    """Raise ValueError where `drill` speaks of what is not there, or would write where something is; None: unknown."""
    if replicas is not None and drill.from_ not in (None, LOCAL_STORE, *replicas):
        known = ", ".join((LOCAL_STORE, *replicas))
        raise ValueError(f"from: there is no store {drill.from_!r}; there are: {known}")
    if drill.source is not None and drill.source not in sources:
        raise ValueError(f"source: there is no source {drill.source!r}; there are: {', '.join(sources)}")
    if drill.proves_app and drill.source is None and len(sources) > 1:
        raise ValueError(f"source: whose app is it, of {', '.join(sources)}?")
    if drill.place_at is not None:
        _refuse_place(drill.place_at, sources, backups_dir)


def _refuse_place(place: Path, sources: Mapping[str, SourceSection], backups_dir: Path | None) -> None:
    for name, source in sources.items():
        if files_of_database(place) & files_of_database(source.path):
            raise ValueError(f"place_at: {place} is the database of source {name}, or beside it where its WAL lies")
    if backups_dir is not None and backups_dir in place.parents:
        raise ValueError(f"place_at: {place} is in the directory of the backups: choose a place of its own")
