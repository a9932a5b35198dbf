"""The restored backup of a random database equals it, in content and digest."""

import hashlib
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backupd.log import null_log
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.choice import choose_database
from backupd.tasks.context import TaskContext, local_inventory
from backupd.tasks.requests import BackupRequest
from backupd.tasks.restore import RestoreRequest
from backupd.tasks.restore.in_place import restore_in_place

Row = tuple[object, object]
values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.binary(max_size=5000),
)
modes = st.sampled_from(["wal", "delete"])
tables = st.lists(st.lists(st.tuples(values, values), max_size=8), min_size=1, max_size=3)


def make(path: Path, content: Sequence[Sequence[Row]], journal_mode: str, page_size: int, encoding: str) -> None:
    with closing(sqlite3.connect(path)) as app, app:
        app.execute(f"PRAGMA encoding='{encoding}'")
        app.execute(f"PRAGMA page_size={page_size}")
        app.execute(f"PRAGMA journal_mode={journal_mode}")
        for number, rows in enumerate(content):
            app.execute(f'CREATE TABLE "t {number}"(a, b)')
            app.executemany(f'INSERT INTO "t {number}" VALUES (?, ?)', rows)
            app.execute(f'CREATE INDEX "i {number}" ON "t {number}"(b)')


def content_of(path: Path) -> list[object]:
    """Return schema, rows and the pragmas that a file remembers."""
    with closing(sqlite3.connect(path)) as app:
        schema = app.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()
        names = [name for name, sql in schema if sql.startswith("CREATE TABLE")]
        rows = [
            app.execute(f'SELECT a, b, typeof(a), typeof(b) FROM "{name}" ORDER BY rowid').fetchall() for name in names
        ]
        pragmas = [app.execute(f"PRAGMA {name}").fetchone() for name in ("encoding", "page_size", "journal_mode")]
    return [schema, rows, pragmas]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    tables,
    st.sampled_from(["wal", "delete"]),
    st.sampled_from([512, 4096, 65536]),
    st.sampled_from(["UTF-8", "UTF-16le"]),
)
def test_restored_backup_equals_database(
    content: list[list[Row]], journal_mode: str, page_size: int, encoding: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "data" / "tasks.db"
        path.parent.mkdir()
        make(path, content, journal_mode, page_size, encoding)
        before = content_of(path)
        context = TaskContext(DirectoryStore("local", Path(name) / "backups"), null_log())
        assert backup(BackupRequest("tasks", path, reserve_bytes=0), context).outcome == "published"
        with closing(sqlite3.connect(path)) as app, app:
            app.execute('DELETE FROM "t 0"')
            app.execute("CREATE TABLE other(x)")
        manifest = choose_database(local_inventory(context), "latest", "tasks", None)
        report, done = restore_in_place(lambda: manifest, RestoreRequest("tasks", path, 2), context.store, context)
        assert report.outcome == "done", report
        assert done is not None
        assert hashlib.sha256(path.read_bytes()).hexdigest() == done.snapshot_sha256 == manifest.snapshot.sha256
        assert content_of(path) == before
