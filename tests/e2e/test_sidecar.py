"""Beside a real app, in containers with few capabilities: backups belong to the right user, and harm nothing."""

import gzip
import json
import sqlite3
from pathlib import Path

import pytest

from support.containers import BACKUPS, DATA, HARDENED, Container, ContainerLab, docker, wait_until

APP = "1000:1000"
WITHOUT_RIGHTS = (*(option for option in HARDENED if not option.startswith("--cap-add")), f"--user={APP}")
# A small program that ends at SIGTERM, and drops its privileges like any command.
SERVING = (
    "import os, signal, sys, time\n"
    "from backupd.config import load_config\n"
    "from backupd.privileges import drop_privileges\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    "drop_privileges(load_config(None, os.environ), os.environ)\n"
    "print('ready', os.getuid(), flush=True)\n"
    "while True: time.sleep(60)\n"
)


def without(right: str) -> tuple[str, ...]:
    """Return the options of the hardened container, with one capability less."""
    return tuple(option for option in HARDENED if option != f"--cap-add={right}")


def tasks_of(app: Container) -> int:
    """Return how many tasks the app has, by its own account."""
    return int(json.loads(app.get("http://127.0.0.1:8000/health")[1])["tasks"])


def owners(rights: dict[str, str], *names: str) -> set[str]:
    """Return the "UID:GID" of these files, of all if none are named."""
    return {right.split()[0] for name, right in rights.items() if not names or name in names}


@pytest.mark.parametrize(
    ("options", "own_volume"),
    [
        pytest.param((), True, id="plain, own volume"),
        pytest.param((), False, id="plain, beside the database"),
        pytest.param(without("CHOWN"), True, id="hardened, own volume"),
        pytest.param(without("CHOWN"), False, id="hardened, beside the database"),
        pytest.param(WITHOUT_RIGHTS, True, id="powerless, own volume"),
        pytest.param((f"--user={APP}",), False, id="as the user, beside the database"),
    ],
)
def test_backup_belongs_to_owner_of_database(
    lab: ContainerLab, volume: str, options: tuple[str, ...], own_volume: bool
) -> None:
    backups = lab.volume() if own_volume else None
    before = lab.files(volume)
    answer = lab.backupd(volume, "backup", "--json", backups=backups, options=options)
    assert answer.code == 0, answer.err
    assert (answer.json["outcome"], answer.json["verification"]) == ("published", "full")
    assert Path(answer.json["archive_path"]).parent == Path(BACKUPS if own_volume else f"{DATA}/backups")
    after = lab.files(volume)
    assert {name: after[name] for name in before} == before
    made = lab.files(backups) if backups else {name: right for name, right in after.items() if name not in before}
    made.pop(".", None)
    assert owners(made) == {APP}
    archive = Path(answer.json["archive_path"]).name
    assert made[archive if backups else f"backups/{archive}"].endswith(" 600")


def test_writing_app_is_unaffected_by_backup(lab: ContainerLab, tmp_path: Path) -> None:
    volume, backups = lab.volume(), lab.volume()
    app = lab.app(volume, WRITE_EVERY_MS="2")
    before = lab.files(volume)
    answer = lab.backupd(volume, "backup", "--json", backups=backups, options=HARDENED)
    assert answer.code == 0, answer.err
    assert lab.files(volume) == before
    then = tasks_of(app)
    wait_until(lambda: tasks_of(app) > then, "the app goes on writing")
    copy = tmp_path / "copy.db"
    keeper = lab.start(lab.image, "infinity", options=("--entrypoint=sleep", f"--volume={backups}:{BACKUPS}"))
    docker("cp", f"{keeper.name}:{answer.json['archive_path']}", tmp_path / "archive.gz")
    copy.write_bytes(gzip.decompress((tmp_path / "archive.gz").read_bytes()))
    rows = sqlite3.connect(copy).execute("SELECT sum(amount), count(*) FROM ledger").fetchone()
    assert rows[0] == 0
    assert rows[1] > 0


def test_doctor_in_hardened_sidecar_finds_no_problem(lab: ContainerLab, volume: str) -> None:
    answer = lab.backupd(volume, "doctor", backups=lab.volume(), options=HARDENED)
    assert answer.code == 0, answer.out + answer.err


def test_private_data_needs_no_dac_override(lab: ContainerLab, volume: str) -> None:
    lab.shell(volume, "chmod 700 . && chmod 600 tasks.db")
    answer = lab.backupd(volume, "backup", "--json", backups=lab.volume(), options=HARDENED)
    assert answer.code == 0, answer.err


def test_backup_of_wrong_volume_fails_and_leaves_it_empty(lab: ContainerLab) -> None:
    empty = lab.volume()
    answer = lab.backupd(empty, "backup", "--json", backups=lab.volume(), options=HARDENED)
    assert answer.code == 1
    assert "mounted" in answer.json["hint"] + answer.json["error"]
    assert set(lab.files(empty)) == {"."}


def test_only_backups_directory_of_root_needs_chown(lab: ContainerLab, volume: str) -> None:
    backups = lab.volume()
    lab.shell(backups, "chmod 755 . && touch keep")
    refused = lab.backupd(volume, "backup", "--json", backups=backups, options=without("CHOWN"))
    assert refused.code == 78
    assert "CHOWN" in refused.json["hint"]
    answer = lab.backupd(volume, "backup", "--json", backups=backups, options=HARDENED)
    assert answer.code == 0, answer.err
    assert owners(lab.files(backups), ".") == {APP}
    assert owners(lab.files(backups), "keep") == {"0:0"}


def test_databases_of_two_users_are_refused_with_settings_to_use(lab: ContainerLab, volume: str) -> None:
    lab.shell(volume, "cp tasks.db other.db && chown 1001:1001 other.db")
    answer = lab.backupd(volume, "backup", "--json", BACKUPD_SOURCES__OTHER__PATH=f"{DATA}/other.db")
    assert answer.code == 78
    assert "PUID and PGID" in answer.json["hint"]


def stopped(lab: ContainerLab, volume: str, options: tuple[str, ...]) -> tuple[int, float]:
    """Start a process that drops its privileges, stop it by SIGTERM; return its exit code and the seconds it took."""
    entry = ("--entrypoint=/usr/bin/tini", *options)
    sidecar = lab.sidecar(volume, "--", "python", "-c", SERVING, options=entry)
    wait_until(lambda: "ready 1000" in sidecar.logs() or not sidecar.is_running(), "dropped privileges")
    return sidecar.stop()


@pytest.mark.parametrize("options", [(), HARDENED, WITHOUT_RIGHTS], ids=["plain", "hardened", "powerless"])
def test_stop_signal_reaches_process_that_is_no_longer_root(
    lab: ContainerLab, volume: str, options: tuple[str, ...]
) -> None:
    code, seconds = stopped(lab, volume, options)
    assert code == 7
    assert seconds < 5


@pytest.mark.parametrize("right", ["SETUID", "SETGID", "KILL"])
def test_each_requested_capability_is_needed(lab: ContainerLab, volume: str, right: str) -> None:
    assert stopped(lab, volume, without(right))[0] == 1
