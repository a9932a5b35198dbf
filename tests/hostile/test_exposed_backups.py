"""Backups in the volume of the app: a compromised app deletes them, and backupd warns beforehand."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from backupd.bootstrap.tasks import build_context
from backupd.config import load_config
from backupd.daemon import task_process
from backupd.system.mounts import exposing_mount
from backupd.web.localizer import LANGUAGES
from backupd.web.page import page_response
from backupd.web.responses import status_facts
from support.bank import spend
from support.command import Backupd, CommandResult, log_lines
from support.containers import ROOT
from support.hardened import APP, GROUP, Volumes, volumes
from support.page_states import healthy

DOCUMENT = (ROOT / "docs" / "container.md").read_text()
ALL_THAT_THE_APP_SEES = """
import os, shutil, sys
for place in (os.path.dirname(sys.argv[1]), os.environ["BACKUPS"]):
    for name in os.listdir(place) if os.path.exists(place) else ():
        path = os.path.join(place, name)
        shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else os.unlink(path)
"""


@contextmanager
def mounted(place: Path, at: Path | None = None) -> Iterator[None]:
    """Let a directory be a volume of its own, seen at `at`, as a container has it."""
    subprocess.run(["mount", "--bind", place, at or place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", at or place], check=True)


def taken_over(made: Volumes) -> CommandResult:
    """Delete, as the user of the app and in a container with its volume alone, all that can be deleted there."""
    program = f"import os; os.environ['BACKUPS'] = {str(made.backups)!r}{ALL_THAT_THE_APP_SEES}"
    hidden = f"mount -t tmpfs -o mode=755 none {made.backups}" if not made.backups.is_relative_to(made.data) else ":"
    as_app = ["setpriv", f"--reuid={APP}", f"--regid={GROUP}", "--clear-groups", "/usr/bin/python3", "-c", program]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", f'{hidden}; exec "$@"', "sh", *as_app, str(made.database)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


def warnings(answer: CommandResult) -> list[dict[str, str]]:
    return [finding for finding in answer.json if finding["warning"]]


@pytest.mark.root
def test_backups_in_volume_of_app_are_deleted_and_doctor_warns_before() -> None:
    with volumes() as made, mounted(made.data):
        shared = replace(made, backups=made.data / "backups")
        assert shared.backupd("backup").code == 0
        answer = shared.backupd("doctor", "--json")
        (warning,) = warnings(answer)
        assert (answer.code, warning["check"], warning["ok"]) == (0, "backups", True)
        assert f"the app of tasks can delete {shared.backups}" in warning["detail"]
        assert f":{made.data}', 'backups:/backups'] and BACKUPD_BACKUPS_DIR: /backups" in warning["hint"]
        assert shared.backupd("doctor").out.count("\nwarn   backups: ") == 1
        assert taken_over(shared).code == 0
        assert not shared.backups.exists()


@pytest.mark.root
def test_backups_in_volume_of_their_own_outlive_app_that_deletes_all() -> None:
    with volumes() as made, mounted(made.data), mounted(made.backups):
        assert made.backupd("backup").code == 0
        assert warnings(made.backupd("doctor", "--json")) == []
        assert taken_over(made).code == 0
        assert not made.database.exists()
        assert made.backupd("verify", "--all").code == 0
        assert made.backupd("restore", "latest").code == 0
        assert made.database.exists()


@pytest.mark.root
def test_backups_in_subdirectory_of_volume_of_app_are_exposed_at_any_mount_point(tmp_path: Path) -> None:
    with volumes() as made, mounted(made.data):
        below = made.data / "backups"
        below.mkdir()
        elsewhere = tmp_path / "backups"
        elsewhere.mkdir()
        with mounted(below, elsewhere):
            mount = exposing_mount(str(made.database), str(elsewhere))
            assert mount is not None
            assert mount.point == str(made.data)
            assert exposing_mount(str(made.database), str(made.backups)) is None


@pytest.mark.root
def test_backups_that_app_has_no_right_to_are_not_exposed() -> None:
    with volumes(0o755) as made:
        made.backups.chmod(0o755)
        assert exposing_mount(str(made.database), str(made.backups)) is None
        made.backups.chmod(0o1777)
        assert exposing_mount(str(made.database), str(made.backups)) is not None, "what it owns there it may delete"
        made.backups.chmod(0o755)
        made.backups.parent.chmod(0o777)
        assert exposing_mount(str(made.database), str(made.backups)) is not None, "it may put another in its place"
        made.backups.parent.chmod(0o1777)
        assert exposing_mount(str(made.database), str(made.backups)) is None
        assert exposing_mount(str(made.database.with_name("missing.db")), str(made.data)) is None


def test_replica_ends_warning(backupd: Backupd, tmp_path: Path) -> None:
    assert [one["check"] for one in warnings(backupd("doctor", "--json"))] == ["backups"]
    (tmp_path / "nas").mkdir()
    answer = backupd("doctor", "--json", BACKUPD_REPLICAS__NAS__URL=f"file:{tmp_path / 'nas'}")
    assert warnings(answer) == []


def test_daemon_logs_warning_when_it_starts(backupd: Backupd, backups: Path) -> None:
    config = load_config(None, backupd.environ)
    context = build_context(config)
    assert task_process._doctor(config, context) == 0
    context.log.close()
    (line,) = [line for line in log_lines(backups) if line.get("log.level") == "WARNING"]
    assert (line["event.action"], line["backupd.ok"]) == ("doctor.found", True)
    assert "can delete" in line["message"]


def test_exposed_backups_are_reported_on_page_and_status_in_both_languages() -> None:
    well, exposed = healthy(), replace(healthy(), exposed=True)
    assert (status_facts(well)["exposed"], status_facts(exposed)["exposed"]) == (False, True)
    assert exposed.stage == "healthy", "it is no reason to wake anybody"
    said = {"en": "The app can delete the backups", "es": "La aplicación puede borrar las copias"}
    for language in LANGUAGES:
        assert said[language] not in page_response(well, language).body.decode()
        assert said[language] in page_response(exposed, language).body.decode()


def test_backups_moved_as_documented_keep_store_identity(
    backupd: Backupd, backups: Path, database: Path, tmp_path: Path
) -> None:
    first = backupd("backup", "--pin", "--json").json["generation"]
    before = backupd("list", "--json").json
    spend(database, 3)
    (commands,) = re.findall(r"### Into a volume of their own\n.*?```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    (copy,) = re.findall(r"--entrypoint cp \S+ (.+)", commands)
    own = tmp_path / "own"
    own.mkdir()
    places = {"/app/data/backups/.": f"{backups}/.", "/backups/": f"{own}/"}
    subprocess.run(["cp", *(places.get(word, word) for word in copy.split())], check=True)
    moved = {"BACKUPD_BACKUPS_DIR": str(own)}
    assert backupd("list", "--json", **moved).json == before
    assert backupd("verify", "--all", **moved).code == 0
    shutil.rmtree(backups)
    second = backupd("backup", "--json", **moved).json
    assert (second["outcome"], second["warnings"]) == ("published", [])
    assert [one["id"] for one in backupd("list", "--json", **moved).json] == [second["generation"], first]
    made_by = {
        backupd("show", one, "--json", **moved).json["manifest"]["store"] for one in (first, second["generation"])
    }
    assert len(made_by) == 1
