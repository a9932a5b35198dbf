"""Workspaces: an app's database with a store of backups, which tests copy, damage, inspect and recover.

The app was killed: its last transactions are only in the WAL. The store holds three generations of three days and the
policy keeps two: the next backup publishes one and removes two.
"""

import gzip
import hashlib
import re
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backupd.archive.manifest import decode_manifest
from backupd.log import Event, open_log
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX, Manifest
from backupd.retention import RetentionPolicy
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest, RetentionRule
from support.bank import is_balanced, make_bank
from support.command import Backupd, log_lines
from support.faults import BackupdRunner, Call, processes_below, stopped
from support.fork_server import ForkedRun

RECOVERY_EVENTS = frozenset(
    {
        Event.LOCK_TAKEN_OVER,
        Event.STAGING_SWEPT,
        Event.PUBLISH_RECOVERED,
        Event.REMOVAL_RECOVERED,
        Event.RUN_INTERRUPTED,
    }
)
KEPT = 2
BIG_ROWS = 160_000
_EACH = ("fsync", "renameat")
_ENDS = ("write",)
_verified: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Workspace:
    """One app with its backups below `root`."""

    root: Path
    rows: int = 1000
    kept: int = KEPT

    @property
    def database(self) -> Path:
        return self.root / "data" / "tasks.db"

    @property
    def backups(self) -> Path:
        return self.root / "backups"

    @property
    def hidden(self) -> Path:
        return self.backups / ".backupd"

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore("local", self.backups)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a run here."""
        return {
            "BACKUPD_DATABASE": str(self.database),
            "BACKUPD_BACKUPS_DIR": str(self.backups),
            "BACKUPD_SPACE__RESERVE": "0",
            "BACKUPD_RETENTION__LAST": str(self.kept),
            "BACKUPD_RETENTION__WITHIN": "0",
            "BACKUPD_RETENTION__DAILY": "0",
            "BACKUPD_RETENTION__WEEKLY": "0",
        }

    def staged(self, pattern: str) -> bool:
        """Tell whether a run has written to a file of `pattern` in its staging directory."""
        return any(path.stat().st_size for path in (self.hidden / "staging").glob(f"*/{pattern}"))

    @contextmanager
    def stopped(self, pattern: str, *arguments: str) -> Iterator[ForkedRun]:
        """Run `backupd ARGUMENTS` until it has staged a file of `pattern`, and stop it (SIGSTOP) during the block."""
        environ = Backupd(self.environ, self.root).environment()
        with stopped(environ, self.root, lambda: self.staged(pattern), *arguments) as process:
            yield process

    def copy_to(self, root: Path) -> "Workspace":
        shutil.copytree(self.root, root)
        return replace(self, root=root)

    def app_writes(self) -> None:
        """Let the app open its database, write and close it."""
        write(self.database)

    def app_files(self) -> dict[str, str]:
        """Return the digests of the app's files: database and WAL."""
        return {path.name: sha256(path.read_bytes()) for path in self.database.parent.glob("tasks.db*") if is_app(path)}

    def files_of(self, generation: str) -> tuple[bytes, bytes]:
        """Return the bytes of archive and manifest."""
        return self.store.archive_path(generation).read_bytes(), self.store.manifest(generation)

    def taken_at(self, generation: str) -> datetime:
        """Return when it was taken."""
        return decode_manifest(self.store.manifest(generation), generation).taken_at

    def generations(self) -> dict[str, tuple[bytes, bytes]]:
        """Return the files of all generations."""
        return {stored.id: self.files_of(stored.id) for stored in self.store.list()}


@dataclass(frozen=True)
class InitialState:
    """What a workspace holds before a fault, oldest generation first; no app files where the app keeps running."""

    generations: Mapping[str, tuple[bytes, bytes]]
    app_files: Mapping[str, str]

    @classmethod
    def of(cls, workspace: Workspace, *, app_runs: bool = False) -> "InitialState":
        found = workspace.generations()
        return cls(
            {key: found[key] for key in sorted(found, key=workspace.taken_at)},
            {} if app_runs else workspace.app_files(),
        )


def make_workspace(root: Path) -> Workspace:
    """Make the workspace that the tests copy."""
    workspace = Workspace(root)
    workspace.database.parent.mkdir(parents=True)
    workspace.backups.mkdir()
    live = root / "live.db"
    make_bank(live)
    workspace.store.prepare()
    log = open_log(workspace.backups / "backup.log")
    with closing(sqlite3.connect(live, isolation_level=None)) as app:
        for days in (3, 2, 1):
            app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
            taken_at = datetime.now(UTC) - timedelta(days=days)
            context = TaskContext(workspace.store, log, clock=lambda taken_at=taken_at: taken_at)
            order = BackupRequest("tasks", live, retention=RetentionRule(RetentionPolicy(last=3)), reserve_bytes=0)
            assert backup(order, context).outcome == "published"
        app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
        for suffix in ("", "-wal"):  # as a killed app leaves them
            shutil.copy2(f"{live}{suffix}", f"{workspace.database}{suffix}")
    log.close()
    live.unlink()
    assert len(workspace.generations()) == KEPT + 1
    assert Path(f"{workspace.database}-wal").stat().st_size > 0
    return workspace


def assert_nothing_lost(workspace: Workspace, before: InitialState, going: Collection[str] = ()) -> None:
    """Assert the invariants that hold at every instant: no incomplete generation, and none lost.

    Generations in `going` may be removed, and the oldest ones once a new one is published.
    """
    if before.app_files:
        assert workspace.app_files() == before.app_files
    now = workspace.generations()
    for generation in now:
        verify_generation(workspace, generation)
    published = now.keys() - before.generations.keys()
    assert len(published) <= 1
    if published:
        going = [*before.generations][: len(before.generations) + 1 - workspace.kept]
    for generation, files in before.generations.items():
        assert now.get(generation, files) == files
        assert generation in now or generation in going
    _assert_names(workspace)
    for stray in workspace.store.unpaired_files():
        _assert_finishable(workspace, stray)
    assert_checksums(workspace)


def verify_generation(workspace: Workspace, generation: str) -> Manifest:
    """Verify a generation without backupd: digests, gunzip, and the sums of the bank. Returns its manifest."""
    archive, raw = workspace.files_of(generation)
    manifest = decode_manifest(raw, generation)
    _assert_holds(archive, manifest, workspace)
    return manifest


def assert_checksums(workspace: Workspace, *, exact: bool = False) -> None:
    """Assert that `sha256sum -c` succeeds; `exact`: and that it lists exactly the generations in the store."""
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"],
        cwd=workspace.backups,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    if exact:
        listed = [line.split("  ")[1] for line in (workspace.backups / "SHA256SUMS").read_text().splitlines()]
        assert listed == [stored.id + ARCHIVE_SUFFIX for stored in workspace.store.list()]


def assert_no_processes(workspace: Workspace, timeout_s: float = 10) -> None:
    """Wait until the children of a killed run have ended: none may keep reading the app's database."""
    give_up = time.monotonic() + timeout_s
    while left := processes_below(workspace.root):
        assert time.monotonic() < give_up, f"{left} outlived their run"
        time.sleep(0.01)


def assert_next_backup_recovers(workspace: Workspace, runner: BackupdRunner) -> None:
    """Let the app write, run a backup, and assert that it publishes, cleans up, and logs what it cleaned up."""
    workspace.app_writes()
    expected, known = leftovers(workspace), len(events(workspace))
    generations = {stored.id for stored in workspace.store.list()}
    ended = runner.run(["backup", "--json"], workspace.environ)
    assert ended.code == 0, ended.out + ended.err
    assert catalogued(workspace) == {stored.id for stored in workspace.store.list()}
    assert ended.json["outcome"] == "published"
    assert ended.json["generation"] not in generations
    assert RECOVERY_EVENTS.intersection(events(workspace)[known:]) == expected
    assert_tidy(workspace)
    assert_listed(workspace, runner)
    for generation in workspace.generations():
        verify_generation(workspace, generation)


def assert_all_verified(workspace: Workspace, runner: BackupdRunner) -> None:
    """Assert that `verify` finds all generations sound."""
    checked = runner.run(["verify", "--all", "--json"], workspace.environ)
    assert checked.code == 0, checked.out
    assert [result["sound"] for result in checked.json] == [True] * len(workspace.generations())


def assert_listed(workspace: Workspace, runner: BackupdRunner) -> None:
    """Assert that `list` shows exactly the generations in the store: those of the policy, and pinned ones."""
    listed = runner.run(["list", "--json"], workspace.environ)
    assert listed.code == 0, listed.err
    ids = [facts["id"] for facts in listed.json]
    assert ids == sorted(workspace.generations(), key=workspace.taken_at, reverse=True)
    pinned = [facts for facts in listed.json if "last" not in facts["kept_for"]]
    assert len(ids) - len(pinned) == workspace.kept
    assert all(facts["pinned"] for facts in pinned)


def assert_tidy(workspace: Workspace, task: str = "backup") -> None:
    """Assert that earlier runs left nothing behind, and that `SHA256SUMS` lists all generations."""
    assert_swept(workspace)
    assert workspace.store.unpaired_files() == ()
    assert leftovers(workspace, task) == set()
    assert_checksums(workspace, exact=True)


def assert_swept(workspace: Workspace) -> None:
    """Assert that no run holds the lock or has left staged files."""
    hidden = {path.name for path in workspace.hidden.iterdir()}
    work = {"pins", "lock", "staging", "removing"}
    assert hidden <= work | {"identity", "identity.lock"} | {f"catalog.sqlite3{end}" for end in ("", "-wal", "-shm")}
    assert [*(workspace.hidden / "staging").iterdir()] == []
    assert [path for path in workspace.hidden.glob("pins/*") if path.suffix != ".json"] == []
    assert not (workspace.hidden / "lock").exists() or (workspace.hidden / "lock").read_bytes() == b""


def leftovers(workspace: Workspace, task: str = "backup") -> set[Event]:
    """Return the events that the next run of `task` must log, by the files left behind."""
    lock, staging = workspace.hidden / "lock", workspace.hidden / "staging"
    unpaired_files = workspace.store.unpaired_files()
    found = {
        Event.LOCK_TAKEN_OVER: lock.exists() and lock.read_bytes() != b"",
        Event.STAGING_SWEPT: staging.exists() and any(staging.iterdir()),
        Event.PUBLISH_RECOVERED: any(_staged_manifest(workspace, key_of(stray)) for stray in unpaired_files),
        Event.REMOVAL_RECOVERED: any((workspace.hidden / "removing").glob("*")),
        Event.RUN_INTERRUPTED: _query(workspace, "SELECT 1 FROM run WHERE finished_at IS NULL AND task = ?", task)
        != [],
    }
    return {event for event, is_expected in found.items() if is_expected}


def catalogued(workspace: Workspace) -> set[str]:
    """Return the generations of the local store by the catalog."""
    return {row[0] for row in _query(workspace, "SELECT generation FROM copy WHERE store = 'local'")}


def events(workspace: Workspace) -> list[str]:
    """Return the names of all events in the log; every line must be complete."""
    return (
        [line["event.action"] for line in log_lines(workspace.backups)]
        if (workspace.backups / "backup.log").exists()
        else []
    )


def write(database: Path) -> None:
    """Write a balanced transaction to a bank as its app does, with a short busy timeout."""
    with closing(sqlite3.connect(database, timeout=2)) as app, app:
        app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")


def changing_calls(calls: list[Call], workspace: Workspace) -> Iterator[Call]:
    """Yield the calls that change a file of the workspace: of similar calls one, the first and last, or all, by name.

    Files that a child opens are left out, since a descriptor's number means another file in its parent; so is the
    shared memory of the catalog, which is not stored data.
    """
    alike = defaultdict(list)
    for call in calls:
        ours = call.process == 0 or call.name != "openat"
        if (
            call.path.startswith(str(workspace.root))
            and not call.path.endswith("catalog.sqlite3-shm")
            and ours
            and is_changing(call)
        ):
            alike[call.process, call.name, beneath(workspace, call)].append(call)
    for (_, name, _), group in alike.items():
        yield from group if name in _EACH else {group[0], group[-1]} if name in _ENDS else {group[0]}


def beneath(workspace: Workspace, call: Call) -> str:
    """Return the path of `call` below the root of the workspace, without what differs between runs."""
    return re.sub(r"run-\w+|tasks-[\d-]+", "*", call.path.replace(str(workspace.root), "", 1))


def is_changing(call: Call) -> bool:
    """Tell whether `call` can change a file: an `openat` that makes none only reads."""
    return call.name != "openat" or ("O_CREAT" in call.text and "EEXIST" not in call.text)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_app(path: Path) -> bool:
    """Tell whether a file holds app data: readers may create -shm and an empty WAL (sqlite.org/walformat.html)."""
    return not path.name.endswith("-shm") and path.stat().st_size > 0


def key_of(name: str) -> str:
    return name.removesuffix(ARCHIVE_SUFFIX).removesuffix(MANIFEST_SUFFIX)


def _assert_names(workspace: Workspace) -> None:
    for path in workspace.backups.iterdir():
        known = path.name in {".backupd", "SHA256SUMS", "backup.log"}
        assert known or path.name.endswith((ARCHIVE_SUFFIX, MANIFEST_SUFFIX)), path


def _assert_finishable(workspace: Workspace, stray: str) -> None:
    """Assert that a file without its pair is a complete archive that the next run publishes or removes."""
    assert stray.endswith(ARCHIVE_SUFFIX)
    key = key_of(stray)
    leaving = workspace.hidden / "removing" / f"{key}{MANIFEST_SUFFIX}"
    manifest_file = leaving if leaving.exists() else _staged_manifest(workspace, key)
    assert manifest_file is not None, f"{stray} is never cleaned up"
    _assert_holds((workspace.backups / stray).read_bytes(), decode_manifest(manifest_file.read_bytes(), key), workspace)


def _assert_holds(archive: bytes, manifest: Manifest, workspace: Workspace) -> None:
    digests = sha256(archive), manifest.snapshot.sha256
    assert digests[0] == manifest.archive.sha256
    if digests not in _verified:
        raw = gzip.decompress(archive)
        assert sha256(raw) == manifest.snapshot.sha256
        with tempfile.NamedTemporaryFile() as unpacked:
            unpacked.write(raw)
            unpacked.flush()
            assert is_balanced(Path(unpacked.name), workspace.rows)
        _verified.add(digests)


def _staged_manifest(workspace: Workspace, key: str) -> Path | None:
    return next((workspace.hidden / "staging").rglob(f"{key}{MANIFEST_SUFFIX}"), None)


def _query(workspace: Workspace, query: str, *values: str) -> list[Any]:
    catalog = workspace.hidden / "catalog.sqlite3"
    if not catalog.exists() or catalog.stat().st_size == 0:
        return []
    with closing(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()
