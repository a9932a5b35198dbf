"""The sidecar as it is deployed: the image's own daemon beside a real app, in a container with few rights."""

import gzip
import json
import re
import sqlite3
import time
from pathlib import Path

import pytest

from support.containers import BACKUPS, DATA, HARDENED, Container, ContainerLab, docker, wait_until

STAGED = f"ls {DATA}/backups/.backupd/staging/run-*/copy/snapshot.sqlite3"
APP_HEALTH = "http://127.0.0.1:8000/health"
LIVEZ, HEALTH = "http://127.0.0.1:8080/livez", "http://127.0.0.1:8080/health"
SHORT_TIMEOUTS = ("--health-interval=1s", "--health-retries=1", "--health-start-period=0s")
NOTHING_YET = "there is no verified backup of tasks yet"
# Grows the database with noise, which takes its time to pack.
GROW = """
import sqlite3, sys
c = sqlite3.connect("tasks.db")
c.execute("CREATE TABLE noise(data BLOB)")
c.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
          "INSERT INTO noise SELECT randomblob(65536) FROM n", (int(sys.argv[1]) * 16,))
c.commit()
c.close()
"""
# Tells what the kernel knows of the daemon, which is the one child of tini, and sends it a signal if one is named.
DAEMON = """
import os, pathlib, signal, sys
(pid,) = pathlib.Path("/proc/1/task/1/children").read_text().split()
print(pathlib.Path(f"/proc/{pid}/status").read_text())
if len(sys.argv) > 1: os.kill(int(pid), getattr(signal, sys.argv[1]))
"""
# Keeps the catalog's directory locked, as a process that hangs in it would, until its standard input closes.
HOLD = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print('held', flush=True); input()"


def grown(lab: ContainerLab, volume: str, mib: int = 200) -> str:
    """Let the database on `volume` grow until a backup of it takes seconds; return the volume."""
    lab.shell(volume, f"python -c '{GROW}' {mib} && chown 1000:1000 tasks.db")
    return volume


def healthy(sidecar: Container, timeout_s: float = 60) -> None:
    sidecar.answers(HEALTH, timeout_s)


def sh(sidecar: Container, script: str) -> str:
    """Run a shell script inside, as the owner of the database; return what it printed."""
    return sidecar.exec("sh", "-c", script, options=("--user=1000:1000",)).out.strip()


def status_of_daemon(sidecar: Container, *signal: str) -> dict[str, str]:
    """Return the fields of the daemon's /proc/PID/status, and send it a signal if one is named."""
    answer = sidecar.exec("python", "-c", DAEMON, *signal, options=("--user=1000:1000",))
    assert answer.code == 0, answer.err
    return {name: value.strip() for name, _, value in (line.partition(":") for line in answer.out.splitlines())}


# Tells name and environment of each process but this one.
PROCESSES = """
import contextlib, os, pathlib
for process in pathlib.Path("/proc").glob("[0-9]*"):
    if process.name != str(os.getpid()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            print((process / "comm").read_text().strip(), (process / "environ").read_bytes())
"""


def archives(sidecar: Container) -> list[str]:
    return sh(sidecar, f"ls {DATA}/backups/*.sqlite3.gz").split()


def at_work(sidecar: Container) -> None:
    """Wait until a backup has something in staging."""
    wait_until(lambda: sh(sidecar, STAGED), "a staged copy")


def unfinished(lab: ContainerLab, volume: str) -> list[str]:
    """Return what is in staging, and every archive."""
    return [name for name in lab.files(volume) if "staging/run-" in name or name.endswith(".gz")]


def gunzipped(sidecar: Container, directory: Path) -> sqlite3.Connection:
    """Fetch the newest archive out of the container, unpack it with gzip alone, and open it."""
    docker("cp", f"{sidecar.name}:{archives(sidecar)[-1]}", directory / "archive.gz")
    (directory / "copy.db").write_bytes(gzip.decompress((directory / "archive.gz").read_bytes()))
    return sqlite3.connect(directory / "copy.db")


def tasks_of(app: Container) -> int:
    return int(json.loads(app.get(APP_HEALTH)[1])["tasks"])


def test_first_backup_beside_writing_app_is_automatic_and_harmless(lab: ContainerLab, tmp_path: Path) -> None:
    volume = lab.volume()
    app = lab.app(volume, WRITE_EVERY_MS="5")
    before = lab.files(volume)
    sidecar = lab.sidecar(volume, options=HARDENED)
    healthy(sidecar)
    copy = gunzipped(sidecar, tmp_path)
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    balance, entries = copy.execute("SELECT sum(amount), count(*) FROM ledger").fetchone()
    assert balance == 0
    assert entries > 0
    after = lab.files(volume)
    assert {name: after[name] for name in before} == before
    assert {rights.split()[0] for name, rights in after.items() if name.startswith("backups")} == {"1000:1000"}
    app.stop()
    again = lab.app(volume, WRITE_EVERY_MS="5")
    tasks = tasks_of(again)
    wait_until(lambda: tasks_of(again) > tasks, "the app writes again")


def test_restore_command_of_page_runs_on_host_of_container(lab: ContainerLab, volume: str) -> None:
    sidecar = lab.sidecar(volume, options=HARDENED)
    healthy(sidecar)
    status, page = sidecar.get("http://127.0.0.1:8080/")
    assert status == 200
    program, *words = re.findall('<code class="command">([^<]*)</code>', page)[0].split()
    assert (program, words[0], words[2:4]) == ("docker", "exec", ["backupd", "restore"])
    plan = docker(*words, "--dry-run", check=False)
    assert plan.code == 0, plan.err
    assert words[4] in plan.out


def test_daemon_is_not_root_and_small(lab: ContainerLab, volume: str) -> None:
    sidecar = lab.sidecar(volume, options=HARDENED)
    sidecar.said("scrub of tasks: done")
    status = status_of_daemon(sidecar)
    assert status["Uid"].split() == status["Gid"].split() == ["1000"] * 4
    assert status["Groups"] == ""
    assert int(status["CapEff"], 16) == 0
    assert int(status["VmRSS"].split()[0]) <= 96 << 10


def test_healthcheck_fails_while_daemon_is_stuck_and_recovers(lab: ContainerLab, volume: str) -> None:
    sidecar = lab.sidecar(volume, options=(*HARDENED, *SHORT_TIMEOUTS, "--health-timeout=2s"))
    wait_until(lambda: sidecar.health() == "healthy", "healthy", 60)
    assert status_of_daemon(sidecar, "SIGSTOP")
    wait_until(lambda: sidecar.health() == "unhealthy", "unhealthy", 60)
    assert status_of_daemon(sidecar, "SIGCONT")
    wait_until(lambda: sidecar.health() == "healthy", "healthy again", 60)


def test_healthcheck_fails_while_catalog_is_unreachable_and_recovers(lab: ContainerLab, volume: str) -> None:
    sidecar = lab.sidecar(volume, options=(*HARDENED, *SHORT_TIMEOUTS, "--health-timeout=20s"))
    sidecar.said("scrub of tasks: done")
    holder = lab.start(
        lab.image,
        "-c",
        HOLD,
        f"{DATA}/backups/.backupd",
        options=("--interactive", "--entrypoint=python", "--user=1000:1000", f"--volume={volume}:{DATA}"),
    )
    wait_until(lambda: sidecar.health() == "unhealthy", "unhealthy", 90)
    assert "the catalog cannot be used" in sidecar.get(LIVEZ)[1]
    holder.kill()
    wait_until(lambda: sidecar.health() == "healthy", "healthy again", 90)


def test_docker_stop_during_large_backup_leaves_no_partial_files_and_loses_nothing(
    lab: ContainerLab, volume: str
) -> None:
    sidecar = lab.sidecar(grown(lab, volume), options=HARDENED)
    at_work(sidecar)
    code, seconds = sidecar.stop()
    assert code == 0
    assert seconds < 9
    assert not unfinished(lab, volume)
    docker("start", sidecar.name)
    healthy(sidecar, 120)


def test_docker_kill_during_large_backup_is_recovered_at_next_start(lab: ContainerLab, volume: str) -> None:
    sidecar = lab.sidecar(grown(lab, volume), options=HARDENED)
    at_work(sidecar)
    sidecar.kill()
    wait_until(lambda: not sidecar.is_running(), "the end")
    assert unfinished(lab, volume)
    docker("start", sidecar.name)
    sidecar.said("backup of tasks: published", 120)
    assert "was cut short" in sidecar.logs()
    assert [name for name in unfinished(lab, volume) if "staging" in name] == []


def test_second_sidecar_on_one_volume_is_on_standby_and_takes_over(lab: ContainerLab, volume: str) -> None:
    first = lab.sidecar(volume, options=HARDENED)
    first.said("scrub of tasks: done")
    second = lab.sidecar(volume, options=HARDENED)
    second.said("standing by")
    assert second.get(LIVEZ)[0] == second.get(HEALTH)[0] == 200
    first.stop()
    sh(second, f"rm -r {DATA}/backups/*.* {DATA}/backups/.backupd/catalog*")  # so that there is something to do
    second.said("backup of tasks: published", 100)
    assert len(archives(second)) == 1


def test_backup_to_full_volume_fails_and_leaves_no_partial_files(lab: ContainerLab, volume: str) -> None:
    small = f"--mount=type=tmpfs,destination={BACKUPS},tmpfs-size={16 << 20},tmpfs-mode=1777"
    sidecar = lab.sidecar(grown(lab, volume, 20), options=(*HARDENED, small), BACKUPD_BACKUPS_DIR=BACKUPS)
    sidecar.said("backup of tasks: failed")
    assert f"at {BACKUPS}, where" in sidecar.logs()
    assert "what to do: free space" in sidecar.logs()
    status, body = sidecar.get(HEALTH)
    assert (status, json.loads(body)["reasons"]) == (503, [NOTHING_YET])
    assert sh(sidecar, f"ls {BACKUPS}/*.gz") == ""
    assert sidecar.get(LIVEZ)[0] == 200


def test_backup_of_emptied_database_fails_and_keeps_old_generation(lab: ContainerLab, volume: str) -> None:
    sidecar = lab.sidecar(volume, options=HARDENED)
    sidecar.said("scrub of tasks: done")
    kept = archives(sidecar)
    lab.shell(volume, "rm tasks.db* && touch tasks.db && chown 1000:1000 tasks.db")
    answer = sidecar.exec("backupd", "backup", "--json")
    assert answer.code == 1
    assert "is empty (0 bytes)" in answer.json["error"]
    assert archives(sidecar) == kept


def test_wrong_volume_fails_runs_and_daemon_continues(lab: ContainerLab) -> None:
    empty, backups = lab.volume(), lab.volume()
    sidecar = lab.sidecar(empty, backups=backups, options=(*HARDENED, *SHORT_TIMEOUTS))
    sidecar.said(f"backup of tasks: failed: no database at {DATA}/tasks.db")
    assert "an unmounted one is an empty directory" in sidecar.logs()
    assert json.loads(sidecar.get(HEALTH)[1])["reasons"] == [
        "the database of tasks is missing: no backup can be made",
        NOTHING_YET,
    ]
    assert set(lab.files(empty)) == {"."}
    wait_until(lambda: sidecar.health() == "healthy", "the daemon itself is well", 60)


def test_days_follow_time_zone_in_tz(lab: ContainerLab, volume: str) -> None:
    sidecar = lab.sidecar(volume, options=HARDENED, TZ="America/New_York")
    sidecar.said("days are counted in America/New_York")
    answer = lab.backupd(volume, "config", "check", options=HARDENED, TZ="Mars/Olympus_Mons")
    assert answer.code == 0
    assert "TZ='Mars/Olympus_Mons' is not an IANA time zone" in answer.err


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("BACKUPD_SCHEDULE__BACKUP", "0 4 31 * *", "write L for the last one"),
        ("BACKUPD_HEALTHCHECK_URL", "https://monitor.example", "did you mean"),
        ("BACKUPD_DATABASE", "", "nothing to back up"),
        ("PUID", "me", "to a number"),
    ],
    ids=["schedule", "unknown-name", "nothing", "user"],
)
def test_invalid_configuration_stops_start_with_hint(
    lab: ContainerLab, volume: str, name: str, value: str, words: str
) -> None:
    answer = lab.backupd(volume, "serve", options=HARDENED, **{name: value})
    assert answer.code == 78
    assert name in answer.err
    assert words in answer.err


@pytest.mark.parametrize("command", ["serve", "restore"])
def test_container_processes_never_show_a_secret(lab: ContainerLab, volume: str, command: str) -> None:
    options = ("--user=1000:1000", "--cap-drop=ALL", "--read-only", "--tmpfs=/tmp", "--no-healthcheck")
    secrets = {"BACKUPD_HTTP__TOKEN": "t0ken-0f-the-page", "BACKUPD_NOTIFY__URLS": "json://127.0.0.1/ch4nnel"}
    sidecar = lab.sidecar(volume, "serve", options=options, **secrets)
    sidecar.said("backup of tasks: published")
    if command == "restore":  # by `docker exec`, which brings the environment of the container again
        taken = sidecar.exec("backupd", "restore", "--to", f"{DATA}/backups/restored.db")
        assert taken.code == 0, taken.err
    answer = sidecar.exec("python", "-c", PROCESSES)
    assert answer.code == 0, answer.err
    assert "tini" in answer.out
    assert "PATH=" in answer.out
    assert "0f-the-page" not in answer.out
    assert "ch4nnel" not in answer.out
    code, seconds = sidecar.stop()
    assert (code, seconds < 8) == (0, True)


@pytest.mark.parametrize("options", [(), ("--init",)], ids=["first", "below-another"])
def test_stop_at_any_instant_of_slow_start_is_handled(lab: ContainerLab, volume: str, options: tuple[str, ...]) -> None:
    options = (*HARDENED, "--cpus=0.1", *options)
    sidecar = lab.sidecar(volume, options=options, BACKUPD_HTTP__TOKEN="t0ken-0f-the-page")
    for tenths in range(6):
        wait_until(lambda: programs(sidecar) & {"backupd", "python", "tini"}, "the program of the image")
        time.sleep(tenths / 10)  # the instant, not a wait for something
        code, seconds = sidecar.stop()
        assert code in (0, 143), f"stopped {tenths} tenths of a second after its start"
        assert seconds < 8
        docker("start", sidecar.name)


def programs(sidecar: Container) -> set[str]:
    """Return the names of the programs that run in it, nothing before the engine has started them."""
    return set(docker("top", sidecar.name, "-o", "pid,comm", check=False).out.split())
