"""`backupd backup --remote`: from a job without any configuration, at a real daemon."""

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.command import Backupd
from support.daemon import Daemon, free_port, running_daemon

TOKEN = "token-to-request-backups"


@pytest.fixture
def daemon(backupd: Backupd) -> Iterator[Daemon]:
    environ = {"BACKUPD_HTTP__ACTIONS": "true", "BACKUPD_HTTP__BACKUP_TOKEN": TOKEN}
    with running_daemon(backupd, **environ) as daemon:
        daemon.wait_for("is due: ")
        yield daemon


@pytest.fixture
def job(tmp_path: Path) -> Backupd:
    """The command in a directory of its own, with the token alone in its environment."""
    (tmp_path / "job").mkdir()
    return Backupd({"BACKUPD_REMOTE_TOKEN": TOKEN}, tmp_path / "job")


def test_remote_backup_is_pinned_printed_and_given_as_json(
    daemon: Daemon, job: Backupd, backupd: Backupd, database: Path
) -> None:
    url = f"http://127.0.0.1:{daemon.port}"
    answer = job("backup", "--remote", url, "--source", "tasks", "--label", "deploy 7", "--pin")
    assert (answer.code, answer.err) == (0, "")
    assert re.match(r"tasks: (published|unchanged) tasks-[\d-]+, verified full\n", answer.out)
    (listed,) = json.loads(backupd("list", "--json").out)
    assert (listed["pinned"], listed["pinned_until"], listed["label"]) == (True, None, "deploy 7")
    with sqlite3.connect(database) as app:
        app.execute("DELETE FROM account WHERE id > 10")
    answer = job("backup", "--remote", url, "--json")
    facts = json.loads(answer.out)
    assert (answer.code, facts["outcome"], "shrank" in facts["hold"]) == (1, "degraded", True)
    answer = job("backup", "--remote", url)
    assert answer.code == 1
    assert "pruning of tasks is on hold: tasks shrank" in answer.err
    answer = job("backup", "--remote", url, "--source", "notes")
    assert (answer.code, "unknown source" in answer.err, "this backupd has: tasks" in answer.err) == (1, True, True)


def test_failed_remote_backup_exits_with_its_error(daemon: Daemon, job: Backupd, database: Path) -> None:
    database.unlink()
    answer = job("backup", "--remote", f"http://127.0.0.1:{daemon.port}")
    assert (answer.code, answer.out) == (1, "")
    assert "backup of tasks: " in answer.err
    assert "what to do" in answer.err


def test_token_comes_from_file_and_wrong_one_is_not_shown(daemon: Daemon, job: Backupd, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{daemon.port}"
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    answer = job("backup", "--remote", url, BACKUPD_REMOTE_TOKEN="", BACKUPD_REMOTE_TOKEN_FILE=str(file))
    assert answer.code == 0, answer.err
    answer = job("backup", "--remote", url, BACKUPD_REMOTE_TOKEN="another-token-of-16")
    assert (answer.code, "refuses the token" in answer.err) == (1, True)
    assert "another-token" not in answer.out + answer.err


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "words"),
    [
        (("--remote", "ftp://x"), {}, 2, "not the address of a daemon"),
        (("--remote", "http://user:password@x"), {}, 2, "without a password"),
        (("--remote", "http://x/?token=y"), {}, 2, "not the address of a daemon"),
        (("--remote", "http://[::1"), {}, 2, "not the address of a daemon"),
        (("--remote", "http://x"), {"BACKUPD_REMOTE_TOKEN": ""}, 2, "--remote needs BACKUPD_REMOTE_TOKEN"),
        (("--remote", "http://x"), {"BACKUPD_REMOTE_TOKEN_FILE": "/missing"}, 78, "cannot read /missing"),
        (("--remote", "http://x", "--config", "x.toml"), {}, 2, "works without a configuration"),
        (("--remote", "http://x", "--no-pin", "--label", "v2"), {}, 2, "a label is part of a pin"),
        (("--remote", "http://x", "--label", "two\nlines"), {}, 2, "cannot be shown"),
        (("--timeout", "5"), {"BACKUPD_DATABASE": "/app.db"}, 2, "--timeout is for --remote"),
    ],
)
def test_unusable_remote_is_refused_before_a_request(
    job: Backupd, arguments: tuple[str, ...], environ: dict[str, str], code: int, words: str
) -> None:
    answer = job("backup", *arguments, **environ)
    assert (answer.code, words in answer.err) == (code, True), answer.err
    assert "password@" not in answer.err


def test_remote_that_does_not_answer_is_temporary_failure(job: Backupd) -> None:
    answer = job("backup", "--remote", f"http://127.0.0.1:{free_port()}", "--timeout", "1", "--json")
    assert (answer.code, "does not answer" in json.loads(answer.out)["error"]) == (75, True)


def test_variables_of_remote_disturb_no_other_command(backupd: Backupd) -> None:
    assert backupd("list", BACKUPD_REMOTE_TOKEN=TOKEN, BACKUPD_REMOTE_TOKEN_FILE="/missing").code == 0
