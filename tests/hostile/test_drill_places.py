"""The place of a drill, in the directory of a compromised app: nothing outside is created, changed or removed."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.attackers import Attacker, attacked, unchanged
from support.bank import make_bank
from support.faults import BackupdRunner

pytestmark = pytest.mark.root
APP, GROUP = 1234, 5678
PLANTED = {
    "link": lambda path, outside: path.symlink_to(outside / "tasks.db"),
    "link to a directory": lambda path, outside: path.symlink_to(outside),
    "pipe": lambda path, _outside: os.mkfifo(path),
    "directory": lambda path, _outside: path.mkdir(),
    "device": lambda path, _outside: os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5)),
}
MOMENTS = ("fsync in ", "open .tasks", "os.ch", "os.link", "os.remove", "os.rename .", "subprocess")
REPLACE_FILES = """
import os
for name in os.listdir("drill"):
    os.rename("drill/" + name, "drill/stolen-" + name)
    os.symlink({outside!r} + "/tasks.db", "drill/" + name)
"""
REPLACE_DIRECTORY = """
import os
os.rename("drill", "stolen")
os.symlink({outside!r}, "drill")
"""


class Site:
    """An app's volume with the place of a drill, the backups, and a directory of root's."""

    def __init__(self, root: Path) -> None:
        self.root, self.data = root, root / "data"
        self.outside, self.place = root / "outside", root / "data" / "drill" / "tasks.db"
        self.environ = {
            "BACKUPD_DATABASE": str(self.data / "tasks.db"),
            "BACKUPD_BACKUPS_DIR": str(root / "backups"),
            "BACKUPD_SPACE__RESERVE": "0",
            "BACKUPD_DRILL__PLACE_AT": str(self.place),
            "BACKUPD_DRILL__QUERY": "SELECT count(*) > 0 FROM account",
            "BACKUPD_DRILL__ANSWER": "1",
            "PUID": "0",
        }

    def emptied(self) -> "Site":
        """Return the same site with a new, empty place."""
        for name in ("drill", "stolen"):
            left = self.data / name
            left.unlink() if left.is_symlink() else shutil.rmtree(left, ignore_errors=True)
        self.place.parent.mkdir()
        os.chown(self.place.parent, APP, GROUP)
        return self


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> BackupdRunner:
    """Runs commands."""
    return BackupdRunner(tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def site(runner: BackupdRunner) -> Iterator[Site]:
    """A site with one generation."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        site = Site(Path(name))
        site.data.mkdir()
        site.outside.mkdir(mode=0o700)
        for file_name in ("tasks.db", "tasks.db-wal", ".tasks.db.backupd-drill", ".tasks.db.backupd-drill.part"):
            (site.outside / file_name).write_text("of another app")
        make_bank(site.data / "tasks.db")
        for path in (site.data, site.data / "tasks.db"):
            os.chown(path, APP, GROUP)
        assert runner.run(["backup"], site.environ).code == 0
        yield site


@pytest.mark.parametrize(
    "name", ["tasks.db", ".tasks.db.backupd-drill", ".tasks.db.backupd-drill.part", "tasks.db-wal"]
)
@pytest.mark.parametrize("kind", PLANTED)
def test_planted_file_at_name_of_drill_is_refused_with_reason_or_removed(
    site: Site, runner: BackupdRunner, kind: str, name: str
) -> None:
    PLANTED[kind](site.emptied().place.with_name(name), site.outside)
    with unchanged(site.outside):
        done = runner.run(["drill"], site.environ, after_s=60)
    assert done.code in {0, 1}, done
    if done.code:
        assert name in done.err


@pytest.mark.parametrize("program", [REPLACE_FILES, REPLACE_DIRECTORY], ids=["files", "directory"])
def test_files_of_drill_replaced_at_any_step_change_nothing_outside(
    site: Site, runner: BackupdRunner, program: str
) -> None:
    whole = runner.run(["drill"], site.emptied().environ, counted=True)
    assert whole.code == 0, whole
    begun = next(at for at, step in enumerate(whole.steps) if ".backupd-drill.part" in step)
    alike = {re.sub(r"[0-9a-f]{8}|\d+", "", step): at for at, step in enumerate(whole.steps) if at >= begun}
    for at in (at for step, at in alike.items() if step.startswith(MOMENTS)):
        with (
            unchanged(site.outside),
            Attacker(program.format(outside=str(site.outside)), site.emptied().data, APP, GROUP) as attacker,
        ):
            done = attacked(["drill"], site.environ, site.root, at, attacker)
        assert "Traceback" not in done.err
        assert done.code in {0, 1, 3}
        assert done.err or not done.code, "the reason"
