"""A restore by root into the directory of a compromised app: the app gets no file of root."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from support.attackers import Attacker, attacked, unchanged
from support.bank import is_balanced, make_bank, spend
from support.directories import rows, sha256
from support.faults import BackupdRunner, on_both_cores
from support.fork_server import CommandResult

pytestmark = pytest.mark.root
APP, GROUP = 1234, 5678
SECRET = b"root's secret"
MOMENTS = ("fsync in a", "open .", "os.ch", "os.link", "os.rename .", "subprocess")  # each kind after the first part
# What the app puts in place of each file that backupd has just made in its directory.
REPLACE_PARTS = """
for name in os.listdir("."):
    if name.endswith(".part") or name in {made!r}:
        os.rename(name, name + ".stolen")
        {plant}
"""
PLANTS = {
    "link": "os.symlink({secret!r}, name)",
    "pipe": "os.mkfifo(name)",
    "file": "open(name, 'w').write('not what was restored')",
}


@dataclass(frozen=True)
class Volume:
    """The app's directory with its database, the backups, and root's own directory with a secret."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "data" / "tasks.db"

    @property
    def secret(self) -> Path:
        return self.root / "root" / "secret"

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a run as root."""
        return {
            "BACKUPD_DATABASE": str(self.database),
            "BACKUPD_BACKUPS_DIR": str(self.root / "backups"),
            "BACKUPD_SPACE__RESERVE": "0",
            "PUID": "0",
        }

    def copy_to(self, root: Path) -> "Volume":
        subprocess.run(["cp", "-a", self.root, root], check=True)
        return Volume(root)

    def attacker(self, plant: str, *made: str) -> Attacker:
        """Return the app's user, who puts something else in place of parts and of the files that are `made`."""
        program = REPLACE_PARTS.format(made=made, plant=PLANTS[plant].format(secret=str(self.secret)))
        return Attacker(program, self.database.parent, APP, GROUP)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Volume]:
    """A volume with one generation; its app has written on since."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        volume = Volume(home / "template")
        for directory in (volume.database.parent, volume.secret.parent):
            directory.mkdir(parents=True)
        volume.secret.write_bytes(SECRET)
        volume.secret.chmod(0o600)
        volume.secret.parent.chmod(0o755)
        make_bank(volume.database)
        for path in (volume.database, volume.database.parent):
            os.chown(path, APP, GROUP)
        runner = BackupdRunner(tmp_path_factory.mktemp("scratch"))
        assert runner.run(["backup"], volume.environ).code == 0
        spend(volume.database, 5)
        for path in (volume.database, *volume.database.parent.glob("tasks.db-*")):
            os.chown(path, APP, GROUP)
        yield volume


def steps_of(template: Volume, arguments: Sequence[str], tmp_path: Path) -> list[int]:
    """Return the steps of a command that are about the database's directory."""
    volume = template.copy_to(template.root.parent / "whole")
    done = BackupdRunner(tmp_path).run(with_target(arguments, volume), volume.environ, counted=True, reads=".part")
    assert done.code in {0, 3}, done
    shutil.rmtree(volume.root)
    begun = next(at for at, step in enumerate(done.steps) if ".part" in step)
    alike = {re.sub(r"[0-9a-f]{8}|\d+", "", step): at for at, step in enumerate(done.steps) if at > begun}
    return [at for step, at in alike.items() if step.startswith(MOMENTS)]


def with_target(arguments: Sequence[str], volume: Volume) -> list[str]:
    return [word.replace("DATA", str(volume.database.parent)) for word in arguments]


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize(
    "arguments",
    [("restore", "latest"), ("restore", "latest", "--to", "DATA/new.db")],
    ids=["in place", "to a new file"],
)
def test_part_replaced_at_any_step_of_restore_changes_no_file_of_root(
    template: Volume, tmp_path: Path, arguments: Sequence[str], plant: str
) -> None:
    def attack_at(at: int) -> None:
        volume = template.copy_to(template.root.parent / f"{plant}-{at}")
        generation = next((volume.root / "backups").glob("*.gz")).name
        target = volume.database if len(arguments) == 2 else volume.database.with_name("new.db")
        before = sha256(volume.database)
        with unchanged(volume.secret.parent), volume.attacker(plant) as attacker:
            command, act = with_target(arguments, volume), partial(attempt, attacker)
            answer = attacked(command, volume.environ, tmp_path, at, act, reads=".part")
        assert "Traceback" not in answer.err
        assert_nothing_disclosed(volume)
        if answer.code == 0:
            assert (target.is_symlink(), target.stat().st_uid) == (False, APP)
            assert is_balanced(target)
            assert sha256(target) != before
        else:
            assert answer.code in {1, 75}, answer
            assert answer.err, "the reason"
        assert generation
        shutil.rmtree(volume.root)

    on_both_cores(attack_at, steps_of(template, arguments, tmp_path))


TURN_INTO_LINK = """
os.rename("below", "stolen")
os.symlink({root!r}, "below")
"""


def test_target_directory_that_becomes_link_is_not_followed(template: Volume, tmp_path: Path) -> None:
    def attack_at(at: int | None) -> CommandResult:
        volume = template.copy_to(template.root.parent / f"below-{at}")
        below = volume.database.with_name("below")
        below.mkdir()
        os.chown(below, APP, GROUP)
        command = ["restore", "latest", "--to", str(below / "new.db")]
        if at is None:
            return BackupdRunner(tmp_path).run(command, volume.environ, counted=True, reads="below")
        program = TURN_INTO_LINK.format(root=str(volume.secret.parent))
        with (
            unchanged(volume.secret.parent),
            Attacker(program, volume.database.parent, APP, GROUP) as attacker,
        ):
            answer = attacked(command, volume.environ, tmp_path, at, partial(attempt, attacker), reads="below")
        assert "Traceback" not in answer.err
        assert below.is_symlink(), "the attack came in time"
        assert answer.code in {0, 1}, answer
        return answer

    moments = [at for at, step in enumerate(attack_at(None).steps) if "below" in step or ".part" in step]
    assert moments
    on_both_cores(attack_at, moments)


# What the app puts in place of what is staged: a link to the database of another app, which only root may read.
REPLACE_STAGED = """
for path in glob.glob("backups/.backupd/staging/*/restored.sqlite3"):
    os.rename(path, path + ".stolen")
    os.symlink({secret!r}, path)
"""


def test_staged_copy_replaced_at_any_step_of_online_restore_discloses_no_other_database(
    template: Volume, tmp_path: Path
) -> None:
    def attack_at(at: int | None) -> CommandResult:
        volume = template.copy_to(template.root.parent / f"online-{at}")
        make_bank(volume.secret.with_name("other.db"), rows=7)
        environ = {**volume.environ, "BACKUPD_BACKUPS_DIR": str(volume.database.with_name("backups"))}
        shutil.copytree(volume.root / "backups", environ["BACKUPD_BACKUPS_DIR"])
        subprocess.run(["chown", "-R", f"{APP}:{GROUP}", environ["BACKUPD_BACKUPS_DIR"]], check=True)
        program = REPLACE_STAGED.format(secret=str(volume.secret.with_name("other.db")))
        command = ["restore", "latest", "--online"]
        if at is None:
            return BackupdRunner(tmp_path).run(command, environ, counted=True)
        with (
            unchanged(volume.secret.parent),
            Attacker(program, volume.database.parent, APP, GROUP) as attacker,
        ):
            answer = attacked(command, environ, tmp_path, at, partial(attempt, attacker))
        assert "Traceback" not in answer.err
        assert answer.code in {0, 1}, answer
        assert rows(volume.database, "SELECT count(*) FROM account") == [(1000,)]
        shutil.rmtree(volume.root)
        return answer

    steps = attack_at(None).steps
    begun = next(at for at, step in enumerate(steps) if "restored.sqlite3" in step)
    alike = {re.sub(r"[0-9a-f]{8}|\d+", "", step): at for at, step in enumerate(steps) if at > begun}
    moments = [at for step, at in alike.items() if step.startswith("subprocess")]
    codes = [answer.code for answer in on_both_cores(attack_at, moments)]
    assert 1 in codes, "no attack came in time"


KEPT = "tasks.db.pre-restore-20261125T120000Z"
PLANTED = {
    "link": lambda path, volume: path.symlink_to(volume.secret),
    "pipe": lambda path, _volume: os.mkfifo(path),
    "directory": lambda path, _volume: path.mkdir(),
    "device": lambda path, _volume: os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5)),
    "file without an end": lambda path, _volume: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40),
}


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        (".tasks.db.restore", {("restore",), ("restore", "--undo")}),
        (".tasks.db.restore-online", {("restore",), ("restore", "--undo")}),
        (KEPT, {("restore", "--undo")}),
        (f"{KEPT}.json", {("restore", "--undo")}),
        (".tasks.db.0123abcd.part", {("restore", "--undo")}),  # there is no restore to undo
    ],
)
@pytest.mark.parametrize("kind", PLANTED)
def test_planted_file_at_name_of_restore_is_refused_with_reason_and_backups_continue(
    template: Volume, tmp_path: Path, kind: str, name: str, refused: set[tuple[str, ...]]
) -> None:
    runner = BackupdRunner(tmp_path)

    def planted(command: tuple[str, ...]) -> None:
        volume = template.copy_to(template.root.parent / f"{tmp_path.name}-{'-'.join(command)}")
        PLANTED[kind](volume.database.with_name(name), volume)
        with unchanged(volume.secret.parent):
            done = runner.run(command, volume.environ, after_s=60)
        assert "Traceback" not in done.err
        if command not in refused:
            assert done.code in {0, 3}, done
        elif not (kind == "file without an end" and name == KEPT):
            assert (done.code, bool(done.err)) == (1, True), done
        assert_nothing_disclosed(volume)
        shutil.rmtree(volume.root)

    on_both_cores(planted, [("restore",), ("restore", "--undo"), ("backup",)])


def assert_nothing_disclosed(volume: Volume) -> None:
    """Assert that nothing in the app's directory is root's secret, nor readable by others."""
    for path in volume.database.parent.iterdir():
        state = path.lstat()
        assert state.st_ino != volume.secret.stat().st_ino, path
        if path.is_file() and not path.is_symlink() and state.st_size < 1 << 30:
            assert SECRET not in path.read_bytes()


def attempt(attacker: Attacker) -> None:
    """Let the attacker act, and assert that his program did what it should."""
    assert attacker() == "done"
