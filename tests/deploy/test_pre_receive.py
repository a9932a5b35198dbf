"""deploy/forgejo/pre-receive with real git: which pushes it refuses; it ends and cleans up whatever the tests do."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from support.command import Backupd, CommandResult
from support.daemon import running_daemon
from support.documents import ROOT, blocks_run_by, renamed, run_commands
from support.git import Repositories, make_repositories
from support.processes import is_gone, wait_until
from support.recording_server import HANG_UP, CannedResponse, ReceivedRequest, RecordingServer, recording_server

pytestmark = pytest.mark.no_cover

HOOK = ROOT / "deploy" / "forgejo" / "pre-receive"
GOOD, BAD = {"run": "exit 0"}, {"run": "echo 1 test failed; exit 1"}
# How the hook of Forgejo and Gitea runs the files in its directory.
FORGEJO = """#!/usr/bin/env bash
data=$(cat)
exitcodes=""
for hook in ${GIT_DIR}/hooks/pre-receive.d/*; do
    echo "${data}" | "${hook}"
    exitcodes="${exitcodes} $?"
done
for i in ${exitcodes}; do
    [ ${i} -eq 0 ] || exit ${i}
done
"""
TOKEN = "a-token-that-may-only-ask-for-backups"


class Server(Repositories):
    """Repositories whose bare one has the hook; the tests of a commit are its own script `run`."""

    @property
    def directory(self) -> Path:
        """Where the hook unpacks."""
        return self.bare.parent / "unpacked"

    def install(self, shell: str = "/bin/sh", at: str = "hooks/pre-receive") -> None:
        """Put the hook in its place, for a shell."""
        hook = self.bare / at
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(HOOK.read_text().replace("#!/bin/sh", f"#!{shell}", 1))
        hook.chmod(0o755)

    def set(self, **settings: str) -> None:
        """Set settings of the hook."""
        for name, value in settings.items():
            self.git("config", f"backupd.{name}", value, cwd=self.bare)

    def write_tree(self, *entries: tuple[str, str, str]) -> str:
        """Write a tree that git itself would not make; return its id."""
        tree = b"".join(f"{mode} {name}".encode() + b"\0" + bytes.fromhex(found) for mode, name, found in entries)
        path = self.bare.parent / "tree"
        path.write_bytes(tree)
        return self.git("hash-object", "-w", "--literally", "-t", "tree", str(path))

    def refuses(self, pushed: CommandResult, *words: str) -> None:
        """Require that a push was refused with these words, and that nothing is left of it."""
        assert pushed.code == 1, pushed.err
        assert "REFUSED" in pushed.err, pushed.err
        for word in words:
            assert word in pushed.err, pushed.err
        assert list(self.directory.iterdir()) == []

    def accepts(self, pushed: CommandResult, *words: str) -> None:
        """Require that a push was accepted with these words, and that nothing is left of it but refs."""
        assert pushed.code == 0, pushed.err
        for word in words:
            assert word in pushed.err, pushed.err
        assert list(self.directory.iterdir()) == []


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return make_server(tmp_path)


def make_server(directory: Path, object_format: str = "sha1") -> Server:
    made = make_repositories(directory, object_format)
    server = Server(made.bare, made.clone, made.environ)
    server.directory.mkdir()
    server.install()
    server.set(test="sh ./run", directory=str(server.directory), interval="1", grace="1", limit="30")
    return server


def shells() -> list[str]:
    """Return the shells of this machine, as the first line of a script names them."""
    found = {name: shutil.which(name) for name in ("dash", "bash", "busybox")}
    return [f"{path} sh" if name == "busybox" else path for name, path in found.items() if path]


def test_hook_of_bare_repository_accepts_commit_that_passes_its_tests_and_refuses_one_that_fails(
    server: Server,
) -> None:
    good = server.commit(GOOD)
    server.accepts(server.push("main"), f"refs/heads/main at {good[:12]}: tests passed")
    bad = server.commit(BAD)
    server.refuses(
        server.push("main"), f"refs/heads/main at {bad[:12]}: the tests failed with exit code 1", "| 1 test failed"
    )
    assert server.refs() == {"refs/heads/main": good}


@pytest.mark.parametrize("shell", shells(), ids=lambda shell: Path(shell).name)
@pytest.mark.usefixtures("door")
def test_hook_called_by_forgejo_works_with_each_shell(server: Server, tmp_path: Path, shell: str) -> None:
    path = server.environ["PATH"]
    if "busybox" in shell:  # with its own commands too, as in Forgejo's image
        (tmp_path / "bin").mkdir()
        subprocess.run([shell.split(maxsplit=1)[0], "--install", "-s", tmp_path / "bin"], check=True)
        path = f"{tmp_path}/bin:{path}"
    (server.bare / "hooks" / "pre-receive").write_text(FORGEJO)
    server.install(shell, "hooks/pre-receive.d/backupd")
    server.commit(GOOD)
    server.accepts(server.push("main", PATH=path), "tests passed", "verified backup")
    server.commit(BAD)
    server.refuses(server.push("main", PATH=path), "the tests failed with exit code 1", "| 1 test failed")
    pid = tmp_path / "pid"
    server.set(limit="1")
    server.commit({"run": f"setsid sh -c 'echo $$ >{pid}; sleep 600' & until [ -s {pid} ]; do :; done; sleep 600"})
    server.refuses(server.push("main", PATH=path), "did not end within 1 s")
    assert is_gone(int(pid.read_text()))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", "--shell=sh", HOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_tests_run_on_pushed_commit_with_files_that_archives_leave_out(server: Server) -> None:
    server.commit({"run": "ls -A >../seen; exit 1", ".gitattributes": "checks export-ignore\n", "checks": ""})
    server.set(test="ls -A | tr '\\n' ' '; exit 1")
    server.refuses(server.push("main"), "| .gitattributes checks run")


@pytest.mark.parametrize("name", ["..", ".git", "../x", "/x"])
def test_commit_with_path_that_leaves_the_tree_is_refused(server: Server, name: str) -> None:
    blob = server.git("hash-object", "-w", __file__)
    inner = server.write_tree(("100644", "file", blob))
    commit = server.git("commit-tree", "-m", "hostile", server.write_tree(("40000", name, inner)))
    server.refuses(server.push(f"{commit}:refs/heads/main"), "cannot be unpacked", "invalid path")


def test_link_with_directory_of_the_same_name_is_not_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "target").write_text(str(tmp_path / "outside"))
    blob, link = (server.git("hash-object", "-w", path) for path in (__file__, str(tmp_path / "target")))
    inner = server.write_tree(("100644", "file", blob))
    tree = server.write_tree(("120000", "a", link), ("40000", "a", inner))
    server.set(test="exit 1")
    server.refuses(server.push(f"{server.git('commit-tree', '-m', 'hostile', tree)}:refs/heads/main"), "exit code 1")
    assert list((tmp_path / "outside").iterdir()) == []


def test_environment_of_tests_has_nothing_of_server_or_git(server: Server) -> None:
    server.set(test="env | sed 's/=.*//' | grep -vx -e PWD -e SHLVL -e _ | sort | tr '\\n' ' '; exit 1")
    server.commit(GOOD)
    pushed = server.push("main", GITEA_TOKEN="secret", GIT_TRACE_SETUP="0")
    server.refuses(pushed, "| BACKUPD_HOOK CI HOME LANG PATH TMPDIR")
    assert "secret" not in pushed.err


def test_deleted_refs_and_refs_that_are_not_guarded_are_not_tested(server: Server) -> None:
    server.commit(GOOD)
    server.accepts(server.push("main", "main:refs/tags/v1"))
    server.commit(BAD)
    pushed = server.push("main:topic", ":refs/tags/v1")
    server.accepts(pushed)
    assert "backupd:" not in pushed.err
    assert set(server.refs()) == {"refs/heads/main", "refs/heads/topic"}


def test_forced_push_is_tested(server: Server) -> None:
    good = server.commit(GOOD)
    server.accepts(server.push("main"))
    server.git("checkout", "-q", "--orphan", "other")
    server.commit(BAD)
    server.refuses(server.push("+other:main"), "failed with exit code 1")
    assert server.refs() == {"refs/heads/main": good}
    another = server.commit(GOOD, "another history")
    server.accepts(server.push("+other:main"), "tests passed")
    assert server.refs() == {"refs/heads/main": another}


def test_tag_of_commit_that_has_passed_is_accepted_without_testing_again(server: Server) -> None:
    server.set(test="echo run >>../../../runs; sh ./run")
    server.commit(GOOD)
    server.accepts(server.push("main"), "tests passed")
    server.git("tag", "-a", "-m", "release", "v1")
    server.git("tag", "v1-light")
    server.accepts(server.push("v1", "v1-light"), "refs/tags/v1 at", "tests of this commit have passed before")
    assert (server.bare.parent / "runs").read_text() == "run\n"
    server.set(test="echo more >>../../../runs; sh ./run")
    server.git("tag", "v2")
    server.accepts(server.push("v2"), "tests passed")
    assert (server.bare.parent / "runs").read_text() == "run\nmore\n"


def test_commit_is_tested_itself_whatever_replaces_it_on_the_server(server: Server) -> None:
    good = server.commit(GOOD)
    server.accepts(server.push("main"), "tests passed")
    bad = server.commit(BAD)
    server.accepts(server.push(f"{good}:refs/replace/{bad}"))
    server.refuses(server.push("main"), f"refs/heads/main at {bad[:12]}: the tests failed")


def test_annotated_tag_of_bad_commit_is_refused(server: Server) -> None:
    bad = server.commit(BAD)
    server.git("tag", "-a", "-m", "release", "v1")
    server.refuses(server.push("v1"), f"refs/tags/v1 at {bad[:12]}: the tests failed")
    assert server.refs() == {}


def test_tag_of_file_is_refused(server: Server) -> None:
    server.commit(GOOD)
    server.git("tag", "-a", "-m", "no commit", "v1", "HEAD:run")
    server.refuses(server.push("v1"), "refs/tags/v1 leads to no commit that could be tested")


def test_push_of_several_refs_tests_each_commit_once_and_accepts_all_or_none(server: Server) -> None:
    server.set(refs="refs/heads/*", test="echo run >>../../../runs; sh ./run")
    server.commit(GOOD)
    server.git("branch", "same")
    server.git("checkout", "-q", "-b", "bad")
    server.commit(BAD)
    server.refuses(server.push("main", "same", "bad"), "refs/heads/bad at")
    assert server.refs() == {}
    server.accepts(server.push("main", "same"), "passed before")
    assert (server.bare.parent / "runs").read_text().count("run") == 2


@pytest.mark.parametrize("name", ["a'b\"c", "$(touch${IFS}broken)", "-x;`id`&|", "ñandú", "a%s%n", "x{y}(z)!#"])
def test_ref_with_odd_name_is_tested_like_others(server: Server, name: str) -> None:
    server.set(refs="refs/heads/*")
    server.commit(BAD)
    server.refuses(server.push(f"main:refs/heads/{name}"), f"refs/heads/{name} at")
    assert not list(server.bare.parent.rglob("broken"))


def test_repository_with_sha256_is_guarded(tmp_path: Path) -> None:
    server = make_server(tmp_path, "sha256")
    commit = server.commit(GOOD)
    assert len(commit) == 64
    server.accepts(server.push("main", "main:refs/tags/v1"), "tests passed")
    server.accepts(server.push(":refs/tags/v1"))
    server.commit(BAD)
    server.refuses(server.push("main"))


def test_push_by_server_is_tested_unless_told_otherwise(server: Server) -> None:
    server.commit(BAD)
    server.refuses(server.push("main", GITEA_INTERNAL_PUSH="true"))
    server.set(serverPushes="no")
    server.accepts(server.push("main", GITEA_INTERNAL_PUSH="true"))
    server.commit(BAD, "another")
    server.refuses(server.push("main"))


def test_tests_that_reach_their_limit_are_ended_and_connection_is_kept_alive(server: Server) -> None:
    server.set(limit="2")
    commit = server.commit({"run": "echo waiting; sleep 600"})
    server.refuses(
        server.push("main"),
        f"testing {commit[:12]}: 1 s of at most 2 s",
        "did not end within 2 s",
        "| waiting",
        "backupd.limit",
    )


def test_tests_that_ignore_sigterm_are_killed_with_their_children(server: Server, tmp_path: Path) -> None:
    server.set(limit="1")
    pid = tmp_path / "pid"
    server.commit({"run": f"trap '' TERM; (sleep 600 & echo $! >{pid}; wait); sleep 600"})
    server.refuses(server.push("main"), "did not end within 1 s")
    assert is_gone(int(pid.read_text()))


def test_process_that_tests_leave_in_another_session_is_killed(server: Server, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    server.commit({"run": f"setsid sh -c 'echo $$ >{pid}; sleep 600' & until [ -s {pid} ]; do :; done"})
    server.accepts(server.push("main"))
    assert is_gone(int(pid.read_text()))


def test_process_without_environment_that_keeps_output_open_ends_at_limit(server: Server, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    server.set(limit="1")
    server.commit({"run": f"env -i setsid sh -c 'echo $$ >{pid}; exec sleep 600' & until [ -s {pid} ]; do :; done"})
    try:
        server.refuses(server.push("main"), "or a process that they started, did not end within 1 s")
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def test_end_of_endless_output_is_shown_without_control_characters(server: Server) -> None:
    script = "head -c 100000000 /dev/zero; printf 'a\\033[31mred\\033[0m\\007\\302\\233b\\rlast \\303\\261\\n'; exit 9"
    server.commit({"run": script})
    pushed = server.push("main")
    server.refuses(pushed, "failed with exit code 9", "| aredb", "| last ñ")
    assert not set(pushed.err) & {"\0", "\x1b", "\x07", "\x9b"}
    assert len(pushed.err) < 100_000


def test_tests_that_remove_their_directory_still_report(server: Server) -> None:
    server.commit({"run": 'echo before; rm -rf "${PWD%/tree}"; echo after; exit 1'})
    server.refuses(server.push("main"), "| before", "| after", "exit code 1")


def test_directories_that_tests_made_read_only_are_removed(server: Server) -> None:
    server.commit({"run": "mkdir -p a/b; touch a/b/c; chmod 500 a/b a; chmod 0 a"})
    server.accepts(server.push("main"))


def test_command_that_does_not_exist_is_told_apart_from_failed_tests(server: Server) -> None:
    server.set(test="no-such-program test")
    server.commit(GOOD)
    server.refuses(server.push("main"), "could not start, exit code 127", "no-such-program", "is in /")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"test": ""}, "no tests to run and no backup to ask for"),
        ({"tests": "true"}, "unknown setting backupd.tests"),
        ({"limit": "5m"}, "backupd.limit is '5m', not a number"),
        ({"serverPushes": "maybe"}, "backupd.serverPushes is 'maybe', not yes or no"),
        ({"directory": "/nonexistent"}, "no directory in /nonexistent"),
        ({"pin": '30d", "x": "'}, "not a time such as 30d"),
    ],
)
def test_guard_that_is_not_set_up_refuses_all(server: Server, settings: dict[str, str], words: str) -> None:
    server.set(**settings)
    server.commit(GOOD)
    server.refuses(server.push("main"), words)


def test_directory_left_by_killed_hook_is_removed_a_day_later(server: Server) -> None:
    old, new = (server.directory / f"backupd-push.{name}" for name in ("old", "new"))
    for left in (old, new):
        (left / "tree").mkdir(parents=True)
    os.utime(old, (0, 0))
    server.commit(GOOD)
    assert server.push("main").code == 0
    assert list(server.directory.iterdir()) == [new]


def start_hanging_push(server: Server, pid_file: Path) -> tuple[subprocess.Popen[str], int]:
    """Start a push, and wait until its tests run; return both processes."""
    server.commit({"run": f"echo $$ >{pid_file}; sleep 600"})
    pushing = server.start_push("main")
    wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    return pushing, int(pid_file.read_text())


def hook_of(tests: int) -> int:
    """Return the process of the hook, above those in the session of its tests."""
    pid = tests
    while os.getsid(pid) == os.getsid(tests):
        pid = parent_of(pid)
    return pid


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_end_of_receive_pack_ends_tests(server: Server, tmp_path: Path) -> None:
    """Forgejo ends it when the pusher goes away."""
    pushing, tests = start_hanging_push(server, tmp_path / "pid")
    os.kill(parent_of(hook_of(tests)), signal.SIGKILL)
    wait_until(lambda: is_gone(tests) and not list(server.directory.iterdir()))
    pushing.communicate()
    assert server.refs() == {}


def test_hook_that_is_terminated_ends_tests_and_refuses(server: Server, tmp_path: Path) -> None:
    pushing, tests = start_hanging_push(server, tmp_path / "pid")
    os.kill(hook_of(tests), signal.SIGTERM)
    assert pushing.communicate(timeout=20)[1].count("pre-receive hook declined") == 1
    assert is_gone(tests)
    assert list(server.directory.iterdir()) == []


def test_tests_of_hook_that_is_killed_end_at_their_limit(server: Server, tmp_path: Path) -> None:
    server.set(limit="1")
    pushing, tests = start_hanging_push(server, tmp_path / "pid")
    os.killpg(pushing.pid, signal.SIGKILL)  # the hook and its watcher too
    pushing.communicate()
    wait_until(lambda: is_gone(tests))
    assert server.refs() == {}


def run_of(**changes: object) -> dict[str, object]:
    """What the door says of a run that has ended well."""
    source = {"source": "tasks", "generation": "tasks-20261130-1200", "error": None, "hint": None, "hold": None}
    source.update({name: changes.pop(name) for name in tuple(changes) if name in source})
    return {"id": "r1", "state": "ended", "succeeded": True, "sources": [source], **changes}


class Door:
    """backupd as far as the hook knows it."""

    def __init__(self) -> None:
        self.asked: CannedResponse = CannedResponse(202, b'{"id": "r1"}')
        self.runs: list[CannedResponse] = [self.answer(run_of())]

    @staticmethod
    def answer(facts: object) -> CannedResponse:
        return CannedResponse(200, json.dumps(facts, indent=1, ensure_ascii=False).encode())

    def __call__(self, request: ReceivedRequest) -> CannedResponse:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        if (request.method, request.target) == ("POST", "/api/backups"):
            return self.asked
        assert (request.method, request.target) == ("GET", "/api/runs/r1?wait=1")
        return self.runs.pop(0)


@pytest.fixture
def door(server: Server) -> Iterator[tuple[Door, RecordingServer]]:
    door = Door()
    token = server.bare.parent / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    with recording_server(door) as backupd:
        server.set(url=backupd.url("/"), tokenFile=str(token))
        yield door, backupd


def test_push_whose_tests_pass_waits_for_verified_backup(server: Server, door: tuple[Door, RecordingServer]) -> None:
    door[0].runs.insert(0, Door.answer({"id": "r1", "state": "running", "succeeded": None, "sources": []}))
    commit = server.commit(GOOD)
    server.accepts(
        server.push("main", "main:refs/tags/v1"), "waiting for the backup", "backup tasks-20261130-1200 made"
    )
    asked = door[1].requests[0]
    assert asked.json == {"label": f"deploy {commit[:12]}", "pin": "30d"}
    assert commit in asked.headers["Idempotency-Key"]
    assert [request.method for request in door[1].requests] == ["POST", "GET", "GET"]


@pytest.mark.parametrize("page", ["docs/deploy-guard.md", "docs/deploy-guard.es.md"])
def test_documented_commands_install_the_hook_with_tests_and_backup(
    server: Server, door: tuple[Door, RecordingServer], page: str
) -> None:
    (server.bare / "hooks" / "pre-receive").write_text(FORGEJO)
    (server.bare / "hooks" / "pre-receive.d").mkdir()
    token = server.bare.parent / "new-token"
    names = {
        "/data/git/repositories/me/tasks.git": str(server.bare),
        "npm ci && npm test": "sh ./run",
        "/data/git/backupd-token": str(token),
        "http://srv-captain--my-backup:8080": door[1].url(),
    }
    for name in ("test", "url", "tokenFile"):
        server.git("config", "--unset", f"backupd.{name}", cwd=server.bare)
    commands = "".join(block.commands for block in blocks_run_by(__file__, page))
    run_commands(renamed(commands, names), {**server.environ, "BACKUP_TOKEN": TOKEN}, HOOK.parent)
    server.commit(GOOD)
    server.accepts(server.push("main"), "tests passed", "backup tasks-20261130-1200 made")
    server.commit(BAD)
    server.refuses(server.push("main"))


def test_push_whose_tests_fail_asks_for_no_backup(server: Server, door: tuple[Door, RecordingServer]) -> None:
    server.commit(BAD)
    server.refuses(server.push("main"))
    assert door[1].requests == []


def test_guard_without_tests_asks_for_backup_alone(server: Server, door: tuple[Door, RecordingServer]) -> None:
    server.set(test="", pin="")
    commit = server.commit(BAD)
    server.accepts(server.push("main", "main:refs/tags/v1"), "verified backup")
    assert door[1].requests[0].json == {"label": f"deploy {commit[:12]}"}
    server.accepts(server.push("main:topic", ":refs/tags/v1"))
    assert len(door[1].requests) == 2


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            run_of(succeeded=False, generation=None, error='"app" is gone', hint="see {1: [2]}"),
            ('"app" is', "see {1: [2]}"),
        ),
        (run_of(hold="the database has shrunk from 9 MB to 1 MB"), ("pruning is held", "has shrunk from 9 MB to 1 MB")),
        (run_of(hold={"reason": "damaged"}), ("pruning is held",)),
        (run_of(succeeded=None), ("no verified backup before the deploy",)),
        (run_of(sources=[]), ("no verified backup before the deploy",)),
        ({"state": "ended", "note": '"succeeded": true'}, ("no verified backup before the deploy",)),
    ],
)
def test_push_without_verified_backup_is_refused(
    server: Server, door: tuple[Door, RecordingServer], run: object, words: tuple[str, ...]
) -> None:
    door[0].runs = [Door.answer(run)]
    server.commit(GOOD)
    server.refuses(server.push("main"), "backupd status", *words)
    assert server.refs() == {}


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (CannedResponse(401, b"{}"), "does not accept the token"),
        (CannedResponse(404, b"{}"), "http.actions"),
        (CannedResponse(429, b"{}"), "is busy (429)"),
        (CannedResponse(302, b"", {"Location": "http://192.0.2.1/"}), "answers 302"),
        (CannedResponse(202, b"<html>"), "answers <html>"),
        (CannedResponse(202, b'{"id": "../../x"}'), 'answers {"id"'),
        (HANG_UP, "answers 000: curl:"),
    ],
)
def test_door_that_does_not_start_a_backup_refuses_the_push(
    server: Server, door: tuple[Door, RecordingServer], response: CannedResponse, words: str
) -> None:
    door[0].asked = response
    server.commit(GOOD)
    pushed = server.push("main")
    server.refuses(pushed, "no backup", words)
    assert TOKEN not in pushed.err


def test_backup_that_does_not_end_refuses_the_push_at_its_limit(
    server: Server, door: tuple[Door, RecordingServer]
) -> None:
    door[0].runs = [Door.answer({"id": "r1", "state": "waiting", "succeeded": None, "sources": []})] * 100_000
    server.set(backupLimit="1")
    server.commit(GOOD)
    server.refuses(server.push("main"), "no backup within 1 s", "backupd.backupLimit")


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (f"{TOKEN}\n", 0o644, "other users may read"),
        ('x"\nurl = "file:///etc/passwd\n', 0o600, "is not a token"),
        ("", 0o600, "is not a token"),
    ],
)
@pytest.mark.usefixtures("door")
def test_token_file_that_is_unfit_refuses_the_push(server: Server, content: str, mode: int, words: str) -> None:
    token = server.bare.parent / "token"
    token.write_text(content)
    token.chmod(mode)
    server.commit(GOOD)
    server.refuses(server.push("main"), words)


def test_push_is_backed_up_by_real_daemon_and_refused_after_data_were_lost(
    server: Server, backupd: Backupd, database: Path
) -> None:
    token = server.bare.parent / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with running_daemon(backupd, BACKUPD_HTTP__ACTIONS="true", BACKUPD_HTTP__BACKUP_TOKEN=TOKEN) as daemon:
        daemon.wait_for("is due: ")
        server.set(url=f"http://127.0.0.1:{daemon.port}", tokenFile=str(token))
        commit = server.commit(GOOD)
        server.accepts(server.push("main"), "verified backup tasks-")
        (generation,) = backupd("list", "--json").json
        assert (generation["pinned"], generation["label"]) == (True, f"deploy {commit[:12]}")

        with closing(sqlite3.connect(database)) as app:
            app.execute("DELETE FROM account WHERE id > 10")
            app.commit()
        server.commit({**GOOD, "more": ""})
        server.refuses(server.push("main"), "pruning is held", "| source: tasks", "| hold: ")
    assert server.refs() == {"refs/heads/main": commit}
