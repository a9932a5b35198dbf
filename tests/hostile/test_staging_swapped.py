"""A compromised app replaces files of a backup in staging at the worst moment.

The attack runs at a given system call of the run, so that the window is always hit.
"""

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.bank import is_balanced, make_bank
from support.command import Backupd

SECRET = b"SQLite format 3\0 the password of the off-site server, which only root may read " * 64

_RUN = """
import os, re, sys
from pathlib import Path
import backupd.__main__, backupd.cli.backup, backupd.tasks.backup, backupd.archive.archive

when, attack, backups, outside, *arguments = sys.argv[1:]
backups, outside, hits = Path(backups), Path(outside), []

def staged(name="copy"):
    (place,) = (backups / ".backupd/staging").glob("run-*")
    return place / name

def watch(event, values):
    if not hits and re.search(when, f"{event} {' '.join(map(str, values))}"):
        hits.append(event)
        exec(attack)

sys.addaudithook(watch)
sys.argv = ["backupd", *arguments]
try:
    backupd.__main__.main()
finally:
    print("hit" if hits else "missed", file=sys.stderr)
"""


@dataclass
class Place:
    """A database with one generation, and a directory outside that no backup may read or change."""

    database: Path
    backups: Path
    outside: Path

    def attacked(self, when: str, attack: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        """Run a backup, and `attack` before the first system call that matches `when`; it must have been hit."""
        command = [sys.executable, "-c", _RUN, when, attack, str(self.backups), str(self.outside), "backup", "--no-pin"]
        run = Backupd(self.environ, self.backups.parent).environment(**environ)
        done = subprocess.run(command, env=run, capture_output=True, text=True, check=False, timeout=60)
        assert done.stderr.endswith("hit\n"), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    @property
    def environ(self) -> dict[str, str]:
        return {
            "BACKUPD_DATABASE": str(self.database),
            "BACKUPD_BACKUPS_DIR": str(self.backups),
            "BACKUPD_SPACE__RESERVE": "0",
            "BACKUPD_RETENTION__LAST": "1",
            "BACKUPD_RETENTION__WITHIN": "0",
            "BACKUPD_RETENTION__DAILY": "0",
            "BACKUPD_RETENTION__WEEKLY": "0",
            "BACKUPD_RETENTION__MONTHLY": "0",
            "BACKUPD_RETENTION__YEARLY": "0",
        }

    def archives(self) -> list[Path]:
        return sorted(self.backups.glob("*.gz"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    for name in ("data", "outside"):
        (tmp_path / name).mkdir()
    place = Place(tmp_path / "data" / "tasks.db", tmp_path / "data" / "backups", tmp_path / "outside")
    make_bank(place.database)
    (place.outside / "secret").write_bytes(SECRET)
    (place.outside / "copy").mkdir()
    (place.outside / "copy" / "snapshot.sqlite3").write_bytes(SECRET)
    assert Backupd(place.environ, tmp_path)("backup", "--no-pin").code == 0
    (first,) = place.archives()
    make_bank_change(place.database)
    before = facts(place.outside)
    yield place
    assert facts(place.outside) == before
    archives = place.archives()
    assert archives, "the last good generation was removed"
    for archive in archives:
        assert not archive.is_symlink()
        (place.outside / "unpacked").write_bytes(gzip.decompress(archive.read_bytes()))
        assert is_balanced(place.outside / "unpacked")
    for path in place.backups.rglob("*"):
        assert path.is_symlink() or not path.is_file() or SECRET[:64] not in path.read_bytes()
    if len(archives) == 1 and archives != [first]:
        assert Backupd(place.environ, tmp_path)("verify", "--all").code == 0


def make_bank_change(database: Path) -> None:
    import sqlite3

    with sqlite3.connect(database) as app:
        app.execute("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
    app.close()


def facts(place: Path) -> dict[str, tuple[bytes, int, int, int]]:
    states = {path: path.stat() for path in place.rglob("*")}
    return {
        str(path): (path.read_bytes() if path.is_file() else b"", state.st_uid, state.st_mode, state.st_ino)
        for path, state in states.items()
        if path.name != "unpacked"
    }


LINK = "p = staged() / 'snapshot.sqlite3'; p.rename(p.with_name('mine')); p.symlink_to(outside / 'secret')"
FILE = "p = staged() / 'snapshot.sqlite3'; p.unlink(); p.write_bytes(b'x' * 4096)"
PACKING = "open archive.part "
COPYING = r"subprocess.Popen .*worker\.snapshot"
CHECKING = r"subprocess.Popen .*worker\.integrity_check"


@pytest.mark.parametrize("when", [COPYING, PACKING, CHECKING], ids=["copying", "packing", "checking"])
@pytest.mark.parametrize("attack", [LINK, FILE], ids=["link", "file"])
def test_replaced_copy_is_detected_and_not_packed(place: Place, when: str, attack: str) -> None:
    (before,) = place.archives()
    done = place.attacked(when, attack)
    assert done.returncode == 1
    assert "another process has replaced the copy" in done.stderr or "snapshot.sqlite3" in done.stderr
    assert "what to do: " in done.stderr
    assert place.archives() == [before], "nothing is pruned by a run that failed"


@pytest.mark.parametrize("when", [COPYING, PACKING, CHECKING], ids=["copying", "packing", "checking"])
def test_renamed_and_replaced_staging_directory_is_still_used(place: Place, when: str) -> None:
    """The run has its directory open: what is at its path is nothing to it."""
    attack = "p = staged('.'); p.rename(p.with_name('away')); p.symlink_to(outside)"
    done = place.attacked(when, attack)
    assert done.returncode == 0, done.stderr
    (archive,) = place.archives()
    assert is_balanced_after(archive, place)
    assert (place.backups / ".backupd" / "staging" / "away").exists()
    assert not [*(place.backups / ".backupd" / "staging" / "away").iterdir()], "the copy was left there"


def is_balanced_after(archive: Path, place: Place) -> bool:
    unpacked = place.outside / "unpacked"
    unpacked.write_bytes(gzip.decompress(archive.read_bytes()))
    return is_balanced(unpacked)


def test_copy_written_to_during_check_fails_run(place: Place) -> None:
    attack = (
        "p = staged() / 'snapshot.sqlite3'\n"
        "try:\n os.close(os.open(p, os.O_RDWR | os.O_NONBLOCK))\n"  # it would wait for the lease to end
        "except BlockingIOError:\n pass\n"
    )
    (before,) = place.archives()
    done = place.attacked(CHECKING, attack)
    assert done.returncode == 1
    assert "another process wrote to the copy while it was checked and packed" in done.stderr
    assert place.archives() == [before]


def test_copy_open_for_writing_by_another_process_is_not_packed(place: Place) -> None:
    (before,) = place.archives()
    done = place.attacked(PACKING, "hits.append(os.open(staged() / 'snapshot.sqlite3', os.O_RDWR))")
    assert done.returncode == 1
    assert "another process has the copy open for writing" in done.stderr
    assert place.archives() == [before]


@pytest.mark.parametrize("what", ["archive.part", r"tasks-[\d-]+\.manifest\.json"], ids=["archive", "manifest"])
def test_file_replaced_at_publication_is_not_published(place: Place, what: str) -> None:
    (before,) = place.archives()
    attack = "p = staged() / values[0]; p.unlink(); p.symlink_to(outside / 'secret')"
    done = place.attacked(f"os.rename {what}", attack)
    assert done.returncode == 1
    assert "another file was put in the place of one that backupd moved" in done.stderr
    assert place.archives() == [before]


def test_attacker_replacing_files_in_loop_discloses_nothing_and_good_generations_are_kept(place: Place) -> None:
    """A process of its own, as fast as it can, during three backups."""
    attacker = (
        "import os, sys\n"
        "root, secret = sys.argv[1:]\n"
        "while True:\n"
        "    try:\n"
        "        for run in os.listdir(root):\n"
        "            for name in ('snapshot.sqlite3', 'archive.part', 'journal'):\n"
        "                path = f'{root}/{run}/copy/{name}'\n"
        "                try:\n"
        "                    os.symlink(secret, path + '.link'); os.rename(path, path + '.away')\n"
        "                    os.rename(path + '.link', path)\n"
        "                except OSError: pass\n"
        "    except OSError: pass\n"
    )
    root, secret = place.backups / ".backupd" / "staging", place.outside / "secret"
    with subprocess.Popen([sys.executable, "-c", attacker, str(root), str(secret)]) as process:
        try:
            command = Backupd(place.environ, place.backups.parent)
            codes = [command("backup", "--no-pin").code for _ in range(3)]
        finally:
            process.kill()
    assert set(codes) <= {0, 1}
    assert os.path.lexists(root)
