"""SeenStates of the disk after a killed run: of two kills that leave the same state, one recovery is tested."""

import re
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Collection
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from threading import Lock

from workspaces import Workspace, sha256

from support.faults import processes_below

_STAMP = r"\d{8}(?:-\d{4}(?:-\d+)?|T\d{6}Z)"
_CHANGING = re.compile(
    rf"(?P<stamp>{_STAMP})"
    r"|(?P<run>\brun-\w{8}\b)"
    r"|(?P<probe>\btmp\w{8}\b)"
    r"|(?P<part>\b[0-9a-f]{8}(?=\.part\b))"
    r"|(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:[\d.]+(?:Z|[+-]\d\d:\d\d)?)"
    r"|(?P<seal>(?<=\"manifest_sha256\": \")[0-9a-f]{64})"
    r"|(?P<configuration>(?<=')[0-9a-f]{4}(?='\);))"
    r"|(?P<process>(?<=\"pid\": )\d+|(?<=\(process )\d+|(?<=\"inode\": )\d+)"
    r"|(?P<number>\b(?:\d+\.\d+|\d{7,}))"
)
_TEXTS = re.compile(r"\.(json|log|lock|restore(-point)?|backupd-drill)$|/(lock|SHA256SUMS|SHA256SUMS\.new|identity)$")
_WAL_HEADER, _FRAME_HEADER = 32, 24


class SeenStates:
    """The states that copies of a workspace were in, ignoring times, random names and process ids.

    Names, modes and contents must be equal; of the catalog its rows and the pages in its WAL. A file called `ignoring`
    does not count.
    """

    def __init__(self, template: Workspace, ignoring: str = "") -> None:
        self._same = lru_cache(maxsize=256)(self._same)  # most files are as before
        self._old = {stamp for path in template.root.rglob("*") for stamp in re.findall(_STAMP, path.name)}
        self._ignored = ignoring
        self._seen: set[str] = set()
        self._surveyed: list[str] = []
        self._lock = Lock()

    def is_new(self, workspace: Workspace, *more: object) -> bool:
        """Tell whether this state, together with `more`, was not seen before; record it."""
        digest = self._digest(workspace, more)
        with self._lock:
            new = digest not in self._seen
            self._seen.add(digest)
        return new

    def survey(self, workspace: Workspace, at: int | None = None) -> Callable[[], None] | None:
        """Return what is to watch a run to its end, for `kill_points`; nothing where it is killed `at` a step.

        It opens none of the app's files: the run may hold a lease on them.
        """

        def look() -> None:
            try:
                state = self._digest(workspace, len(processes_below(workspace.root)), workspace.database.parent)
            except FileNotFoundError:  # a child removed it just now
                state = f"before step {len(self._surveyed)}"
            self._surveyed.append(state)

        return look if at is None else None

    def kill_points(self, numbers: Collection[int] | None = None) -> list[int]:
        """Return the steps, of `numbers` if given, at which the surveyed run was in another state than at earlier ones.

        That is what a kill leaves there, which loses nothing that the kernel was given, synced or not. A run with other
        child processes is in another state. It does not go for a signal that a run handles: that breaks off whatever
        the run is about to do.
        """
        first: dict[str, int] = {}
        for number, state in enumerate(self._surveyed):
            if numbers is None or number in numbers:
                first.setdefault(state, number)
        return [*first.values()]

    def _digest(self, workspace: Workspace, more: object, closed: Path | None = None) -> str:
        state = sorted(
            (self._same(str(path.relative_to(workspace.root))), self._of(path, workspace, path.parent == closed))
            for path in workspace.root.rglob("*")
            if path.name != self._ignored
        )
        return sha256(repr((state, more)).encode())

    def _of(self, path: Path, workspace: Workspace, is_closed: bool) -> tuple[int, str]:
        found = path.lstat()
        mode = found.st_mode
        if not stat.S_ISREG(mode) or path.name.endswith("-shm"):  # shared memory is not stored data
            return mode, ""
        if is_closed:
            return mode, f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"
        if path.name == "catalog.sqlite3":
            return mode, self._same(_catalog_rows(path).replace(str(workspace.root), ""))
        if path.name == "catalog.sqlite3-wal":
            return mode, _wal_pages(path.read_bytes())
        if _TEXTS.search(str(path)):
            return mode, self._same(path.read_text().replace(str(workspace.root), ""))
        return mode, sha256(path.read_bytes())

    def _same(self, text: str) -> str:
        """Return `text` without what differs between runs."""
        return _CHANGING.sub(lambda found: found[0] if found[0] in self._old else f"<{found.lastgroup}>", text)


def _catalog_rows(catalog: Path) -> str:
    """Return size and rows of the catalog, read from a copy: the next run must find the file unopened."""
    files = (Path(f"{catalog}{suffix}") for suffix in ("", "-wal", "-journal"))
    return _rows_of(tuple(file.read_bytes() if file.exists() else None for file in files))


@lru_cache(maxsize=64)
def _rows_of(files: tuple[bytes | None, ...]) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        for suffix, data in zip(("", "-wal", "-journal"), files, strict=True):
            if data is not None:
                Path(f"{scratch}/copy{suffix}").write_bytes(data)
        with closing(sqlite3.connect(f"{scratch}/copy")) as copy:
            return "\n".join([f"{len(files[0] or b'')} bytes", *copy.iterdump()])


def _wal_pages(wal: bytes) -> str:
    """Return the page numbers and commits in a WAL, and its size (sqlite.org/walformat.html)."""
    frame_bytes = _FRAME_HEADER + int.from_bytes(wal[8:12], "big")
    frames = [wal[begin : begin + 8].hex() for begin in range(_WAL_HEADER, len(wal), frame_bytes)]
    return f"{len(wal)} bytes: {frames}"
