"""docs/cli.md: the help of each command, as a terminal of 80 columns shows it."""

from click.testing import CliRunner

from backupd.cli import COMMANDS, cli

_HEAD = """# Commands

Written by `scripts/cli-reference` from `backupd COMMAND --help`. Each command but `completion` reads the configuration,
and each of these but `serve` takes `--json`.

`backupd completion bash >/etc/bash_completion.d/backupd` (likewise `zsh`, `fish`) lets the shell complete commands,
options, sources, stores, generations and times, where `backupd` is installed without a container.
"""
_GROUPS = {"config": ("show", "check"), "catalog": ("rebuild",)}


def reference() -> str:
    """Return the whole page."""
    runner = CliRunner()
    parts = [_HEAD]
    for name in COMMANDS:
        for words in [(name,), *((name, below) for below in _GROUPS.get(name, ()))]:
            shown = runner.invoke(cli, [*words, "--help"], prog_name="backupd", terminal_width=80)
            assert shown.exit_code == 0, shown.output
            parts.append(f"## {' '.join(words)}\n\n```text\n{shown.output.strip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(reference(), end="")
