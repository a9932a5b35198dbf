"""SeenStates of the disk after a killed run: of two kills that leave the same state, one recovery is tested."""

import hashlib
import re
import shutil
import sqlite3
import stat
import tempfile
from contextlib import closing
from pathlib import Path
from threading import Lock

from workspaces import Workspace

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
_TEXTS = re.compile(r"\.(json|log|lock|restore|backupd-drill)$|/(lock|SHA256SUMS|SHA256SUMS\.new|identity)$")
_WAL_HEADER, _FRAME_HEADER = 32, 24


class SeenStates:
    """The states that copies of a workspace were in, ignoring times, random names and process ids.

    Names, modes and contents must be equal; of the catalog its rows and the pages in its WAL. A file called `ignoring`
    does not count.
    """

    def __init__(self, template: Workspace, ignoring: str = "") -> None:
        self._old = {stamp for path in template.root.rglob("*") for stamp in re.findall(_STAMP, path.name)}
        self._ignored = ignoring
        self._seen: set[str] = set()
        self._lock = Lock()

    def is_new(self, workspace: Workspace, *more: object) -> bool:
        """Tell whether this state, together with `more`, was not seen before; record it."""
        state = sorted(
            (self._same(str(path.relative_to(workspace.root))), self._of(path, workspace))
            for path in workspace.root.rglob("*")
            if path.name != self._ignored
        )
        digest = hashlib.sha256(repr((state, more)).encode()).hexdigest()
        with self._lock:
            new = digest not in self._seen
            self._seen.add(digest)
        return new

    def _of(self, path: Path, workspace: Workspace) -> tuple[int, str]:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode) or path.name.endswith("-shm"):  # shared memory is not stored data
            return mode, ""
        if path.name == "catalog.sqlite3":
            return mode, self._same(_catalog_rows(path).replace(str(workspace.root), ""))
        if path.name == "catalog.sqlite3-wal":
            return mode, _wal_pages(path.read_bytes())
        if _TEXTS.search(str(path)):
            return mode, self._same(path.read_text().replace(str(workspace.root), ""))
        return mode, hashlib.sha256(path.read_bytes()).hexdigest()

    def _same(self, text: str) -> str:
        """Return `text` without what differs between runs."""
        return _CHANGING.sub(lambda found: found[0] if found[0] in self._old else f"<{found.lastgroup}>", text)


def _catalog_rows(catalog: Path) -> str:
    """Return size and rows of the catalog, read from a copy: the next run must find the file unopened."""
    with tempfile.TemporaryDirectory() as scratch:
        for suffix in ("", "-wal", "-journal"):
            if Path(f"{catalog}{suffix}").exists():
                shutil.copy2(f"{catalog}{suffix}", f"{scratch}/copy{suffix}")
        with closing(sqlite3.connect(f"{scratch}/copy")) as copy:
            return "\n".join([f"{catalog.stat().st_size} bytes", *copy.iterdump()])


def _wal_pages(wal: bytes) -> str:
    """Return the page numbers and commits in a WAL, and its size (sqlite.org/walformat.html)."""
    frame_bytes = _FRAME_HEADER + int.from_bytes(wal[8:12], "big")
    frames = [wal[begin : begin + 8].hex() for begin in range(_WAL_HEADER, len(wal), frame_bytes)]
    return f"{len(wal)} bytes: {frames}"
