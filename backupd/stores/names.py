"""Every name that backupd gives in the directory of a local store, and what happens if something else has it.

docs/generations.md has them as a table, which `python -m backupd.stores.names` prints. Other users may be able to write
there, so whatever reads or writes one of these names opens it by `system.directory` or `system.small_file`.
"""

import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

from backupd.stores.contract import CONTENTS, HIDDEN
from backupd.system.directory import Directory
from backupd.system.small_file import UnexpectedFile, require_kind

_PLACEHOLDERS: Final = {
    "ID": r"[^/]+-\d{8}-\d{4}(-\d{1,3})?",
    "N": r"\d+",
    "RUN": r"\w+",
    "PREFIX": "[0-9a-f]{2}",
    "DIGEST": "[0-9a-f]{64}",
}
_MAX_DEPTH: Final = 5


@dataclass(frozen=True, slots=True)
class StoreName:
    """A name below the directory of a store; a word in capitals stands for what differs."""

    pattern: str
    kind: Literal["file", "directory"]
    holds: str
    otherwise: str
    """What happens if a link, a pipe, a device or anything else has the name."""

    @property
    def expression(self) -> re.Pattern[str]:
        """What paths of such a name match, relative to the directory of the store."""
        parts = re.split(r"(\b[A-Z]+\b)", self.pattern.replace("SHA256SUMS", "\0"))
        found = (_PLACEHOLDERS.get(part, "[^/]+") if part.isupper() else re.escape(part) for part in parts)
        return re.compile("".join(found).replace(re.escape("\0"), "SHA256SUMS"))


_ABSENT: Final = "counts as no generation"
_NO_FILES: Final = "backups and restores of files fail and name it"
_NO_CONTENT: Final = "counts as missing, and is replaced; because of a directory backups of that file fail"
_FAILS: Final = "runs fail and name it"
_DEGRADED: Final = "runs are degraded and name it"
_REMOVED: Final = "removed"
_IGNORED: Final = "ignored"
_RANDOM: Final = "never replaced: the name is random"
_NOT_KEPT: Final = "damaged copies are not kept; runs say so"
_REBUILD: Final = "`catalog rebuild` fails"
_SIDES: Final = "WAL, shared memory and journal of that"
_READ_AGAIN: Final = "all files are read again"
_NAMES: Final = (
    ("ID.sqlite3.gz", "file", "archive of a generation", _ABSENT),
    ("ID.files.gz", "file", "list of a generation of files", _ABSENT),
    ("ID.manifest.json", "file", "its manifest, published last", _ABSENT),
    ("ID.point.json", "file", "index of a restore point, published after its parts", "counts as no restore point"),
    ("files", "directory", "contents of files, each once", _NO_FILES),
    ("files/PREFIX", "directory", "contents whose digests begin with these two digits", _NO_FILES),
    ("files/PREFIX/DIGEST.gz", "file", "a content, packed, by its SHA-256", _NO_CONTENT),
    ("files/PREFIX/DIGEST", "file", "a content that packing makes no smaller", _NO_CONTENT),
    ("SHA256SUMS", "file", "digests, for `sha256sum -c`", "replaced; because of a directory nothing is pruned"),
    ("backup.log", "file", "the log", _DEGRADED),
    ("backup.log.N", "file", "the log before a rotation", f"{_IGNORED}, and replaced by a rotation"),
    (".doctor-RUN.b", "file", "write test of `doctor`", _RANDOM),
    (".backupd", "directory", "everything below", _FAILS),
    (".backupd/lock", "file", "lock of the store", _FAILS),
    (".backupd/TASK.lock", "file", "lock of a drill, of a replication, or of a daemon for a source", "that task fails"),
    (".backupd/doctor-RUN.a", "file", "write test of `doctor`", _RANDOM),
    (".backupd/SHA256SUMS.new", "file", "unfinished SHA256SUMS", _REMOVED),
    (".backupd/identity", "file", "identity of the store", _FAILS),
    (".backupd/identity.new", "file", "unfinished identity", _REMOVED),
    (".backupd/adopted", "file", "identities of lost stores", "replications fail and name it"),
    (".backupd/adopted.new", "file", "unfinished identities", _REMOVED),
    (".backupd/catalog.sqlite3", "file", "catalog, which can be rebuilt", _DEGRADED),
    (".backupd/catalog.sqlite3-SIDE", "file", _SIDES, _DEGRADED),
    (".backupd/catalog.sqlite3.new", "file", "unfinished catalog", _REMOVED),
    (".backupd/catalog.sqlite3.rebuild", "file", "unfinished catalog", _REBUILD),
    (".backupd/catalog.sqlite3.rebuild-SIDE", "file", _SIDES, _REBUILD),
    (".backupd/catalog.sqlite3.damaged-N", "file", "damaged catalog, kept for inspection", _IGNORED),
    (".backupd/catalog.sqlite3.damaged-N-SIDE", "file", _SIDES, _IGNORED),
    (".backupd/holds", "directory", "holds, a file each", f"{_FAILS}; nothing is pruned"),
    (".backupd/holds/SOURCE.json", "file", "hold on a source", "counts as a hold: nothing of it is pruned"),
    (".backupd/holds/SOURCE.new", "file", "unfinished hold", _REMOVED),
    (".backupd/holds/SOURCE.accepted", "file", "an unreadable copy may be published", "counts as that permission"),
    (".backupd/pins", "directory", "pins, a file each", f"{_DEGRADED}; nothing is pruned"),
    (".backupd/pins/ID.json", "file", "pin on a generation", "counts as a pin without end"),
    (".backupd/pins/ID.new", "file", "unfinished pin", _REMOVED),
    (".backupd/damaged", "directory", "marks of damage, a file each", _FAILS),
    (".backupd/damaged/ID", "file", "mark of a damaged generation", "counts as a mark"),
    (".backupd/damaged/ID.new", "file", "unfinished mark", _REMOVED),
    (".backupd/sweeps", "directory", "sweeps of contents that are due, a file each", f"{_DEGRADED}; nothing is swept"),
    (".backupd/sweeps/STORE", "file", "sweep that is due in that store", "counts as such"),
    (".backupd/quarantine", "directory", "damaged copies, by source", _NOT_KEPT),
    (".backupd/quarantine/SOURCE", "directory", "damaged copies of a source", _NOT_KEPT),
    (".backupd/quarantine/SOURCE/COPY", "directory", "a damaged copy", _IGNORED),
    (".backupd/quarantine/SOURCE/COPY/snapshot.sqlite3", "file", "the copy itself", _IGNORED),
    (".backupd/quarantine/SOURCE/COPY/findings.txt", "file", "findings of its check", _IGNORED),
    (".backupd/index", "directory", "what was read of sets of files, a file each", _READ_AGAIN),
    (".backupd/index/SOURCE", "file", "what was read of a set of files", _READ_AGAIN),
    (".backupd/removing", "directory", "generations that are being removed", _FAILS),
    (".backupd/removing/ID.manifest.json", "file", "manifest of a removed generation", _REMOVED),
    (".backupd/staging", "directory", "work in progress, by run", _FAILS),
    (".backupd/staging/run-RUN", "directory", "work of a run", "left alone"),
    (".backupd/staging/run-RUN/NAME", "file", "a file that is fetched, unpacked or sent", "that run fails"),
    (".backupd/staging/run-RUN/copy", "directory", "files of a backup", "that run fails"),
    (".backupd/staging/run-RUN/copy/NAME", "file", "copy, journal, archive and manifest", "that run fails"),
    (".backupd/staging/run-RUN/files-SOURCE", "directory", "files of a backup of a set of files", "that run fails"),
    (".backupd/staging/run-RUN/files-SOURCE/NAME", "file", "contents, list, archive and manifest", "that run fails"),
)
NAMES: Final = tuple(StoreName(*name) for name in _NAMES)


@cache
def _names_in(top: str, depth: int) -> tuple[tuple[re.Pattern[str], StoreName], ...]:
    """Return the names at a depth below a directory at the top of a store."""
    found = (name for name in NAMES if name.pattern.count("/") == depth and name.pattern.startswith(top))
    return tuple((name.expression, name) for name in found)


def name_of(path: str) -> StoreName | None:
    """Return the name that `path`, relative to the directory of a store, has in `NAMES`; None if it has none."""
    top, below, _ = path.partition("/")
    candidates = _names_in(top if below and top in (CONTENTS, HIDDEN) else "", path.count("/"))
    return next((name for expression, name in candidates if expression.fullmatch(path)), None)


def unexpected_files(directory: Path) -> Iterator[UnexpectedFile]:
    """Yield the objects in a store that have a name of backupd and are of another kind. Raises OSError."""
    with Directory.open(directory) as base:
        yield from _unexpected(base, "", _MAX_DEPTH)


def _unexpected(directory: Directory, above: str, depth: int) -> Iterator[UnexpectedFile]:
    for name in sorted(directory.names()):
        path = f"{above}{name}"
        known, state = name_of(path), directory.stat(name)
        if known is None or state is None:
            continue
        is_directory = stat.S_ISDIR(state.st_mode)
        try:
            if not (is_directory and path.startswith(f"{HIDDEN}/staging/")):  # of a run: files and directories
                require_kind(state, directory.path_of(name), directory=known.kind == "directory")
        except UnexpectedFile as error:
            yield error
            continue
        if is_directory and depth:
            with directory.child(name) as below:
                yield from _unexpected(below, f"{path}/", depth - 1)


def names_table() -> str:
    """Return NAMES as a table in Markdown."""
    rows = (f"| `{one.pattern}` | {one.holds} | {one.otherwise} |" for one in NAMES)
    return "\n".join(("| name | contents | if something else has the name |", "|---|---|---|", *rows)) + "\n"


if __name__ == "__main__":
    sys.stdout.write(names_table())
