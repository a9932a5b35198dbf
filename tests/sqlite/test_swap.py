"""The swap of a database for a restored one: a process that opens it at that moment loses nothing."""

import errno
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.errors import TargetInUse, TargetRefused
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.history import swap_journal_name
from backupd.sqlite.swap import sweep_parts
from backupd.sqlite.target import FileLease, Target
from backupd.system.directory import Directory
from support.app import running_app
from support.bank import make_bank
from support.directories import kept_databases
from support.held import recover_swap, swap
from support.processes import wait_until

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
OPENS = "import sys; file = open(sys.argv[1], 'rb'); print(file.read().decode(), flush=True)"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with an old file of that name, and a new one that is to become it."""
    (tmp_path / "tasks.db").write_text("old")
    (tmp_path / ".tasks.db.00000000.part").write_text("new")
    return tmp_path


def paths(place: Path) -> tuple[Path, Path]:
    return place / "tasks.db", place / ".tasks.db.00000000.part"


def lease(target: Path) -> FileLease:
    return FileLease([target], os.geteuid(), os.getegid(), remote="", stopped=False)


class Killed(FileLease):
    """The process is killed when it is about to rename."""

    def open_requested(self, _path: Path) -> bool:
        os.kill(os.getpid(), signal.SIGKILL)
        return False


def killed_before_the_rename(target: Path, part: Path) -> None:
    child = os.fork()
    if not child:
        with Killed([target], os.geteuid(), os.getegid(), remote="", stopped=False) as held:
            swap(target, part, held, NOW)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


class Opener:
    """Another process that opens a file; `read` is what it found after the open."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", OPENS, path], stdout=subprocess.PIPE, text=True)

    def waits_for(self, held: FileLease, path: Path) -> None:
        """Wait until the kernel keeps it waiting."""
        wait_until(lambda: held.open_requested(path))

    def read(self) -> str:
        return self._process.communicate(timeout=60)[0].strip()


def test_process_opening_before_rename_gets_old_database_and_restore_is_refused(place: Path) -> None:
    target, part = paths(place)
    with lease(target) as held:
        opener = Opener(target)
        opener.waits_for(held, target)
        with pytest.raises(TargetInUse, match="nothing was changed"):
            swap(target, part, held, NOW)
    assert opener.read() == "old"
    assert target.read_text() == "old"
    assert (part.read_text(), target.stat().st_nlink) == ("new", 1)
    assert {path.name for path in place.iterdir()} == {target.name, part.name}


def test_process_opening_during_rename_reverts_swap(place: Path) -> None:
    target, part = paths(place)
    Path(f"{target}-wal").write_text("of the old")
    openers: list[Opener] = []

    class Late(FileLease):
        """Somebody opens the file after the last look, and before the rename."""

        def open_requested(self, path: Path) -> bool:
            answer = super().open_requested(path)
            if not openers:
                openers.append(Opener(path))
                wait_until(lambda: super(Late, self).open_requested(path))
            return answer

    with Late([target], os.geteuid(), os.getegid(), remote="", stopped=False) as held, pytest.raises(TargetInUse):
        swap(target, part, held, NOW)
    assert openers[0].read() == "old"
    assert target.read_text() == "old"
    assert Path(f"{target}-wal").read_text() == "of the old"
    assert kept_databases(target) == ()
    assert not target.with_name(swap_journal_name(target.name)).exists()


def test_process_opening_after_rename_gets_new_database(place: Path) -> None:
    target, part = paths(place)
    with lease(target) as held:
        kept = swap(target, part, held, NOW)
        opener = Opener(target)
        assert opener.read() == "new"
    assert kept == place / "tasks.db.pre-restore-20261125T120000Z"
    assert kept.read_text() == "old"


@pytest.mark.parametrize("first_at", [NOW, NOW + timedelta(days=1000)], ids=["in one second", "clock set back"])
def test_two_restores_keep_both_old_databases_in_order(place: Path, first_at: datetime) -> None:
    target, part = paths(place)
    for text, now in (("second", first_at), ("third", NOW)):
        with lease(target) as held:
            swap(target, part, held, now)
        part.write_text(text)
    assert [kept.read_text() for kept in kept_databases(target)] == ["old", "new"]


def refused(*_paths: object, **_options: object) -> None:
    """Refuse to link, as FAT does."""
    raise PermissionError(1, "Operation not permitted")


def test_database_replaced_after_killed_swap_is_kept(place: Path) -> None:
    target, part = paths(place)
    killed_before_the_rename(target, part)
    other = place / "other"
    other.write_text("of somebody else")
    other.rename(target)
    recovery = recover_swap(target)
    assert recovery is not None
    assert recovery.what == "left"
    assert target.read_text() == "of somebody else"
    assert recover_swap(target) is None


def test_side_files_of_database_written_after_killed_swap_are_not_put_back(place: Path) -> None:
    target, part = paths(place)
    Path(f"{target}-journal").write_text("hot")
    killed_before_the_rename(target, part)
    target.write_text("its app has gone on")
    assert recover_swap(target) is not None
    assert not Path(f"{target}-journal").exists()
    assert target.read_text() == "its app has gone on"


def test_sweep_of_part_files_removes_their_side_files_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "tasks.db"
    for suffix in ("", "-wal", "-shm", "-journal"):
        (tmp_path / f".tasks.db.0123abcd.part{suffix}").touch()
    others = {"tasks.db", "tasks.db-wal", ".other.db.0123abcd.part-wal", ".tasks.db.0123abcd.part-notes"}
    for name in others:
        (tmp_path / name).touch()
    with DatabasePlace.open(target) as opened:
        sweep_parts(opened)
    assert {path.name for path in tmp_path.iterdir()} == others


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A bank in WAL mode whose app is gone."""
    make_bank(tmp_path / "tasks.db")
    return tmp_path / "tasks.db"


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "BEGIN", "PRAGMA locking_mode=EXCLUSIVE"])
def test_checkpoint_of_database_in_use_is_refused(bank: Path, statement: str) -> None:
    with running_app(bank) as app:
        app.sql(statement)
        app.sql("SELECT count(*) FROM ledger")
        with pytest.raises(TargetInUse):
            Target.inspect(bank).checkpoint()
        app.sql("SELECT count(*) FROM ledger")
    result = Target.inspect(bank).checkpoint()
    assert result is not None
    assert result.damage == ""


def test_database_without_file_is_in_use_while_side_files_are_open(bank: Path) -> None:
    with running_app(bank) as app:
        app.sql("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
        bank.unlink()
        with pytest.raises(TargetInUse, match="-wal is in use"), Target.inspect(bank).lease(stopped=False):
            pass


@pytest.mark.root
def test_root_with_few_capabilities_takes_lease_as_owner(data: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from backupd.sqlite.target import Target\n"
        "with Target.inspect(Path(sys.argv[1])).lease(stopped=True) as lease: print(lease.held)"
    )
    data.chmod(0o777)
    few = ["setpriv", "--bounding-set=-all,+setuid,+setgid,+dac_read_search", "--inh-caps=-all"]
    for capabilities, held in ((few, "True"), ([*few[:1], "--bounding-set=-all,+dac_read_search", few[2]], "False")):
        command = [*capabilities, sys.executable, "-c", code, data / "tasks.db"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == held


@pytest.mark.root
def test_directory_without_write_permission_is_refused_with_owner(bank: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from backupd.errors import TargetRefused\n"
        "from backupd.sqlite.target import Target\n"
        "try: Target.inspect(Path(sys.argv[1]))\n"
        "except TargetRefused as error: print(error.message, error.hint)"
    )
    stranger = ["setpriv", "--reuid=2345", "--clear-groups", "--inh-caps=-all,+dac_read_search"]
    stranger += ["--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"]
    told = subprocess.run([*stranger, sys.executable, "-c", code, bank], capture_output=True, text=True, check=False)
    assert "uid 2345 may not write to" in told.stdout
    assert "PUID=0" in told.stdout


def test_target_in_missing_directory_or_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "tasks.db", tmp_path / "nowhere" / "tasks.db"):
        with pytest.raises((TargetRefused, NotADirectoryError)):
            Target.inspect(path)


@pytest.mark.parametrize("broken", ["link", "rename"])
def test_disk_error_during_swap_leaves_old_database_in_place(
    place: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    target, part = paths(place)
    Path(f"{target}-journal").write_text("hot")

    class Failing(FileLease):
        """From the moment on when the old one has its second name, renaming into place fails."""

        def open_requested(self, path: Path) -> bool:
            raise OSError(errno.EIO, broken, path)

    failing = Failing([target], os.geteuid(), os.getegid(), remote="", stopped=False)
    if broken == "link":
        monkeypatch.setattr(os, "link", refused)
    with failing as held, pytest.raises(OSError, match=broken):
        swap(target, part, held, NOW)
    assert (target.read_text(), part.read_text()) == ("old", "new")
    assert Path(f"{target}-journal").read_text() == "hot"
    assert not target.with_name(swap_journal_name(target.name)).exists()
    assert kept_databases(target) == ()


def test_kept_databases_are_in_order_of_creation(place: Path) -> None:
    target, _ = paths(place)
    names = [f"tasks.db.pre-restore-20261125T12000{second}" for second in ("0Z", "0Z-2", "0Z-10", "1Z")]
    for name in reversed(names):
        (place / name).touch()
    assert [path.name for path in kept_databases(target)] == names


def test_database_exists_at_each_step_of_reverted_swap(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, part = paths(place)
    rename, seen = Directory.rename, list[bool]()

    def watched(directory: Directory, name: str, to: Directory, new: str) -> None:
        seen.append(target.exists())
        rename(directory, name, to, new)
        seen.append(target.exists())

    class Late(FileLease):
        """Somebody opens the file once the new one is in place."""

        def open_requested(self, path: Path) -> bool:
            return path.read_text() == "new"

    monkeypatch.setattr(Directory, "rename", watched)
    held = Late([], os.geteuid(), os.getegid(), remote="", stopped=True)
    with held, pytest.raises(TargetInUse):
        swap(target, part, held, NOW)
    assert seen
    assert all(seen)
    assert (target.read_text(), part.read_text(), kept_databases(target)) == ("old", "new", ())


@pytest.mark.parametrize("kind", ["link", "directory", "pipe", "garbage"])
def test_invalid_swap_journal_is_refused_with_reason(place: Path, kind: str) -> None:
    target, _ = paths(place)
    intent = target.with_name(swap_journal_name(target.name))
    {
        "link": lambda: intent.symlink_to("/etc/passwd"),
        "directory": intent.mkdir,
        "pipe": lambda: os.mkfifo(intent),
        "garbage": lambda: intent.write_bytes(b"\xff{"),
    }[kind]()
    with pytest.raises(TargetRefused, match="cannot determine how far"):
        recover_swap(target)


@pytest.mark.parametrize("name", [b"app\xff.db", b"a" * 240 + b".db"])
def test_target_name_too_long_to_keep_is_refused_before_restore(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.touch()
    with pytest.raises(TargetRefused, match="the name of"):
        Target.inspect(path)
