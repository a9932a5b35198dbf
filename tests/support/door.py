"""The door of a server in this process, before backups that end when a test says so."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from backupd.errors import GenerationMissing
from backupd.model import Manifest
from backupd.remote.run import RemoteRun, RemoteSource
from backupd.web.door import Door, WantedBackup
from support.web_site import WebSite, serving

PAGE_TOKEN = "token-of-the-page-alone"
BACKUP_TOKEN = "token-to-request-backups"
DOWNLOAD_TOKEN = "token-to-fetch-archives"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@dataclass
class FakeBackups:
    """Accepts every request, and lets its run end when `end` is called."""

    wanted: list[tuple[WantedBackup, str]] = field(default_factory=list)
    runs: dict[str, RemoteRun] = field(default_factory=dict)
    futures: dict[str, Future[None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def request(self, wanted: WantedBackup, key: str, client: str) -> RemoteRun:
        assert client
        with self._lock:
            self.wanted.append((wanted, key))
            run_id = f"run-{len(self.wanted)}"
            run = RemoteRun(
                id=run_id,
                requested_at=NOON,
                label=wanted.pin.label if wanted.pin else "",
                sources=tuple(RemoteSource(source=source) for source in wanted.sources or ("tasks",)),
            )
            self.runs[run_id] = run
            self.futures[run_id] = Future()
            self.futures[run_id].set_running_or_notify_cancel()
            return run

    def find(self, run_id: str) -> RemoteRun | None:
        return self.runs.get(run_id)

    def done(self, run_id: str) -> Future[None]:
        return self.futures[run_id]

    def end(self, run_id: str) -> None:
        run = self.runs[run_id]
        ended = tuple(
            replace(source, state="ended", outcome="published", generation=f"{source.source}-20261125-1200")
            for source in run.sources
        )
        self.runs[run_id] = replace(run, sources=ended, ended_at=NOON)
        self.futures[run_id].set_result(None)


@dataclass
class FakeArchives:
    """One archive, with the size and the digest that its manifest has."""

    manifest: Manifest
    path: Path
    opened: Callable[[], BinaryIO] | None = None  # what is opened instead

    def open(self, generation: str) -> tuple[Manifest, BinaryIO]:
        if generation != self.manifest.id:
            raise GenerationMissing("there is none")
        return self.manifest, self.opened() if self.opened else self.path.open("rb")


@contextmanager
def door_site(archives: FakeArchives | None = None) -> Iterator[tuple[WebSite, FakeBackups]]:
    """Serve a page with a token, and the door."""
    backups = FakeBackups()

    def no_archive(_: str) -> tuple[Manifest, BinaryIO]:
        raise GenerationMissing("there is none")

    door = Door(backups, archives.open if archives else no_archive, BACKUP_TOKEN, DOWNLOAD_TOKEN)
    with serving(token=PAGE_TOKEN, door=door) as site:
        yield site, backups


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
