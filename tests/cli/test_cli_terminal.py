"""Tables, colours and progress on a real terminal; plain lines in a pipe."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from keyboard import Keyboard, on_terminal

from backupd.model import MANIFEST_SUFFIX
from support.command import Backupd
from support.generations import backdated

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def plain(text: str) -> str:
    return CONTROL.sub("", text)


def test_backup_shows_progress_bars_and_clears_them(backupd: Backupd) -> None:
    code, said = on_terminal(backupd, "backup")
    assert code == 0
    bars, _, rest = plain(said).partition("tasks: published ")
    for stage in ("copy", "check and pack"):
        assert re.search(rf"{stage} +[━╸╺ ]+ .*bytes|{stage} +[━╸╺ ]+ .*[KM]iB", bars), stage
    assert "━" not in rest
    assert "\x1b[2K" in said, "the bars were not taken away"
    assert re.match(r"tasks-\d{8}-\d{4}, verified full\n", rest)


def test_json_on_terminal_is_plain_json(backupd: Backupd) -> None:
    code, said = on_terminal(backupd, "backup", "--json")
    assert code == 0
    assert said.lstrip().startswith("{")
    assert "\x1b" not in said


def test_list_on_terminal_is_table_with_bold_heading(backupd: Backupd, typed: Keyboard, generation: str) -> None:
    code, said = on_terminal(backupd, "list")
    assert code == 0
    assert re.search(r"\x1b\[1m *generation", said)
    (row,) = [line for line in plain(said).splitlines() if generation in line]
    assert "KiB" in row
    assert "last-verified" in row
    assert "\x1b" not in typed("list").out


def test_narrow_terminal_truncates_nothing(backupd: Backupd, generation: str) -> None:
    code, said = on_terminal(backupd, "list", columns=60)
    assert code == 0
    assert max(len(line) for line in plain(said).splitlines()) <= 60
    assert generation in plain(said), "an id that is cut in two cannot be copied"
    letters = re.sub(r"\s", "", plain(said))
    assert "last-verified" in letters


def test_list_fits_eighty_columns_without_broken_words(backupd: Backupd, generation: str, tmp_path: Path) -> None:
    replicated = replace(backupd, environ={**backupd.environ, "BACKUPD_REPLICAS__OFFSITE__URL": str(tmp_path / "nas")})
    assert replicated("replicate").code == 0
    code, said = on_terminal(replicated, "list", columns=80)
    heading, below, row, *reasons = plain(said).splitlines()
    assert (code, max(len(line) for line in plain(said).splitlines()) <= 80) == (0, True)
    assert heading.split() == ["generation", "taken", "age", "size", "verified"]
    assert below == "  kept for; stores"
    assert re.fullmatch(rf"{generation}  \d{{4}}-\d\d-\d\d \d\d:\d\d UTC +[\d.]+ s +[\d.]+ KiB  full", row)
    assert {"last-verified;", "local,", "offsite"} <= {*" ".join(reasons).split()}


def test_errors_are_red_on_terminal_and_plain_in_pipe(backupd: Backupd, typed: Keyboard) -> None:
    code, said = on_terminal(backupd, "show", "tasks-20200101-0400")
    assert code == 1
    assert "\x1b[31m\x1b[1merror" in said
    assert typed("show", "tasks-20200101-0400").err.startswith("error: no generation")


@pytest.mark.parametrize(("typing", "code"), [("yes\n", 3), ("no\n", 1), ("\n", 1)])
def test_terminal_user_is_asked_before_restore_of_older_generation(
    backupd: Backupd, backups: Path, generation: str, target: Path, typing: str, code: int
) -> None:
    older = backdated(backups, generation, days=1)
    (backups / f"{generation}{MANIFEST_SUFFIX}").write_bytes(b"{}")
    ended, said = on_terminal(backupd, "restore", "latest", "--to", str(target), typing=typing)
    assert (ended, target.exists()) == (code, code == 3), said
    question = plain(said).partition("Use the older generation?")[0]
    assert generation in question
    assert older in question
