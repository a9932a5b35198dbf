"""Files that only root may read, in directories of an app that renames them: root neither gives nor copies them."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from support.bank import make_bank
from support.hardened import APP, GROUP, Volumes, volumes

pytestmark = [pytest.mark.root, pytest.mark.no_cover]
OTHER = 1235
ID = "tasks-20260101-0000"
SECRET = b"root's secret"
# Each moves a file or directory of root's, whose directory is the app's, to a name of the store, as the app may.
RENAMES = {
    "lock": "os.rename('secret', 'backups/.backupd/lock')",
    "claim": "os.rename('secret', 'backups/.backupd/daemon-tasks.lock')",
    "pin": f"os.rename('secret', 'backups/.backupd/pins/{ID}.json')",
    "catalog": "os.rename('secret', 'backups/.backupd/catalog.sqlite3')",
    "archive": f"os.rename('secret', 'backups/{ID}.sqlite3.gz')",
    "checksums": "os.rename('secret', 'backups/SHA256SUMS')",
    "log": "os.rename('secret', 'backups/backup.log')",
    "manifest of a killed run": f"""
open('backups/{ID}.sqlite3.gz', 'w').close()
os.mkdir('backups/.backupd/staging/run-dead')
os.rename('secret', 'backups/.backupd/staging/run-dead/{ID}.manifest.json')
""",
    "backups": """
os.rename('backups', 'stolen')
os.rename('private', 'backups')
""",
    "directory of pins": """
os.rename('backups/.backupd/pins', 'backups/.backupd/stolen')
os.rename('backups/.backupd/own', 'backups/.backupd/pins')
""",
}


@pytest.fixture
def app() -> Iterator[Volumes]:
    """An app with backups in its volume, where root has a secret, and directories with one."""
    with volumes(mode=0o755) as made:
        backups = made.data / "backups"
        app = Volumes(made.data, backups, {"PUID": "0"}, ("dac_override",))
        assert app.backupd("backup").code == 0
        for place in (made.data, made.data / "private", backups / ".backupd" / "own"):
            place.mkdir(mode=0o700, exist_ok=True)
            (place / "secret").write_bytes(SECRET)
            (place / "secret").chmod(0o600)
        os.chown(backups / ".backupd", APP, GROUP)
        yield app


@contextmanager
def secrets_of(app: Volumes) -> Iterator[set[int]]:
    """Yield the inodes of what is root's alone; all are open in the block, so that no new file gets one of them."""
    places = (app.data, app.data / "private", app.backups / ".backupd" / "own")
    with ExitStack() as stack:
        inodes = set()
        for path in (path for place in places for path in (place, place / "secret") if path != app.data):
            descriptor = os.open(path, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            inodes.add(os.fstat(descriptor).st_ino)
        yield inodes


@pytest.mark.parametrize("name", RENAMES)
def test_file_of_root_renamed_to_name_of_store_stays_with_root(app: Volumes, name: str) -> None:
    with secrets_of(app) as secrets:
        done = app.as_app(f"import os, sys; os.chdir(os.path.dirname(sys.argv[1]))\n{RENAMES[name]}")
        assert done.code == 0, done
        for puid in ("0", "auto"):
            answer = app.backupd("backup", PUID=puid)
            assert answer.code in {0, 1, 3, 75}, answer
            assert "Traceback" not in answer.err
            given = {path for path in app.data.rglob("*") if path.stat().st_ino in secrets and path.stat().st_uid != 0}
            assert not any(path.is_dir() or path.read_bytes() for path in given), given


def test_archive_of_private_database_of_root_stays_with_root(app: Volumes) -> None:
    make_bank(app.data / "roots.db", rows=7)
    (app.data / "roots.db").chmod(0o600)
    assert app.as_app("import os, sys; os.rename(os.path.dirname(sys.argv[1]) + '/roots.db', sys.argv[1])").code == 0
    assert app.backupd("backup", BACKUPD_SHRINK_GUARD__ENABLED="false").code in {0, 3}
    newest = max(app.backups.glob("*.gz"), key=lambda path: path.stat().st_mtime_ns)
    assert (newest.stat().st_uid, newest.stat().st_mode & 0o777) == (0, 0o600)
    assert app.as_app(f"open({str(newest)!r}, 'rb')").code != 0


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_archive_of_another_app_is_not_given_to_owner_of_store(app: Volumes, mode: int) -> None:
    others = app.data.parent / "others"
    others.mkdir(mode=0o700)
    make_bank(others / "other.db")
    (others / "other.db").chmod(mode)
    for path in (others, others / "other.db"):
        os.chown(path, OTHER, OTHER)
    done = app.backupd("backup", BACKUPD_SOURCES__OTHER__PATH=str(others / "other.db"))
    assert done.code == 0, done
    owners = {path.name.partition("-")[0]: path.stat().st_uid for path in app.backups.glob("*.gz")}
    assert owners == {"tasks": APP, "other": 0}


def test_damaged_copy_of_another_app_is_not_given_to_owner_of_store(app: Volumes) -> None:
    others = app.data.parent / "others"
    others.mkdir(mode=0o755)
    damaged = others / "other.db"
    make_bank(damaged)
    with damaged.open("r+b") as database:
        database.seek(3 * 4096)
        database.write(b"x" * 4096)
    damaged.chmod(0o600)
    for path in (others, damaged):
        os.chown(path, OTHER, OTHER)
    assert app.backupd("backup", "--source", "other", BACKUPD_SOURCES__OTHER__PATH=str(damaged)).code == 1
    (copy,) = app.backups.glob(".backupd/quarantine/other/*/snapshot.sqlite3")
    assert copy.stat().st_uid == 0
