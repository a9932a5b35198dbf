"""`backupd log`: lines of backup.log selected by time and level, followed, and safe for a terminal."""

import json
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keyboard import Keyboard, into_closed_pipe, on_terminal

from backupd.log import Event, EventLog, open_log
from backupd.log_reader import MAX_LINE_BYTES, LogLine
from support.command import Backupd

NOW = datetime.now(UTC)
EVIL = b'{"message": "cut o\n\x1b]0;evil\x07\x1b[2J\n[[[[\n\xff\xfe\x00\n' + b"[" * 100_000 + b"\n12\n"


def line(message: str, level: str = "INFO", *, ago: timedelta = timedelta(), **facts: object) -> bytes:
    known = {"message": message, "log.level": level, "@timestamp": (NOW - ago).isoformat()}
    return json.dumps({**known, **facts}).encode() + b"\n"


LINES = (
    line("old", ago=timedelta(days=3)),
    line("bad", "ERROR", ago=timedelta(days=2), **{"backupd.hint": "mend it"}),
    line("doubtful", "WARNING", ago=timedelta(hours=3)),
    line("good"),
)


@pytest.fixture
def path(backups: Path) -> Path:
    backups.mkdir()
    path = backups / "backup.log"
    path.write_bytes(b"".join(LINES))
    return path


def messages(out: str) -> list[str]:
    return [text[32:].partition(" | ")[0] for text in out.splitlines()]


def test_log_line_shows_time_level_message_and_hint(typed: Keyboard, path: Path) -> None:
    answer = typed("log")
    assert (answer.code, answer.err) == (0, "")
    assert messages(answer.out) == ["old", "bad", "doubtful", "good"]
    time = f"{NOW - timedelta(days=2):%F %T} UTC"
    assert answer.out.splitlines()[1] == f"{time} ERROR   bad | what to do: mend it"
    assert path.exists()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--level warning", ["bad", "doubtful"]),
        ("--level ERROR", ["bad"]),
        ("--since 4h", ["doubtful", "good"]),
        ("--since 2d", ["doubtful", "good"]),
        ("--since 1w --level error", ["bad"]),
        ("--since {day_before_yesterday}", ["bad", "doubtful", "good"]),
        ("--since {two_hours_ago}", ["good"]),
        ("-n 1", ["good"]),
        ("--lines 0", []),
        ("-n 1 --level error", ["bad"]),
    ],
)
def test_log_lines_are_selected_by_time_level_and_number(typed: Keyboard, arguments: str, expected: list[str]) -> None:
    then = {
        "day_before_yesterday": f"{NOW - timedelta(days=2):%F}",
        "two_hours_ago": f"{NOW - timedelta(hours=2):%FT%TZ}",
    }
    answer = typed("log", *arguments.format(**then).split())
    assert (answer.code, messages(answer.out), answer.err) == (0, expected, "")


@pytest.mark.usefixtures("path")
def test_time_without_zone_is_in_zone_of_schedule(typed: Keyboard) -> None:
    there = timedelta(hours=-11)  # Pago Pago has no summer time
    since = f"{NOW - timedelta(hours=4) + there:%F %T}"
    answer = typed("log", "--since", since, BACKUPD_SCHEDULE__TIMEZONE="Pacific/Pago_Pago")
    assert [line.split(maxsplit=4)[-1] for line in answer.out.splitlines()] == ["doubtful", "good"]
    assert answer.out.splitlines()[-1].startswith(f"{NOW + there:%F %T} SST ")


@pytest.mark.parametrize("since", ["yesterday", "2 fortnights", "-3h", "9999999h", "999999w", "2026-13-01", ""])
def test_invalid_time_is_usage_error_with_example(typed: Keyboard, path: Path, since: str) -> None:
    answer = typed("log", f"--since={since}")
    assert answer.code == 2
    assert '"3d"' in answer.err
    assert path.exists()


def test_compressed_older_logs_are_named(typed: Keyboard, path: Path) -> None:
    path.with_name("backup.log.2.gz").touch()
    path.with_name("backup.log-20261101").touch()
    assert typed("log", "--since", "2d").err == ""
    assert typed("log", "--since", "9d").err == "older lines are in backup.log-20261101, backup.log.2.gz\n"


def test_lines_of_numbered_older_logs_come_first(typed: Keyboard, path: Path) -> None:
    path.with_name("backup.log.10").write_bytes(line("oldest"))
    path.with_name("backup.log.2").write_bytes(line("older"))
    path.write_bytes(line("newest"))
    shown = typed("log").out.splitlines()
    assert [text.split()[-1] for text in shown] == ["oldest", "older", "newest"]
    assert len(typed("log", "-n", "1").out.splitlines()) == 1


def test_json_output_is_log_lines_unchanged(typed: Keyboard, path: Path) -> None:
    path.write_bytes(b"".join(LINES) + EVIL + line("last"))
    answer = typed("log", "--json", "--level", "warning")
    assert answer.out.encode() == LINES[1] + LINES[2]
    assert typed("log", "--json").out.encode() == b"".join(LINES) + line("last")


def test_missing_log_fails_with_hint(typed: Keyboard, backups: Path) -> None:
    answer = typed("log")
    assert answer.code == 1
    assert answer.err.startswith(f"error: there is no {backups / 'backup.log'}")
    assert "the first run creates it" in answer.err


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/passwd"), lambda path: path.mkdir()])
def test_special_file_in_place_of_log_is_not_read(typed: Keyboard, path: Path, make: Callable[[Path], None]) -> None:
    path.unlink()
    make(path)
    answer = typed("log")
    assert (answer.code, answer.out) == (1, "")
    assert str(path) in answer.err


# --- Lines that others wrote ---


@pytest.mark.cover_processes
def test_terminal_output_has_colours_and_no_control_characters_of_log(
    backupd: Backupd, typed: Keyboard, path: Path
) -> None:
    path.write_bytes(
        b"".join(LINES) + EVIL + line("\x1b[2J\u009b", "\x1b[m") + b"x" * (3 * MAX_LINE_BYTES) + b"\nno end"
    )
    code, said = on_terminal(backupd, "log")
    assert code == 0
    assert re.sub(r"\x1b\[(0|3[13])m", "", said).replace("\r\n", "").isprintable()
    assert [text[:5] for text in said.splitlines()[1:3]] == ["\x1b[31m", "\x1b[33m"]
    assert "\x1b" not in typed("log").out
    assert said.count("????-??-?? ??:??:?? ??? ?") == 8
    assert f"({MAX_LINE_BYTES} characters)" in said
    assert said.endswith("no end\r\n")
    assert len(said) < 20_000


@settings(max_examples=50)
@given(st.one_of(st.binary(), st.text().map(lambda text: json.dumps({"message": text, "log.level": text}).encode())))
def test_any_log_line_becomes_one_printable_line(raw: bytes) -> None:
    read = LogLine.parse(raw)
    assert read.as_text().isprintable()
    if read.facts is not None:
        assert json.loads(read.as_json()) == read.facts
        assert read.as_json().isprintable()


@pytest.mark.parametrize(
    "facts",
    [
        {"message": ["a", {"b": 1}], "@timestamp": 5, "log.level": None, "backupd.hint": 7},
        {"message": None, "@timestamp": "0001-01-01T00:00:00+23:59", "log.level": "LOUD"},
        {},
    ],
)
def test_fields_with_wrong_types_are_shown(facts: dict[str, Any]) -> None:
    read = LogLine.parse(json.dumps(facts).encode())
    assert read.at is None
    assert read.is_at_least("warning")
    assert read.as_text().startswith("????-??-?? ??:??:?? ??? ")


@pytest.mark.cover_processes
def test_characters_outside_locale_are_escaped(backupd: Backupd, path: Path) -> None:
    path.write_bytes(line("\N{SNOWMAN}"))
    command = [sys.executable, "-m", "backupd", "log"]
    environ = backupd.environment(PYTHONIOENCODING="latin-1")
    assert subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True).stdout.endswith(b"\\u2603\n")


# --- Pipes ---


@pytest.mark.cover_processes
@pytest.mark.usefixtures("path")
def test_closed_output_pipe_exits_141_without_message(backupd: Backupd) -> None:
    assert into_closed_pipe(backupd, "log") == (141, "")


# --- Reading along ---


class Following:
    """A running `backupd log --follow`; each line that it prints is awaited."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def next(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 60)[0], "no line came"
        return messages(self.process.stdout.readline().decode())[0]


@contextmanager
def following(backupd: Backupd, *arguments: str) -> Iterator[Following]:
    process = subprocess.Popen(
        [sys.executable, "-m", "backupd", "log", "--follow", *arguments],
        env=backupd.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    with process:
        try:
            yield Following(process)
        finally:
            process.kill()


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    log = open_log(path)
    yield log
    log.close()


@pytest.mark.cover_processes
def test_follow_continues_across_rotation_by_logrotate(backupd: Backupd, path: Path, log: EventLog) -> None:
    def say(message: str) -> None:
        log.info(Event.RUN_STARTED, message)

    path.write_bytes(b"".join(LINES) * 4)
    with following(backupd) as reader:
        assert [reader.next() for _ in range(10)] == ["doubtful", "good", *["old", "bad", "doubtful", "good"] * 2]
        say("one")
        assert reader.next() == "one"
        path.rename(path.with_name("backup.log.1"))  # logrotate's create
        say("two")
        assert reader.next() == "two"
        shutil.copy(path, path.with_name("copy"))  # its copytruncate
        with path.open("r+b") as stream:
            stream.truncate()
        say("3")
        assert reader.next() == "3"
        for part in (line("whole")[:30], line("whole")[30:]):
            with path.open("ab") as appended:
                appended.write(part)
        assert reader.next() == "whole"
        reader.process.send_signal(2)
        assert reader.process.wait(60) == 130
        assert reader.process.stderr is not None
        assert reader.process.stderr.read() == b""


@pytest.mark.cover_processes
def test_follow_waits_for_missing_log_and_ends_with_closed_pipe(backupd: Backupd, path: Path) -> None:
    path.unlink()
    with following(backupd, "--level", "error") as reader:
        path.write_bytes(b"".join(LINES))
        assert reader.next() == "bad"
        assert reader.process.stdout is not None
        reader.process.stdout.close()  # no further line has to come
        assert reader.process.wait(60) == 0
