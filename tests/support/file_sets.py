"""Sets of files as a task backs them up, and trees to try it on."""

import gzip
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

from backupd.archive.file_list import FileEntry, decode_entries
from backupd.archive.manifest import decode_manifest
from backupd.log import null_log
from backupd.masking import Mask
from backupd.model import FilesManifest
from backupd.report import BackupDetails, RunReport
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import FilesRequest, Packing, ShrinkGuard


@dataclass
class FileSet:
    """A directory of files with a store beside it."""

    root: Path
    request: FilesRequest = field(init=False)
    context: TaskContext = field(init=False)

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True)
        self.set_up()

    def set_up(self) -> None:
        """Back up what is there already."""
        self.request = FilesRequest(
            "uploads", self.path, reserve_bytes=0, packing=Packing(workers=2), guard=ShrinkGuard(min_rows=4)
        )
        self.context = TaskContext(DirectoryStore("local", self.root / "backups"), null_log(Mask([])))

    @property
    def path(self) -> Path:
        return self.root / "uploads"

    @property
    def index(self) -> Path:
        return self.root / "backups" / ".backupd" / "index" / "uploads"

    def write(self, name: str, content: bytes | str = "x", *, age_s: float = 100) -> Path:
        """Write a file that was changed `age_s` seconds ago, as far as its mtime tells."""
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        then = place.stat().st_mtime - age_s
        os.utime(place, (then, then))
        return place

    def back_up(self, **changes: object) -> RunReport[BackupDetails]:
        return backup(replace(self.request, **changes), self.context)  # type: ignore[arg-type]

    def manifest(self, generation: str) -> FilesManifest:
        found = decode_manifest(self.context.store.manifest(generation), generation)
        assert isinstance(found, FilesManifest)
        return found

    def entries(self, generation: str) -> dict[str, FileEntry]:
        """Return the entries of the list of a generation by their paths."""
        lines = gzip.decompress(self.context.store.archive_path(generation).read_bytes()).splitlines(keepends=True)
        return {os.fsdecode(entry.path): entry for entry in decode_entries(lines, generation)}

    def content(self, digest: str) -> bytes:
        """Return a stored content, as gunzip(1) gives it, compared with its digest."""
        place = self.root / "backups" / "files" / digest[:2] / digest
        if place.exists():
            data = place.read_bytes()
        else:
            data = subprocess.run(["gunzip", "-c", f"{place}.gz"], check=True, capture_output=True).stdout
        assert hashlib.sha256(data).hexdigest() == digest
        return data

    def restored(self, generation: str) -> dict[str, bytes]:
        """Return the contents of all files of a generation by their paths."""
        found = self.entries(generation).items()
        return {path: self.content(entry.digest) for path, entry in found if entry.type == "f"}

    def on_disk(self) -> dict[str, bytes]:
        """Return what the directory holds now."""
        return {
            str(path.relative_to(self.path)): path.read_bytes()
            for path in self.path.rglob("*")
            if path.is_file() and not path.is_symlink()
        }

    def stored(self) -> set[str]:
        """Return the names of all stored contents."""
        return {path.name for path in (self.root / "backups" / "files").glob("*/*")}

    def forget_index(self) -> None:
        shutil.rmtree(self.index.parent)
