"""The tests of an app: they run as another user on their own copy of the tree, and nothing of them is left."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backupd.errors import Cancelled, GateStepFailed
from backupd.gate import app_tests
from backupd.gate.app_tests import TestResult, end_leftovers, require_rights, run_tests
from backupd.gate.model import AppTests
from backupd.gate.unprivileged import HALF_OF_OUTPUT, processes_of
from backupd.system.process import start_module
from support.app_trees import left_of, run_script, tail_of, text_of, tree_of
from support.daemon import wait_until
from support.fork_server import measured
from support.rights import Rights
from support.user_namespace import IN_USER_NAMESPACE

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def measured_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the process that runs the tests as well, which gets nothing of the environment of this one."""

    def start(module: str, *arguments: str, environ: Mapping[str, str], **how: Any) -> subprocess.Popen[bytes]:
        return start_module(module, *arguments, environ={**environ, **measured()}, **how)

    monkeypatch.setattr("backupd.gate.app_tests.start_module", start)


def test_tests_pass_on_their_own_copy_of_tree(tmp_path: Path, uid: int) -> None:
    script = "set -e; . ./lib.sh; test -x run; [ $(readlink link) = run ]; echo changed >lib.sh; rm run; answer"
    more = {"lib.sh": "answer() { echo well; echo also >&2; }\n", "run*": "", "link -> run": None}
    result = run_script(tmp_path, script, uid, more=more)
    assert result.passed, tail_of(tmp_path)
    assert (tail_of(tmp_path), text_of(tmp_path)) == ("well\nalso", "well\nalso\n")
    assert str(result).startswith("the tests passed after ")
    assert left_of(uid) == []


def test_user_has_no_rights_groups_or_open_files(tmp_path: Path, uid: int) -> None:
    script = "id -u; id -g; id -G; umask; pwd; ulimit -c; cat /proc/self/limits /proc/self/status; ls -l /proc/self/fd"
    result = run_script(tmp_path, script, uid)
    assert result.passed, tail_of(tmp_path)
    lines = tail_of(tmp_path).splitlines()
    assert lines[:4] == [str(uid)] * 3 + ["0077"]
    assert lines[4].endswith("/tree")
    assert lines[5] == "0"
    opened = [line.rpartition(" -> ")[2].partition(":")[0] for line in lines if " -> " in line]
    assert sorted(one for one in opened if not one.startswith("/proc/")) == ["/dev/null", "pipe", "pipe"]
    facts = dict(line.split(":", 1) for line in lines if ":" in line and " -> " not in line)
    assert facts["NoNewPrivs"].strip() == "1"
    assert {int(facts[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb", "SigBlk", "SigIgn")} == {0}
    (processes,) = (line.split()[2:4] for line in lines if line.startswith("Max processes"))
    assert processes == ["1024", "1024"]


def test_environment_has_only_what_is_named(tmp_path: Path, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUPD_GATE__APP__SECRET", "secret-0123456789")
    run_script(tmp_path, "", uid, command=("env",))
    found = dict(line.split("=", 1) for line in tail_of(tmp_path).splitlines())
    assert found.keys() == {"PATH", "HOME", "TMPDIR", "LANG", "CI"}
    assert (found["LANG"], found["CI"], found["PATH"]) == ("C.UTF-8", "true", os.environ["PATH"])
    assert found["HOME"] != found["TMPDIR"]


def test_restored_database_is_given_and_original_is_not_touched(tmp_path: Path, uid: int) -> None:
    database = tmp_path / "tasks.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE task (id INTEGER)")
    connection.close()
    before = database.read_bytes()
    script = (
        "set -e; cd $(dirname $BACKUPD_RESTORED_DATABASE); echo x >>tasks.db; ls -l; echo $BACKUPD_RESTORED_DATABASE"
    )
    result = run_script(tmp_path, script, uid, database=database)
    assert result.passed, tail_of(tmp_path)
    assert database.read_bytes() == before
    facts, path = tail_of(tmp_path).splitlines()[-2:]
    assert facts.startswith("-rw-------")
    assert f" {len(before) + 2} " in facts
    assert Path(path).name == "tasks.db"
    assert not Path(path).exists()


@pytest.mark.parametrize(
    ("script", "said", "hint"),
    [
        ("echo no; exit 3", "the tests failed with exit code 3 after", "push again"),
        ("kill -KILL $$", "the tests were killed by SIGKILL after", "memory"),
        ("kill -SEGV $$", "the tests were killed by SIGSEGV after", "push again"),
        ("exit 127", "the tests failed with exit code 127", "image of the gate may lack the program"),
    ],
)
def test_failure_is_told_by_its_kind(tmp_path: Path, uid: int, script: str, said: str, hint: str) -> None:
    result = run_script(tmp_path, script, uid)
    assert not result.passed
    assert str(result).startswith(said)
    assert hint in result.hint


def test_missing_program_is_told(tmp_path: Path, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # others may not be searched by every user
    result = run_script(tmp_path, "", uid, command=("no-such-program", "--all"))
    assert (result.exit_code, tail_of(tmp_path)) == (
        127,
        "backupd: 'no-such-program' cannot be run: No such file or directory",
    )
    assert "docs/deploy-guard.md" in result.hint


def test_program_that_must_not_be_executed_is_told(tmp_path: Path, uid: int) -> None:
    result = run_script(tmp_path, "", uid, command=("./tests.sh",))
    assert (result.exit_code, tail_of(tmp_path)) == (126, "backupd: './tests.sh' cannot be run: Permission denied")


def test_time_limit_ends_everything(tmp_path: Path, uid: int) -> None:
    script = "trap '' TERM INT HUP; echo begun; (setsid sleep 600 &) ; sleep 600"
    result = run_script(tmp_path, script, uid, timeout_s=1)
    assert str(result) == "the tests did not end within 1 s"
    assert tail_of(tmp_path) == "begun"
    assert "test_timeout_s" in result.hint
    assert left_of(uid) == []


def test_cancelled_tests_end_at_once(tmp_path: Path, uid: int) -> None:
    began = time.monotonic()
    with pytest.raises(Cancelled):
        run_script(tmp_path, "echo begun; sleep 600", uid, cancelled=lambda: "begun" in text_of(tmp_path))
    assert time.monotonic() - began < 60
    assert left_of(uid) == []


def test_leftovers_of_killed_gate_are_ended(uid: int) -> None:
    work = Path(tempfile.mkdtemp(dir="/tmp", prefix=f"backupd-tests-{uid}-"))
    (work / "database").mkdir()
    with subprocess.Popen(("sleep", "600"), user=uid, start_new_session=True) as process:
        end_leftovers(uid)
        assert process.wait(20) == -signal.SIGKILL
    assert left_of(uid) == []


def test_runner_that_is_killed_leaves_nothing(tmp_path: Path, uid: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        ran = pool.submit(run_script, tmp_path, "echo begun; (setsid sleep 600 &); sleep 600", uid)
        wait_until(lambda: "begun" in text_of(tmp_path), "the tests")
        os.kill(parent_of(uid), signal.SIGKILL)
        with pytest.raises(GateStepFailed, match="the process that runs the tests was killed"):
            ran.result(60)
    assert left_of(uid) == []


def parent_of(user: int) -> int:
    """Return the process that runs the tests of `user`."""
    for pid in processes_of(user):
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if b"backupd.gate.unprivileged" in Path(f"/proc/{parent}/cmdline").read_bytes():
            return parent
    raise AssertionError("no process runs tests")


def test_long_output_keeps_beginning_and_end(tmp_path: Path, uid: int) -> None:
    result = run_script(tmp_path, f"echo first; yes {'x' * 99} | head -n 300000; echo last", uid)
    assert result.passed
    size = (tmp_path / "output").stat().st_size
    assert 2 * HALF_OF_OUTPUT < size < 2 * HALF_OF_OUTPUT + 100
    lines = text_of(tmp_path).splitlines()
    assert (lines[0], lines[-1]) == ("first", "last")
    left_out = 300_000 * 100 + 6 + 5 - 2 * HALF_OF_OUTPUT
    assert f"[{left_out} bytes left out by backupd]" in lines
    assert len(tail_of(tmp_path).splitlines()) == 200
    assert tail_of(tmp_path).endswith("\nlast")


def test_output_of_any_bytes_is_shown_printable(tmp_path: Path, uid: int) -> None:
    script = r"printf '\033[31mred\033[0m\t|\033]0;title\007|\000\377\r\nsecond \342\200\256 line\n'"
    run_script(tmp_path, script, uid)
    first, second = tail_of(tmp_path).splitlines()
    assert first == r"red ||\x00�"
    assert second == r"second \u202e line"


def test_tests_without_output_file_of_their_own_are_refused(tmp_path: Path, uid: int) -> None:
    (tmp_path / "output").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        run_script(tmp_path, "echo x", uid)
    assert not (tmp_path / "elsewhere").exists()
    assert left_of(uid) == []


def test_full_disk_ends_tests(tmp_path: Path, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1 << 40])
    monkeypatch.setattr(app_tests, "free_bytes", lambda _path: next(free, 1000))
    result = run_script(tmp_path, "sleep 600", uid)
    assert str(result) == "the tests were ended: they left only 1000 B of the disk free"
    assert "larger disk" in result.hint
    assert left_of(uid) == []


def test_full_disk_outside_of_work_directory_ends_tests(
    tmp_path: Path, uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([1 << 40])
    monkeypatch.setattr(app_tests, "free_bytes", lambda path: next(free, 1000) if path == Path("/") else 1 << 40)
    result = run_script(tmp_path, "sleep 600", uid, timeout_s=20)
    assert str(result) == "the tests were ended: they left only 1000 B of the disk free"
    assert left_of(uid) == []


def test_disk_that_was_full_before_ends_no_tests(tmp_path: Path, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_tests, "free_bytes", lambda path: 1000 if path == Path("/") else 1 << 40)
    assert run_script(tmp_path, "sleep 2", uid).passed


def test_one_user_runs_the_tests_of_one_gate_at_a_time(tmp_path: Path, uid: int) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(run_script, tmp_path / "one", "echo begun; sleep 600", uid, timeout_s=3)
        wait_until(lambda: "begun" in text_of(tmp_path / "one"), "the tests")
        assert run_script(tmp_path / "two", "echo second", uid).passed
        assert first.result(60).limit_s == 3
    assert text_of(tmp_path / "one") == "begun\n"


@pytest.mark.parametrize("user", [0, os.geteuid()])
def test_user_of_gate_is_refused(tmp_path: Path, user: int) -> None:
    with pytest.raises(GateStepFailed, match="to which the gate belongs"):
        run_tests(
            AppTests(("true",), user=user), tree_of(tmp_path, {"a": ""}), None, tmp_path / "output", lambda: False
        )


def test_missing_capability_is_named(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    status = "Name:\tpython\nCapEff:\t00000000a80425fb\n"  # as Docker gives it
    monkeypatch.setattr(Path, "read_text", lambda _path: status)
    require_rights(uid)
    monkeypatch.setattr(Path, "read_text", lambda _path: "CapEff:\t0000000000000003\n")
    with pytest.raises(GateStepFailed, match="it lacks CAP_KILL, CAP_SETGID, CAP_SETUID") as failed:
        require_rights(uid)
    assert "cap_add" in failed.value.hint


def run_apart(program: str, *arguments: object, rights: tuple[str, ...] = ()) -> str:
    """Run a Python program in a process of its own, with `rights`; return what it prints."""
    words = [*rights, sys.executable, "-c", program, *map(str, arguments)]
    environ = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}"}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


RUN = "import sys; from pathlib import Path; from support.app_trees import run_script, tail_of; "


def test_five_capabilities_suffice(tmp_path: Path, uid: int) -> None:
    script = (
        "cd $HOME; mkdir -m 1777 a; mkdir -m 700 a/b; touch a/b/c a/d; chmod 000 a/b a/d; (setsid sleep 600 &); id -u"
    )
    program = RUN + "run_script(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])); print(tail_of(Path(sys.argv[1])))"
    few = Rights(("chown", "dac_override", "kill", "setgid", "setuid"))
    assert run_apart(program, tmp_path, script, uid, rights=few.command) == f"{uid}\n"
    assert left_of(uid) == []


def test_user_that_container_does_not_have_is_told(tmp_path: Path, uid: int) -> None:
    program = f"""{RUN}
from backupd.errors import GateStepFailed
try:
    run_script(Path(sys.argv[1]), "exit 0", int(sys.argv[2]))
except GateStepFailed as error:
    print(error.message, error.hint, sep="; ")
"""
    said = run_apart(program, tmp_path, uid, rights=IN_USER_NAMESPACE)
    assert said == f"tests cannot run as uid {uid}, which this container does not have; set another test_user\n"


def test_processes_end_where_no_other_can_be_started(uid: int) -> None:
    program = """
import os, sys
from backupd.gate import unprivileged
def refuse():
    raise BlockingIOError(11, "Resource temporarily unavailable")
unprivileged._prctl(36, 1)
unprivileged.os.fork = refuse
print(unprivileged._end_all(int(sys.argv[1])))
"""
    sleeping = [subprocess.Popen(("sleep", "600"), user=uid, start_new_session=True) for _ in range(3)]
    try:
        assert run_apart(program, uid) == "0\n"
        assert {one.wait(20) for one in sleeping} == {-signal.SIGKILL}
    finally:
        for one in sleeping:
            one.kill()
            one.wait()


@pytest.mark.parametrize(("found", "most"), [((0, 0), 1024), ((20, 512), 428), ((10, 32), 16), ((50, 10**6), 1024)])
def test_gate_keeps_processes_for_itself(monkeypatch: pytest.MonkeyPatch, found: tuple[int, int], most: int) -> None:
    monkeypatch.setattr(app_tests, "container_processes", lambda: found)
    assert app_tests._most_processes() == most


def test_mount_without_exec_is_told() -> None:
    failed = TestResult(1.0, exit_code=1, noexec="/tmp")
    assert failed.hint.startswith("/tmp is mounted noexec")
    assert TestResult(1.0, exit_code=0, noexec="/tmp").hint == ""
