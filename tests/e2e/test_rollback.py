"""A deploy that migrates the database and does not come up: version and data go back as the runbook describes it.

Both languages have the same commands (tests/deploy/test_runbooks.py): the test reads each second one in Spanish.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.containers import DATA, ROOT, Container, ContainerLab, build, docker, docker_program, wait_until
from support.documents import blocks_run_by, command_blocks, renamed, type_commands

HEALTH = "http://127.0.0.1:8000/health"
# The second version renames a column in its migration, and is broken: its health check still reads the old one.
CHANGES = {
    "        COMMIT;\n": "        ALTER TABLE ledger RENAME COLUMN amount TO cents;\n        COMMIT;\n",
    "SCHEMA_VERSION = 1": "SCHEMA_VERSION = 2",
    "INTO ledger VALUES": "INTO ledger (task, cents) VALUES",
}


@pytest.fixture
def new_version(lab: ContainerLab, tmp_path: Path) -> str:  # noqa: ARG001 - which has built the image of the first one
    """The image of the second version of the sample app."""
    directory = tmp_path / "new-version"
    shutil.copytree(ROOT / "deploy" / "sample-app", directory)
    program = (directory / "app.py").read_text()
    for old, new in CHANGES.items():
        assert program.count(old) == 1
        program = program.replace(old, new)
    (directory / "app.py").write_text(program)
    return build(directory)


def add_task(app: Container) -> None:
    app.python("import urllib.request as r; r.urlopen('http://127.0.0.1:8000/tasks', data=b'one more').read()")


class Terminal:
    """A shell of the host, on which the section is typed."""

    def __init__(self, names: Mapping[str, str], directory: Path) -> None:
        programs = directory / "bin"
        programs.mkdir()
        (programs / "docker").symlink_to(docker_program() or "docker")
        self._environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        self._directory = directory
        self.names = dict(names)
        self.shell = command_blocks("docs/runbook.md")[0].commands
        pages = [blocks_run_by(__file__, page, "10. ") for page in ("docs/runbook.md", "docs/runbook.es.md")]
        self.blocks = [pages[number % 2][number] for number in range(len(pages[0]))]

    def type(self, number: int) -> str:
        """Type one block; return what appeared."""
        return type_commands(
            renamed(self.shell + self.blocks[number].commands, self.names), self._environ, self._directory
        )


def test_version_and_data_go_back_after_deploy_that_migrated_and_does_not_come_up(
    lab: ContainerLab, volume: str, new_version: str, tmp_path: Path
) -> None:
    sidecar = lab.sidecar(volume, backups=lab.volume())
    app = lab.app(volume)
    taken = sidecar.exec("backupd", "backup", "--label", "deploy 0123456789ab", "--json")
    before = taken.json["generation"]
    add_task(app)  # while the new version is built
    docker("rm", "--force", app.name)
    docker("run", "--detach", "--name", app.name, f"--volume={volume}:{DATA}", new_version)
    wait_until(lambda: app.get(HEALTH)[0] == 503, "the new version answers")
    add_task(app)

    names = {
        "docker exec -it backupd": f"docker exec -it {sidecar.name}",
        "docker cp backupd": f"docker cp {sidecar.name}",
        "docker stop app": f"docker stop {app.name}",
        "docker start app": f"docker start {app.name}",
        "docker rm app": f"docker rm {app.name}",
        "--name app": f"--name {app.name}",
        "app-data": volume,
        "tasks:1.0.0": lab.app_image,
        "tasks-20261123-0400": before,
    }
    terminal = Terminal(names, tmp_path)
    stop, keep, compare, old_version, restore, start, rows, forward = range(8)
    assert len(terminal.blocks) == 8
    terminal.type(stop)
    assert "deploy 0123456789ab" in terminal.type(keep)
    after = sidecar.exec("backupd", "list", "--json").json[0]["id"]
    terminal.names["tasks-20261123-0500"] = after
    shown = terminal.type(compare).replace(" ", "")
    assert '"user_version":1,' in shown
    assert '"user_version":2,' in shown
    assert '"tasks":20' in shown
    assert '"tasks":22' in shown
    terminal.type(old_version)
    terminal.type(restore)
    assert "verified full" in terminal.type(start)
    wait_until(lambda: app.get(HEALTH)[0] == 200, "the old version answers")
    assert json.loads(app.get(HEALTH)[1])["tasks"] == 20
    assert "ledger" in terminal.type(rows)
    terminal.type(forward)
    count = (
        "import sqlite3; print(sqlite3.connect('tasks.db').execute('SELECT count(cents) FROM ledger').fetchone()[0])"
    )
    found = lab.run(
        lab.app_image, "-c", count, options=(f"--volume={volume}:{DATA}", f"--workdir={DATA}", "--entrypoint=python")
    )
    assert found.out.strip() == "44", found.err
