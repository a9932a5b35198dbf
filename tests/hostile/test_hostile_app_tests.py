"""Tests of a pushed commit that attack: they reach nothing of the gate, and leave neither a process nor a file."""

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.gate.unprivileged import HALF_OF_OUTPUT
from support.app_trees import left_of, run_script, tail_of, text_of

pytestmark = pytest.mark.root


@pytest.fixture
def uid() -> Iterator[int]:
    """A uid that belongs to this process of tests; nothing may be left of it."""
    user = 1_500_000_000 + os.getpid()
    yield user
    assert left_of(user) == []


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory of root in a place that every user can reach."""
    directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="canary-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def test_daemons_that_detach_themselves_are_ended(tmp_path: Path, uid: int) -> None:
    daemon = "trap '' TERM HUP INT; exec >/dev/null 2>&1 </dev/null; while :; do sleep 1; done"
    result = run_script(tmp_path, f'(setsid sh -c "(setsid sh -c \\"{daemon}\\" &) &" &); sleep 0.3; echo done', uid)
    assert result.passed, tail_of(tmp_path)


def test_fork_bomb_is_bounded_and_ended(tmp_path: Path, uid: int) -> None:
    began = time.monotonic()
    result = run_script(tmp_path, "f() { f | f & sleep 1; }; f; sleep 600", uid, timeout_s=2)
    assert not result.passed
    assert time.monotonic() - began < 90


def test_stopped_processes_are_ended(tmp_path: Path, uid: int) -> None:
    result = run_script(tmp_path, "sleep 600 & kill -STOP $!; exit 5", uid)
    assert result.exit_code == 5


def test_tests_that_close_their_output_are_awaited(tmp_path: Path, uid: int) -> None:
    result = run_script(tmp_path, "echo said; exec >&- 2>&- <&-; sleep 0.5; exit 4", uid)
    assert (result.exit_code, tail_of(tmp_path)) == (4, "said")


def test_process_that_keeps_output_open_delays_nothing(tmp_path: Path, uid: int) -> None:
    result = run_script(tmp_path, "(setsid sleep 600 &) ; exit 0", uid)
    assert result.passed
    assert result.seconds < 60


def test_signals_reach_nothing_but_tests(tmp_path: Path, uid: int) -> None:
    result = run_script(tmp_path, "kill -9 $PPID && echo killed; kill -9 -1; echo alive", uid)
    assert (result.exit_code, result.signal) in ((None, 9), (0, None))
    assert "killed" not in text_of(tmp_path)


def test_processes_of_gate_show_neither_environment_nor_files_nor_memory(tmp_path: Path, uid: int) -> None:
    script = f"""
        for one in /proc/$PPID /proc/{os.getpid()}; do
            test -d $one && echo "$one is there"
            for what in environ mem; do cat $one/$what >/dev/null 2>&1 && echo "$what is readable"; done
            for what in fd cwd/ root/; do ls $one/$what >/dev/null 2>&1 && echo "$what is readable"; done
            for what in fd/0 cwd exe; do readlink $one/$what && echo "$what is readable"; done
        done
    """
    run_script(tmp_path, script, uid)
    assert "readable" not in tail_of(tmp_path)
    assert f"/proc/{os.getpid()} is there" in tail_of(tmp_path)
    assert len(tail_of(tmp_path).splitlines()) == 2


def test_files_of_gate_cannot_be_read_or_replaced(tmp_path: Path, uid: int, reachable: Path) -> None:
    secret = reachable / "secret"
    secret.write_text("secret-0123456789")
    secret.chmod(0o600)
    output = tmp_path / "output"
    attack = f"cat {secret} {output}; echo x >{output}; touch {reachable}/planted; mv {secret} {secret}2"
    run_script(tmp_path, f"{attack}; ls ..; ls -ld ..", uid)
    assert "secret-0123456789" not in tail_of(tmp_path)
    assert secret.read_text() == "secret-0123456789"
    assert list(reachable.iterdir()) == [secret]
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert tail_of(tmp_path).splitlines()[-1].startswith("drwx--x--x")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("mkdir a a/b; touch a/b/c; chmod 000 a/b a", id="modes"),
        pytest.param("mkdir -m 1777 a; touch a/b; chmod 400 a/b; mkdir -m 1777 a/c", id="sticky"),
        pytest.param("touch -- '-rf' 'new\nline' \"$(printf '\\377\\033')\" '*'; mkdir -p './ -x /'", id="names"),
        pytest.param("mkfifo pipe; ln -s pipe link; ln -s . self; ln -s missing dangling", id="kinds"),
        pytest.param("d=$(printf 'd/%.0s' $(seq 1900)); mkdir -p a/$d b/$d; mv a b/$d", id="deep"),
        pytest.param("mkdir a; for i in $(seq 3000); do : >a/$i; done", id="many"),
        pytest.param("for p in /tmp /var/tmp /dev/shm; do mkdir -p $p/left-$$/in; : >$p/file-$$; done", id="elsewhere"),
    ],
)
def test_files_of_any_kind_are_removed(tmp_path: Path, uid: int, script: str) -> None:
    assert run_script(tmp_path, f"set -e; cd $HOME; {script}", uid).passed, text_of(tmp_path)


def test_nothing_stays_in_any_place_where_all_may_write(tmp_path: Path, uid: int) -> None:
    script = "for place in /var/tmp /dev/shm /dev/mqueue /run/lock; do [ ! -d $place ] || touch $place/left; done; "
    script += "ls /run/lock /var/tmp"
    assert run_script(tmp_path, script, uid).passed
    assert "left" in tail_of(tmp_path)


def test_shared_memory_outlives_no_tests_also_if_given_away(tmp_path: Path, uid: int) -> None:
    create = "import ctypes; c = ctypes.CDLL(None); m = c.shmget(0, 4096, 0o1600); "
    create += "assert min(m, c.semget(0, 1, 0o1600), c.msgget(0, 0o1600)) >= 0; "
    create += "b = (ctypes.c_char * 256)(); assert c.shmctl(m, 2, b) == 0; b[4:8] = (65534).to_bytes(4, 'little'); "
    create += "assert c.shmctl(m, 1, b) == 0"
    result = run_script(tmp_path, create, uid, command=("/usr/bin/env", "python3", "tests.sh"))
    assert result.passed, tail_of(tmp_path)


def test_links_are_not_followed_when_files_are_removed(tmp_path: Path, uid: int, reachable: Path) -> None:
    kept = reachable / "kept"
    kept.write_text("kept")
    name = f"backupd-tests-{uid}-planted"
    script = (
        f"ln -s {reachable} a; ln -s {kept} $HOME/b; ln -s {reachable} /tmp/{name}; ln {kept} c 2>/dev/null; exit 0"
    )
    assert run_script(tmp_path, script, uid).passed
    assert not Path("/tmp", name).is_symlink()
    assert kept.read_text() == "kept"
    assert kept.stat().st_uid == 0


def test_directories_that_others_own_stay(tmp_path: Path, uid: int, reachable: Path) -> None:
    (reachable / "kept").write_text("kept")
    planted = Path("/tmp", f"backupd-tests-{uid}-of-another")
    planted.mkdir()
    os.chown(planted, uid + 100_000_000, 0)
    try:
        assert run_script(tmp_path, "exit 0", uid).passed
        assert planted.is_dir()
    finally:
        planted.rmdir()


def test_endless_output_is_bounded(tmp_path: Path, uid: int) -> None:
    result = run_script(tmp_path, "yes | tr -d '\\n'", uid, timeout_s=2)
    assert result.limit_s == 2
    assert (tmp_path / "output").stat().st_size < 2 * HALF_OF_OUTPUT + 100
    assert len(tail_of(tmp_path)) < 1000


def test_file_longer_than_free_space_is_refused(tmp_path: Path, uid: int) -> None:
    result = run_script(tmp_path, "truncate -s 500T huge", uid)
    assert not result.passed
    assert result.seconds < 60


def test_rights_of_other_programs_are_not_given(tmp_path: Path, uid: int) -> None:
    script = "cp /usr/bin/id own; chmod 6755 own; ./own -u; su -c 'echo root'; chown 0 own; mknod sda b 8 0; exit 0"
    run_script(tmp_path, script, uid)
    assert tail_of(tmp_path).splitlines()[0] == str(uid)
    assert "root" not in tail_of(tmp_path).splitlines()
