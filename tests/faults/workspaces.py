"""A yard: an app's database with a store of backups beside it, to be copied, wrecked, looked over and healed.

The app of a yard was killed: its last transactions are in the WAL alone. The store holds three generations, of three
days, and the policy keeps two: the next backup publishes one and removes two.
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
from backupd.model import ARCHIVE_SUFFIX, MANIFEST_SUFFIX, Manifest, RetentionPolicy
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.options import BackupRequest, Expiry
from support.bank import is_balanced, make_bank
from support.command import Backupd, log_lines
from support.faults import BackupdRunner, Call, processes_below, stopped

HEALING = frozenset(
    {
        Event.LOCK_TAKEN_OVER,
        Event.STAGING_SWEPT,
        Event.PUBLISH_RESUMED,
        Event.REMOVAL_RESUMED,
        Event.RUN_INTERRUPTED,
    }
)
KEPT = 2
BIG_ROWS = 160_000
_EACH = ("fsync", "rename")
_ENDS = ("write",)
_proven: set[tuple[str, str]] = set()


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
        """Tell whether a run at work has written something into such a file in its staging directory."""
        return any(path.stat().st_size for path in (self.hidden / "staging").glob(f"*/{pattern}"))

    @contextmanager
    def stopped(self, pattern: str, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
        """Run `backupd ARGUMENTS`, and let it stand still during the block with something staged in such a file."""
        environ = Backupd(self.environ, self.root).environment()
        with stopped(environ, self.root, lambda: self.staged(pattern), *arguments) as process:
            yield process

    def copy_to(self, root: Path) -> "Workspace":
        shutil.copytree(self.root, root)
        return replace(self, root=root)

    def app_writes(self) -> None:
        """Let the app open its database, write at once, and close."""
        write(self.database)

    def app_files(self) -> dict[str, str]:
        """Return digests of what is the app's: its database and its WAL."""
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
class Before:
    """What a yard held before something happened to it, oldest generation first; no files where the app goes on."""

    generations: Mapping[str, tuple[bytes, bytes]]
    app_files: Mapping[str, str]

    @classmethod
    def of(cls, yard: Workspace, *, app_runs: bool = False) -> "Before":
        found = yard.generations()
        return cls({key: found[key] for key in sorted(found, key=yard.taken_at)}, {} if app_runs else yard.app_files())


def make_yard(root: Path) -> Workspace:
    """Make the yard that the tests copy."""
    yard = Workspace(root)
    yard.database.parent.mkdir(parents=True)
    yard.backups.mkdir()
    live = root / "live.db"
    make_bank(live)
    yard.store.prepare()
    log = open_log(yard.backups / "backup.log")
    with closing(sqlite3.connect(live, isolation_level=None)) as app:
        for days in (3, 2, 1):
            app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
            taken_at = datetime.now(UTC) - timedelta(days=days)
            context = TaskContext(yard.store, log, clock=lambda taken_at=taken_at: taken_at)
            order = BackupRequest("tasks", live, expiry=Expiry(RetentionPolicy(last=3)), reserve_bytes=0)
            assert backup(order, context).outcome == "published"
        app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
        for suffix in ("", "-wal"):  # as a killed app leaves them
            shutil.copy2(f"{live}{suffix}", f"{yard.database}{suffix}")
    log.close()
    live.unlink()
    assert len(yard.generations()) == KEPT + 1
    assert Path(f"{yard.database}-wal").stat().st_size > 0
    return yard


def assert_unhurt(yard: Workspace, before: Before, going: Collection[str] = ()) -> None:
    """Assert what must be true at every instant, whatever happened to the run: nothing half-made, nothing lost.

    What is `going` may be gone; besides that, the oldest once something was published in place of it.
    """
    if before.app_files:
        assert yard.app_files() == before.app_files
    now = yard.generations()
    for generation in now:
        proven(yard, generation)
    published = now.keys() - before.generations.keys()
    assert len(published) <= 1
    if published:
        going = [*before.generations][: len(before.generations) + 1 - yard.kept]
    for generation, files in before.generations.items():
        assert now.get(generation, files) == files
        assert generation in now or generation in going
    _assert_names(yard)
    for stray in yard.store.unpaired_files():
        _assert_finishable(yard, stray)
    assert_checksums(yard)


def proven(yard: Workspace, generation: str) -> Manifest:
    """Prove a generation by other means than backupd's own: digests, gunzip, and the sums of the bank."""
    archive, raw = yard.files_of(generation)
    manifest = decode_manifest(raw, generation)
    _assert_holds(archive, manifest, yard)
    return manifest


def assert_checksums(yard: Workspace, *, exact: bool = False) -> None:
    """Assert that `sha256sum -c` is content; `exact`: and that it speaks of just the generations that are there."""
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"],
        cwd=yard.backups,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    if exact:
        listed = [line.split("  ")[1] for line in (yard.backups / "SHA256SUMS").read_text().splitlines()]
        assert listed == [stored.id + ARCHIVE_SUFFIX for stored in yard.store.list()]


def assert_no_processes(yard: Workspace, timeout_s: float = 10) -> None:
    """Wait for the children of a killed run to be gone: none may hold the app's snapshot pinned for long."""
    give_up = time.monotonic() + timeout_s
    while left := processes_below(yard.root):
        assert time.monotonic() < give_up, f"{left} outlived their run"
        time.sleep(0.01)


def assert_heals(yard: Workspace, forks: BackupdRunner, *, verify: bool = True) -> None:
    """Let the app write, run a backup, and assert that it works, cleans up, and says what it cleaned up."""
    yard.app_writes()
    expected, known = leftovers(yard), len(events(yard))
    generations = {stored.id for stored in yard.store.list()}
    ended = forks.run(["backup", "--json"], yard.environ)
    assert ended.code == 0, ended.out + ended.err
    assert catalogued(yard) == {stored.id for stored in yard.store.list()}
    assert ended.json["outcome"] == "published"
    assert ended.json["generation"] not in generations
    assert HEALING.intersection(events(yard)[known:]) == expected
    assert_tidy(yard)
    assert_listed(yard, forks)
    if verify:
        checked = forks.run(["verify", "--all", "--json"], yard.environ)
        assert checked.code == 0, checked.out
        assert [result["sound"] for result in checked.json] == [True] * len(yard.generations())


def assert_listed(yard: Workspace, forks: BackupdRunner) -> None:
    """Assert that `list` tells just the generations that are there: as many as are to be kept, and pinned ones."""
    listed = forks.run(["list", "--json"], yard.environ)
    assert listed.code == 0, listed.err
    ids = [facts["id"] for facts in listed.json]
    assert ids == sorted(yard.generations(), key=yard.taken_at, reverse=True)
    beside = [facts for facts in listed.json if "last" not in facts["kept_for"]]
    assert len(ids) - len(beside) == yard.kept
    assert all(facts["pinned"] for facts in beside)


def assert_tidy(yard: Workspace, task: str = "backup") -> None:
    """Assert that nothing of any earlier run is left over, and that `SHA256SUMS` knows all that is there."""
    assert_swept(yard)
    assert yard.store.unpaired_files() == ()
    assert leftovers(yard, task) == set()
    assert_checksums(yard, exact=True)


def assert_swept(yard: Workspace) -> None:
    """Assert that no run holds the store or has left its work there."""
    hidden = {path.name for path in yard.hidden.iterdir()}
    work = {"pins", "lock", "staging", "removing"}
    assert hidden <= work | {"identity", "identity.lock"} | {f"catalog.sqlite3{end}" for end in ("", "-wal", "-shm")}
    assert [*(yard.hidden / "staging").iterdir()] == []
    assert [path for path in yard.hidden.glob("pins/*") if path.suffix != ".json"] == []
    assert not (yard.hidden / "lock").exists() or (yard.hidden / "lock").read_bytes() == b""


def leftovers(yard: Workspace, task: str = "backup") -> set[Event]:
    """Return what the next run of `task` has to say, by what lies around."""
    lock, staging = yard.hidden / "lock", yard.hidden / "staging"
    unpaired_files = yard.store.unpaired_files()
    found = {
        Event.LOCK_TAKEN_OVER: lock.exists() and lock.read_bytes() != b"",
        Event.STAGING_SWEPT: staging.exists() and any(staging.iterdir()),
        Event.PUBLISH_RESUMED: any(_staged_manifest(yard, key_of(stray)) for stray in unpaired_files),
        Event.REMOVAL_RESUMED: any((yard.hidden / "removing").glob("*")),
        Event.RUN_INTERRUPTED: _asked(yard, "SELECT 1 FROM run WHERE finished_at IS NULL AND task = ?", task) != [],
    }
    return {event for event, there in found.items() if there}


def catalogued(yard: Workspace) -> set[str]:
    """Return the generations of which the catalog says that the local store has them."""
    return {row[0] for row in _asked(yard, "SELECT generation FROM copy WHERE store = 'local'")}


def events(yard: Workspace) -> list[str]:
    """Return the names of all events in the log; every line of it must be whole."""
    return [line["event.action"] for line in log_lines(yard.backups)] if (yard.backups / "backup.log").exists() else []


def write(database: Path) -> None:
    """Write to a bank as its app does: at once, without waiting for anybody for long, in balance."""
    with closing(sqlite3.connect(database, timeout=2)) as app, app:
        app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")


def changing_calls(calls: list[Call], yard: Workspace) -> Iterator[Call]:
    """Yield the calls that change a file of the yard: of those alike one, both ends, or all, as they matter.

    What a child opens is left out, since the number of it means another file to its parent, and the shared memory of
    our catalog, which is no file to anybody else.
    """
    alike = defaultdict(list)
    for call in calls:
        ours = call.process == 0 or call.name != "openat"
        if (
            call.path.startswith(str(yard.root))
            and not call.path.endswith("catalog.sqlite3-shm")
            and ours
            and is_changing(call)
        ):
            alike[call.process, call.name, beneath(yard, call)].append(call)
    for (_, name, _), group in alike.items():
        yield from group if name in _EACH else {group[0], group[-1]} if name in _ENDS else {group[0]}


def beneath(yard: Workspace, call: Call) -> str:
    """Return what `call` is on, below the root of its yard: the same in each run."""
    return re.sub(r"run-\w+|tasks-[\d-]+", "*", call.path.replace(str(yard.root), "", 1))


def is_changing(call: Call) -> bool:
    """Tell whether `call` can change a file: an `openat` that makes none only reads."""
    return call.name != "openat" or ("O_CREAT" in call.text and "EEXIST" not in call.text)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_app(path: Path) -> bool:
    """Tell the app's data from what every reader may make: the -shm, and an empty WAL (sqlite.org/walformat.html)."""
    return not path.name.endswith("-shm") and path.stat().st_size > 0


def key_of(name: str) -> str:
    return name.removesuffix(ARCHIVE_SUFFIX).removesuffix(MANIFEST_SUFFIX)


def _assert_names(yard: Workspace) -> None:
    for path in yard.backups.iterdir():
        known = path.name in {".backupd", "SHA256SUMS", "backup.log"}
        assert known or path.name.endswith((ARCHIVE_SUFFIX, MANIFEST_SUFFIX)), path


def _assert_finishable(yard: Workspace, stray: str) -> None:
    """Assert that a lone file is a whole archive on its way in or out, which the next run will see to the end."""
    assert stray.endswith(ARCHIVE_SUFFIX)
    key = key_of(stray)
    leaving = yard.hidden / "removing" / f"{key}{MANIFEST_SUFFIX}"
    note = leaving if leaving.exists() else _staged_manifest(yard, key)
    assert note is not None, f"{stray} will stay for ever"
    _assert_holds((yard.backups / stray).read_bytes(), decode_manifest(note.read_bytes(), key), yard)


def _assert_holds(archive: bytes, manifest: Manifest, yard: Workspace) -> None:
    digests = sha256(archive), manifest.snapshot.sha256
    assert digests[0] == manifest.archive.sha256
    if digests not in _proven:
        raw = gzip.decompress(archive)
        assert sha256(raw) == manifest.snapshot.sha256
        with tempfile.NamedTemporaryFile() as unpacked:
            unpacked.write(raw)
            unpacked.flush()
            assert is_balanced(Path(unpacked.name), yard.rows)
        _proven.add(digests)


def _staged_manifest(yard: Workspace, key: str) -> Path | None:
    return next((yard.hidden / "staging").rglob(f"{key}{MANIFEST_SUFFIX}"), None)


def _asked(yard: Workspace, query: str, *values: str) -> list[Any]:
    catalog = yard.hidden / "catalog.sqlite3"
    if not catalog.exists() or catalog.stat().st_size == 0:
        return []
    with closing(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)) as connection:
        return connection.execute(query, values).fetchall()
