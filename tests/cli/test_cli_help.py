"""The help of each command, with a valid example."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from backupd.cli import COMMANDS, Command, cli
from backupd.errors import EXIT_CODES
from support.command import Backupd

Walked = tuple[tuple[str, ...], click.Command]


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[Walked]:
    """Yield every command below `command` by its words, groups too."""
    yield path, command
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                yield from walk(below, (*path, name))


ALL = list(walk(cli))
LEAVES = [(path, command) for path, command in ALL if not isinstance(command, click.Group)]
CONFIGURED = [(path, command) for path, command in LEAVES if path != ("completion",)]


def words(path: tuple[str, ...]) -> str:
    return " ".join(path) or "backupd"


def options(command: click.Command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


def test_commands_have_documented_names() -> None:
    assert {
        *("backup", "list", "show", "verify", "prune", "restore", "doctor"),
        *("config show", "config check", "catalog rebuild"),
    } <= {words(path) for path, _ in LEAVES}


def test_command_summary_is_first_line_of_help_of_each_command() -> None:
    top = {path[0]: command for path, command in ALL if len(path) == 1}
    assert list(top) == list(COMMANDS)
    for name, command in top.items():
        summary, _, details = (command.help or "").partition("\n\n")
        assert summary == COMMANDS[name].summary
        assert details or isinstance(command, click.Group), f"{name} has no more to say than its summary"


EXITS = {
    **{key: {0, 1, 2, 3, 75, 78} for key in ("backup", "prune", "replicate", "drill", "restore", "trust")},
    **{
        key: {0, 1, 2, 75, 78}
        for key in ("list", "verify", "pin", "unpin", "remove", "clean", "gate", "catalog rebuild")
    },
    **{key: {0, 1, 2, 78} for key in ("serve", "show", "doctor", "status", "notify", "health")},
    **{key: {0, 1, 2, 78} for key in ("config show", "config check")},
    "log": {0, 1, 2, 78, 130},
    "completion": {0, 2},
}


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[words(path) for path, _ in LEAVES])
def test_help_of_each_command_lists_exit_codes_with_meaning(path: tuple[str, ...], command: click.Command) -> None:
    assert isinstance(command, Command)
    assert set(command.exits) == EXITS[words(path)]
    listed = CliRunner().invoke(cli, [*path, "--help"]).output.partition("Exit codes:\n")[2].partition("Example:")[0]
    shown = dict(re.findall(r"^  (\d+) +(\S.*)$", listed, re.MULTILINE))
    assert shown.keys() == {str(code) for code in command.exits}
    assert all(command.exits[int(code)].startswith(meaning) for code, meaning in shown.items())
    assert command.exits[2] == EXIT_CODES[2]
    assert command.exits.get(78, EXIT_CODES[78]) == EXIT_CODES[78]


@pytest.mark.parametrize(("path", "command"), CONFIGURED, ids=[words(path) for path, _ in CONFIGURED])
def test_command_with_invalid_configuration_exits_with_code_listed_in_help(
    path: tuple[str, ...], command: click.Command, tmp_path: Path
) -> None:
    config = tmp_path / "backupd.toml"
    config.write_text("nonsense = 1\n")
    required = ["ID"] * sum(isinstance(one, click.Argument) and one.required for one in command.params)
    answer = CliRunner().invoke(cli, [*path, *required, "--config", str(config)])
    assert answer.exit_code == 78
    assert "nonsense" in answer.stderr


@pytest.mark.parametrize(("path", "command"), ALL, ids=[words(path) for path, _ in ALL])
def test_help_ends_with_valid_example_of_command(path: tuple[str, ...], command: click.Command) -> None:
    for flag in ("--help", "-h") if not path else ("--help",):
        answer = CliRunner().invoke(cli, [*path, flag])
        assert answer.exit_code == 0
    assert command.get_short_help_str()
    example = re.sub(r"\s+", " ", answer.output.rpartition("Example: ")[2])
    typed = [word for word in shlex.split(example) if not word.startswith("BACKUPD_")]
    assert typed[: len(path) + 1] == ["backupd", *path]
    parsed: click.Command = cli
    arguments = typed[1:]
    while isinstance(parsed, click.Group):
        parsed = parsed.get_command(click.Context(parsed), arguments.pop(0)) or pytest.fail(f"no such command: {typed}")
    parsed.make_context(parsed.name, arguments)  # raises UsageError for what cannot be typed


@pytest.mark.parametrize(("path", "command"), CONFIGURED, ids=[words(path) for path, _ in CONFIGURED])
def test_every_command_has_config_and_json_options(path: tuple[str, ...], command: click.Command) -> None:
    wanted = {"--config"} if words(path) in {"serve", "health"} else {"--config", "--json"}
    assert wanted <= options(command)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("backup", "--source"),
        ("list", "--store"),
        ("verify", "--all --store"),
        ("prune", "--dry-run"),
        ("restore", "--at --from --to --dry-run"),
    ],
)
def test_commands_have_documented_options(path: str, names: str) -> None:
    command = {words(p): c for p, c in LEAVES}[path]
    assert set(names.split()) <= options(command)


def test_summary_lists_every_command_and_exit_code(backupd: Backupd) -> None:
    answer = backupd("--help")
    assert (answer.code, answer.err) == (0, "")
    for path, _ in ALL:
        if len(path) == 1:
            assert re.search(rf"^  {path[0]}  +\S", answer.out, re.MULTILINE), path
    assert all(f"{code} " in answer.out for code in EXIT_CODES)


@pytest.mark.parametrize("arguments", [["frobnicate"], ["backup", "--frobnicate"], ["show"], ["config", "frobnicate"]])
def test_unknown_command_or_option_is_usage_error(arguments: list[str]) -> None:
    answer = CliRunner().invoke(cli, arguments)
    assert answer.exit_code == 2
    assert "Usage: " in answer.stderr
    assert answer.stdout == ""
