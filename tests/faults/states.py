"""What a killed run leaves on the disk: two kills that leave the same need to be healed only once."""

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
    r"|(?P<part>\b[0-9a-f]{8}(?=\.part\b))"
    r"|(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:[\d.]+(?:Z|[+-]\d\d:\d\d)?)"
    r"|(?P<seal>(?<=\"manifest_sha256\": \")[0-9a-f]{64})"
    r"|(?P<process>(?<=\"pid\": )\d+|(?<=\(process )\d+|(?<=\"inode\": )\d+)"
    r"|(?P<number>\b(?:\d+\.\d+|\d{7,}))"
)
_TEXTS = (".json", ".log", ".restore", "/lock", ".lock", "/SHA256SUMS", "/SHA256SUMS.new", "/identity")
_WAL_HEADER, _FRAME_HEADER = 32, 24


class States:
    """The states that copies of a yard were found in, but for times, random names and numbers of processes.

    Names, modes and contents have to be the same: of our catalog what it says and the pages that lie in its WAL.
    """

    def __init__(self, template: Workspace) -> None:
        self._old = {stamp for path in template.root.rglob("*") for stamp in re.findall(_STAMP, path.name)}
        self._seen: set[str] = set()
        self._lock = Lock()

    def is_new(self, yard: Workspace, *more: object) -> bool:
        """Tell whether no yard was like this one yet, together with what `more` there is to it."""
        state = sorted(
            (self._same(str(path.relative_to(yard.root))), self._of(path, yard)) for path in yard.root.rglob("*")
        )
        digest = hashlib.sha256(repr((state, more)).encode()).hexdigest()
        with self._lock:
            new = digest not in self._seen
            self._seen.add(digest)
        return new

    def _of(self, path: Path, yard: Workspace) -> tuple[int, str]:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode) or path.name.endswith("-shm"):  # shared memory is no file to anybody else
            return mode, ""
        if path.name == "catalog.sqlite3":
            return mode, self._same(_told_by(path))
        if path.name == "catalog.sqlite3-wal":
            return mode, _pages_in(path.read_bytes())
        if str(path).endswith(_TEXTS):
            return mode, self._same(path.read_text().replace(str(yard.root), ""))
        return mode, hashlib.sha256(path.read_bytes()).hexdigest()

    def _same(self, text: str) -> str:
        """Return `text` as it would be at another time."""
        return _CHANGING.sub(lambda found: found[0] if found[0] in self._old else f"<{found.lastgroup}>", text)


def _told_by(catalog: Path) -> str:
    """Return the size of our catalog and all that is in it, without opening the file that the next run will find."""
    with tempfile.TemporaryDirectory() as scratch:
        for suffix in ("", "-wal", "-journal"):
            if Path(f"{catalog}{suffix}").exists():
                shutil.copy2(f"{catalog}{suffix}", f"{scratch}/copy{suffix}")
        with closing(sqlite3.connect(f"{scratch}/copy")) as copy:
            return "\n".join([f"{catalog.stat().st_size} bytes", *copy.iterdump()])


def _pages_in(wal: bytes) -> str:
    """Return which pages a WAL holds, where transactions end, and what is left over (sqlite.org/walformat.html)."""
    frame_bytes = _FRAME_HEADER + int.from_bytes(wal[8:12], "big")
    frames = [wal[begin : begin + 8].hex() for begin in range(_WAL_HEADER, len(wal), frame_bytes)]
    return f"{len(wal)} bytes: {frames}"
