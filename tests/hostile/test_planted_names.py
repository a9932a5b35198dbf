"""Foreign objects at every name of the store: nothing blocks, nothing outside is touched, and each is reported.

The names are those of backupd's own table, which a run under strace(1) shows to be complete.
"""

import fcntl
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backupd.daemon.daemon import SourceClaims
from backupd.errors import LockHeld
from backupd.stores import state
from backupd.stores.names import NAMES, StoreName, name_of, names_table
from support.bank import make_bank
from support.command import Backupd

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "SHA256SUMS": "SHA256SUMS",
    "ID": "tasks-20260101-0000",
    "SOURCE": "tasks",
    "COPY": "tasks-20260101-000000",
    "NAME": "snapshot.sqlite3",
    "TASK": "drill",
    "RUN": "dead",
    "SIDE": "journal",
    "N": "1",
    "PREFIX": "ab",
    "DIGEST": "ab" * 32,
    "STORE": "local",
}
CONFIG = """
backups_dir = "{0}/backups"
[space]
reserve = 0
[sources.tasks]
path = "{0}/data/tasks.db"
[sources.other]
path = "{0}/data/other.db"
[retention]
last = 1
within = "0"
daily = 0
weekly = 0
monthly = 0
yearly = 0
[drill]
from = "local"
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two databases with a generation each."""
    root = tmp_path_factory.mktemp("template")
    (root / "data").mkdir()
    for name in ("tasks", "other"):
        make_bank(root / "data" / f"{name}.db")
    (root / "config.toml").write_text(CONFIG.format(root))
    assert Backupd({"BACKUPD_CONFIG": str(root / "config.toml")}, root)("backup", "--no-pin").code == 0
    return root


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "place"
    shutil.copytree(template, root)
    (root / "config.toml").write_text(CONFIG.format(root))
    outside = tmp_path / "outside"
    for directory in ("tasks", "run-theirs", "tasks-20260101-000000"):
        (outside / directory).mkdir(parents=True)
        (outside / directory / "diary.txt").write_text("dear diary")
    (outside / "file").write_text("not yours")
    before = facts(outside)
    yield root
    assert facts(outside) == before


def facts(directory: Path) -> dict[str, object]:
    return {
        str(path): (path.stat().st_ino, path.stat().st_mode, path.is_file() and path.read_bytes())
        for path in directory.rglob("*")
    }


def command(place: Path) -> Backupd:
    return Backupd({"BACKUPD_CONFIG": str(place / "config.toml")}, place)


def link(path: Path, name: StoreName) -> None:
    outside = path.parents[len(Path(name.pattern).parts) + 1] / "outside"
    path.symlink_to(outside if name.kind == "directory" else outside / "file")


def pipe(path: Path, _name: StoreName) -> None:
    os.mkfifo(path)


def huge(path: Path, _name: StoreName) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def example(pattern: str) -> str:
    return re.sub("SHA256SUMS|" + r"\b[A-Z]+\b", lambda found: EXAMPLES.get(found[0], found[0]), pattern)


def plant(place: Path, name: StoreName, how: Callable[[Path, StoreName], None]) -> Path:
    path = place / "backups" / example(name.pattern)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    how(path, name)
    return path


@pytest.mark.parametrize("how", [link, pipe])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.pattern)
def test_planted_file_at_any_name_delays_no_run_and_is_not_followed(
    place: Path, name: StoreName, how: Callable[[Path, StoreName], None]
) -> None:
    path = plant(place, name, how)
    if how is pipe:
        told = command(place)("doctor", timeout_s=30)
        assert f"{path} is a pipe" in told.out + told.err or not os.path.lexists(path), told
    for source in ("tasks", "other"):
        change(place / "data" / f"{source}.db")
        ended = command(place)("backup", "--source", source, "--no-pin", timeout_s=30)
        assert ended.code in {0, 1, 3}, ended
        assert ended.code == 0 or "what to do: " in ended.err or "warning: " in ended.err, ended
        if source == "other" and {"ID", "SOURCE"} & set(re.findall("[A-Z]+", name.pattern)):
            assert ended.code == 0, "it concerns another source"
    assert command(place)("list", timeout_s=30).code in {0, 1}


@pytest.mark.parametrize("pattern", ["SHA256SUMS", ".backupd/identity", ".backupd/holds/SOURCE.json"])
def test_huge_file_is_not_read_to_end(place: Path, pattern: str) -> None:
    (name,) = (one for one in NAMES if one.pattern == pattern)
    plant(place, name, huge)
    change(place / "data" / "tasks.db")
    ended = command(place)("backup", "--source", "tasks", timeout_s=30)
    assert ended.code in {0, 1, 3}, ended


@pytest.mark.root
def test_device_is_not_read(place: Path) -> None:
    for pattern in (".backupd/holds/SOURCE.json", ".backupd/identity", "SHA256SUMS"):
        (name,) = (one for one in NAMES if one.pattern == pattern)
        path = plant(place, name, lambda path, _name: os.mknod(path, 0o20666, os.makedev(1, 5)))
        told = command(place)("doctor", timeout_s=30)
        assert f"{path} is a device" in told.out + told.err
        assert command(place)("backup", "--source", "tasks", timeout_s=30).code in {0, 1, 3}
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("pattern", [".backupd/quarantine", ".backupd/quarantine/SOURCE"])
def test_link_in_quarantine_removes_no_directories_elsewhere(place: Path, pattern: str) -> None:
    """`outside` has directories by the names of older copies, of which the quarantine keeps the first only."""
    (name,) = (one for one in NAMES if one.pattern == pattern)
    plant(place, name, link)
    with (place / "data" / "tasks.db").open("r+b") as database:
        database.seek(3 * 4096)
        database.write(b"x" * 4096)
    ended = command(place)("backup", "--source", "tasks", timeout_s=30)
    assert ended.code == 1
    assert "a symbolic link, not a directory" in ended.err
    assert "nothing is pruned" in ended.err
    assert command(place)("clean", "--older-than", "0", timeout_s=30).code in {0, 1}


def test_pipe_in_place_of_claim_blocks_only_that_source(tmp_path: Path) -> None:
    hidden = tmp_path / ".backupd"
    hidden.mkdir()
    os.mkfifo(hidden / "daemon-tasks.lock")
    claims = SourceClaims(("tasks", "other"), hidden)
    assert claims.acquire() == {"other"}
    assert claims.held_by_others() == ()
    assert claims.unusable["tasks"].filename == str(hidden / "daemon-tasks.lock")
    (hidden / "daemon-tasks.lock").unlink()
    assert claims.acquire() == {"tasks", "other"}
    assert not claims.unusable
    claims.release_all()


# Like the names that restores give to old databases, and no such names.
NO_TIMES = ("99999999T999999Z", "99991231T235959Z-" + "9" * 217, "\u0662" * 8 + "T031500Z", "20261125T031500Z-01")


def test_restore_and_undo_work_beside_names_that_no_restore_gives(place: Path) -> None:
    for name in NO_TIMES:
        (place / "data" / f"tasks.db.pre-restore-{name}").write_text("not a database")
    change(place / "data" / "tasks.db")
    found = []
    for arguments in (["restore", "latest"], ["restore", "--undo"], ["restore", "--redo"]):
        ended = command(place)(*arguments, "--source", "tasks", timeout_s=30)
        assert ended.code == 0, ended
        found.append((place / "data" / "tasks.db").read_bytes())
    assert found[0] == found[2] != found[1]


def test_restore_is_refused_where_last_name_of_old_database_is_taken(place: Path) -> None:
    last = place / "data" / "tasks.db.pre-restore-99991231T235959Z-9999"
    last.write_text("not a database")
    ended = command(place)("restore", "latest", "--source", "tasks", timeout_s=30)
    assert ended.code == 1
    assert f"no name is left for the old database after {last}" in ended.err


def test_doctor_reports_other_sources_beside_link_loop(place: Path) -> None:
    (place / "data" / "tasks.db").unlink()
    (place / "data" / "tasks.db").symlink_to("tasks.db")
    told = command(place)("doctor", timeout_s=30)
    assert told.code == 1
    assert "unexpected error" not in told.err
    assert "Too many levels of symbolic links" in told.out
    assert "ok     source other" in told.out


def test_control_characters_in_name_of_damaged_copy_are_escaped(place: Path) -> None:
    (place / "backups" / ".backupd" / "quarantine" / "tasks" / "\x1b]0;evil\x07").mkdir(parents=True)
    for arguments in (["doctor"], ["clean", "--older-than", "0", "--dry-run"]):
        told = command(place)(*arguments, timeout_s=30)
        assert "evil" in told.out
        assert "\x1b" not in told.out + told.err


def test_held_lock_of_identity_ends_run_after_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = tmp_path / ".backupd"
    hidden.mkdir()
    assert state._LOCK_S <= 60
    monkeypatch.setattr(state, "_LOCK_S", 0.2)
    with (hidden / "identity.lock").open("w") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(LockHeld):
            state.Identities(hidden).ensure(lambda: None)
        with pytest.raises(LockHeld):
            state.Identities(hidden).adopt({})


def change(database: Path) -> None:
    with closing(sqlite3.connect(database)) as app, app:
        app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")


def test_names_in_table_match_documentation() -> None:
    marker = "<!-- generated: python -m backupd.stores.names -->\n"
    assert (ROOT / "docs" / "generations.md").read_text().partition(marker)[2] == names_table()


_COMMANDS = """
import os, sys
from pathlib import Path
from backupd.__main__ import main
place = Path(sys.argv[1])
damage = lambda: next(iter(sorted((place / "backups").glob("tasks-*.gz")))).open("r+b").write(b"damaged")
corrupt = lambda: (place / "data/tasks.db").open("r+b").write(b"x" * 9000)
for arguments in (
    ["backup", "--source", "other"], ["doctor"], ["drill"], ["catalog", "rebuild"], damage,
    ["verify", "--all"], corrupt, ["backup", "--source", "tasks"], ["prune"], ["clean", "--older-than", "0"],
):
    if callable(arguments):
        arguments()
        continue
    child = os.fork()
    if not child:
        sys.argv = ["backupd", *arguments]
        main()
    os.waitpid(child, 0)
"""
_STRACE = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-s", "300", "-o"]
_MADE = re.compile(r"O_CREAT|^mkdir|^rename|^link")


def test_every_name_given_by_commands_is_in_table(place: Path, tmp_path: Path) -> None:
    journal, store = tmp_path / "strace", str(place / "backups")
    calls = "openat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat"
    subprocess.run(
        [*_STRACE, journal, f"--trace={calls}", sys.executable, "-c", _COMMANDS, str(place)],
        env=Backupd({"BACKUPD_CONFIG": str(place / "config.toml")}, place).environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    text = re.sub(r'<(/[^>]*)>, "([^/"][^"]*)"', r'"\1/\2"', journal.read_text(errors="replace"))
    made = {
        path.removeprefix(f"{store}/")
        for line in text.splitlines()
        if _MADE.search(line.partition(" ")[2]) and "= -1" not in line
        for path in re.findall(r'[<"](/[^>"]*)', line)
        if path.startswith(f"{store}/")
    }
    assert len(made) > 15, made
    unknown = {path for path in made if name_of(path) is None and not path.endswith(" (deleted)")}
    assert not unknown, "each name needs a line in backupd.stores.names.NAMES"
