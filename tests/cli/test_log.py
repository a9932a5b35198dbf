"""`backup.log`: one JSON object a line, without secrets, through all accidents, and never an obstacle to a backup."""

import json
import os
import select
import stat
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupd.log import Event, EventLog, null_log, open_log
from backupd.masking import MASK, Mask
from backupd.system.small_file import UnexpectedFile
from support.command import log_lines

EVENT = Event.GENERATION_PUBLISHED
ECS_CORE = {"@timestamp", "log.level", "message", "event.action", "service.name", "log.logger", "ecs.version"}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    log = open_log(tmp_path / "backup.log")
    yield log
    log.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- A line ---


def test_log_line_has_core_fields_of_ecs_and_own_fields_below_backupd(log: EventLog, tmp_path: Path) -> None:
    before = datetime.now(UTC)
    log.info(EVENT, "published x", generation="x", size=7, stages={"copy": 0.5}, nothing=None, **{"error.code": "E"})
    (line,) = log_lines(tmp_path)
    assert set(line) == {*ECS_CORE, "backupd.generation", "backupd.size", "backupd.stages", "error.code"}
    assert (line["message"], line["event.action"], line["log.level"]) == ("published x", "generation.published", "INFO")
    assert (line["service.name"], line["backupd.size"], line["backupd.stages"]) == ("backupd", 7, {"copy": 0.5})
    written = datetime.fromisoformat(line["@timestamp"])
    assert written.utcoffset() == timedelta(0)
    assert before <= written <= datetime.now(UTC)


def test_log_level_is_level_of_call(log: EventLog, tmp_path: Path) -> None:
    for tell in (log.info, log.warning, log.error):
        tell(EVENT, "so")
    assert [line["log.level"] for line in log_lines(tmp_path)] == ["INFO", "WARNING", "ERROR"]


@given(st.text(), st.text())
def test_line_breaks_and_percent_signs_in_text_are_escaped(message: str, field: str) -> None:
    path = Path("/dev/shm") / f"backupd-test-{os.getpid()}.log"
    path.unlink(missing_ok=True)
    log = open_log(path)
    log.info(EVENT, message, field=field)
    log.close()
    raw = path.read_bytes()
    path.unlink()
    assert raw.isascii()
    assert (raw.count(b"\n"), raw[-1:]) == (1, b"\n")
    line = json.loads(raw)
    assert (line["message"], line["backupd.field"]) == (message, field)


@pytest.mark.parametrize("value", [Path("/x"), {"a"}, b"bytes", datetime(2026, 1, 1, tzinfo=UTC), {1: {2: 3}}])
def test_value_unknown_to_json_is_logged_as_text(log: EventLog, tmp_path: Path, value: object) -> None:
    log.info(EVENT, "odd", value=value)
    assert log_lines(tmp_path)[0]["backupd.value"]


# --- Secrets ---

SECRET = 'hunter2 "quoted"\nand a second line'


@pytest.mark.parametrize(
    "fields",
    [
        {"text": f"token={SECRET}!"},
        {"deep": {"list": [{"tuple": ("x", f"<{SECRET}>")}]}},
        {"a_set": {SECRET}},
        {"a_key": {SECRET: 1}},
        {"an_error": OSError(13, f"no access with {SECRET}")},
        {"a_path": Path("/run/secrets") / SECRET.replace("\n", " ")},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_secret_is_masked_in_every_field(tmp_path: Path, fields: dict[str, Any]) -> None:
    log = open_log(tmp_path / "backup.log", Mask([SECRET]))
    log.error(EVENT, f"sent {SECRET} away", **fields)
    log.close()
    text = (tmp_path / "backup.log").read_text()
    assert "hunter2" not in text
    assert text.count(MASK) == 2


def test_secret_that_contains_another_is_masked_whole(tmp_path: Path) -> None:
    log = open_log(tmp_path / "backup.log", Mask(["", "key", "key-and-more"]))
    log.info(EVENT, "the key-and-more, the key, the end")
    log.close()
    assert log_lines(tmp_path)[0]["message"] == f"the {MASK}, the {MASK}, the end"


# --- The file ---


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_new_log_is_readable_by_group_only(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        open_log(tmp_path / "backup.log").close()
    finally:
        os.umask(before)
    assert mode(tmp_path / "backup.log") == 0o640


def test_existing_log_is_appended_to_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "backup.log"
    path.write_text("")
    path.chmod(0o604)  # as logrotate's `create 0604` would make it
    for number in range(2):
        log = open_log(path)
        log.info(EVENT, f"line {number}")
        log.close()
    assert mode(path) == 0o604
    assert [line["message"] for line in log_lines(tmp_path)] == ["line 0", "line 1"]


def test_line_after_incomplete_line_starts_new_line(tmp_path: Path) -> None:
    path = tmp_path / "backup.log"
    path.write_text('{"message": "whole"}\n{"message": "cut o')
    for number in range(2):
        log = open_log(path)
        log.info(EVENT, f"line {number}")
        log.close()
    whole, cut, *after = path.read_text().splitlines()
    assert (whole, cut) == ('{"message": "whole"}', '{"message": "cut o')
    assert [json.loads(line)["message"] for line in after] == ["line 0", "line 1"]


@pytest.mark.root
def test_log_created_by_root_belongs_to_owner_of_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 4321, 8765)
    log = open_log(tmp_path / "backup.log")
    (tmp_path / "backup.log").rename(tmp_path / "backup.log.1")
    log.info(EVENT, "after the rotation")
    log.close()
    for name in ("backup.log", "backup.log.1"):
        state = (tmp_path / name).stat()
        assert (state.st_uid, state.st_gid) == (4321, 8765)


def test_line_after_rotation_goes_to_new_file(log: EventLog, tmp_path: Path) -> None:
    log.info(EVENT, "before")
    (tmp_path / "backup.log").rename(tmp_path / "backup.log.1")
    log.info(EVENT, "after")
    log.info(EVENT, "later")
    assert [line["message"] for line in log_lines(tmp_path)] == ["after", "later"]
    assert json.loads((tmp_path / "backup.log.1").read_text())["message"] == "before"
    assert mode(tmp_path / "backup.log") == 0o640


def test_file_created_by_logrotate_is_used_unchanged(log: EventLog, tmp_path: Path) -> None:
    log.info(EVENT, "before")
    (tmp_path / "backup.log").rename(tmp_path / "backup.log.1")
    (tmp_path / "backup.log").touch()
    (tmp_path / "backup.log").chmod(0o600)
    log.info(EVENT, "after")
    assert [line["message"] for line in log_lines(tmp_path)] == ["after"]
    assert mode(tmp_path / "backup.log") == 0o600


def test_copytruncate_leaves_no_hole(log: EventLog, tmp_path: Path) -> None:
    log.info(EVENT, "before")
    os.truncate(tmp_path / "backup.log", 0)
    log.info(EVENT, "after")
    assert [line["message"] for line in log_lines(tmp_path)] == ["after"]


def read_line(process: "subprocess.Popen[bytes]", timeout_s: float = 20) -> str:
    assert process.stdout is not None
    give_up = time.monotonic() + timeout_s
    raw = b""
    while not raw.endswith(b"\n"):
        assert select.select([process.stdout], [], [], give_up - time.monotonic())[0], "tail saw no line"
        raw += os.read(process.stdout.fileno(), 1)
    message: str = json.loads(raw)["message"]
    return message


def test_tail_follows_log_through_rotation(log: EventLog, tmp_path: Path) -> None:
    path = tmp_path / "backup.log"
    command = ["tail", "-n", "+1", "-F", "-s", "0.05", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tail:
        try:
            for number in range(3):
                log.info(EVENT, f"line {number}")
                assert read_line(tail) == f"line {number}"
                path.rename(path.with_name(f"backup.log.{number}"))
        finally:
            tail.kill()


# --- A log that cannot be written ---


def test_full_disk_loses_log_lines_only(tmp_path: Path) -> None:
    log = open_log(tmp_path / "backup.log")
    full = os.open("/dev/full", os.O_WRONLY)
    (handler,) = log._logger.handlers
    os.dup2(full, handler.stream.fileno())  # type: ignore[attr-defined] - it is our handler of files
    os.close(full)
    for number in range(3):
        log.info(EVENT, f"line {number}")
    log.close()


def test_log_that_cannot_be_recreated_loses_lines_until_it_can(log: EventLog, tmp_path: Path) -> None:
    path = tmp_path / "backup.log"
    path.unlink()
    path.mkdir()
    log.info(EVENT, "lost")
    log.info(EVENT, "lost")
    path.rmdir()
    log.info(EVENT, "written")
    assert [line["message"] for line in log_lines(tmp_path)] == ["written"]


def test_removed_directory_of_log_loses_lines_only(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    log = open_log(tmp_path / "gone" / "backup.log")
    (tmp_path / "gone" / "backup.log").unlink()
    (tmp_path / "gone").rmdir()
    log.info(EVENT, "lost")
    log.close()
    assert not (tmp_path / "gone").exists()


def test_closed_log_writes_nothing_and_creates_no_file(tmp_path: Path) -> None:
    log = open_log(tmp_path / "backup.log")
    log.close()
    (tmp_path / "backup.log").unlink()
    log.error(EVENT, "too late")
    assert not (tmp_path / "backup.log").exists()


def test_log_that_cannot_be_opened_raises_error(tmp_path: Path) -> None:
    (tmp_path / "backup.log").mkdir()
    with pytest.raises(UnexpectedFile, match="a directory, not a regular file"):
        open_log(tmp_path / "backup.log")


def test_null_log_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    null_log().error(EVENT, "unheard")
    assert capfd.readouterr() == ("", "")


def test_closed_console_loses_lines_without_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    console = os.fdopen(writer, "w", buffering=1)
    log = open_log(tmp_path / "backup.log", console=console)
    log.info(Event.RUN_STARTED, "started")
    assert capfd.readouterr().err == ""
    assert [line["message"] for line in log_lines(tmp_path)] == ["started"]
    log.close()
    with pytest.raises(BrokenPipeError):
        console.close()
