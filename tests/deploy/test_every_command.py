"""Every block of commands in the documentation is run by a test that is named above it, or says why it is not."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from backupd.cli import cli
from support.documents import ROOT, CommandBlock, command_blocks

pytestmark = pytest.mark.no_cover

PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"))
)
BLOCKS = [block for page in PAGES for block in command_blocks(page)]


def test_pages_with_commands_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/runbook.md", "docs/runbook.es.md"} < {one.page for one in BLOCKS}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_of_commands_names_test_that_runs_it_or_reason(block: CommandBlock) -> None:
    if block.reason:
        assert [name for name in re.findall(r"tests/\S+\.py", block.reason) if not (ROOT / name).is_file()] == []
        return
    assert block.test, f"{block}: write <!-- run by TEST --> or <!-- not run: REASON --> above it"
    text = (ROOT / block.test).read_text()
    assert Path(block.page).name in text, f"{block.test} does not read {block.page}"
    assert re.search(r"\bblocks(_run_by)?\(", text), f"{block.test} runs no block"


@pytest.mark.parametrize("block", [one for one in BLOCKS if "docker run -d" in one.commands], ids=str)
def test_start_in_block_survives_reboot_and_shows_password_of_page_on_loopback(block: CommandBlock) -> None:
    for option in ("--restart unless-stopped", "-p 127.0.0.1:8080:8080", "/backups"):
        assert option in block.commands
    section = "".join(one.commands for one in command_blocks(block.page) if one.section == block.section)
    assert "BACKUPD_HTTP__TOKEN" in section
    assert re.search(r"printenv BACKUPD_HTTP__TOKEN|grep TOKEN backupd.env", section)


def commands_in_sentences(page: str) -> Iterator[str]:
    """Yield each `backupd …` of a page that stands within a sentence or a table."""
    text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    yield from (found for found in re.findall(r"`(backupd [^`]+)`", text) if "…" not in found and "=" not in found)


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands_in_sentences(page))])
def test_command_in_sentence_exists_with_its_options(page: str) -> None:
    for line in commands_in_sentences(page):
        command: click.Command | None = cli
        words = [word for word in line.split()[1:] if word.strip("-").islower() or word.startswith("--")]
        while words and not words[0].startswith("-") and isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, f"{page}: {line}"
        known = {name for option in command.params for name in option.opts + option.secondary_opts} | {
            "--help",
            "--version",
        }
        unknown = {word for word in words if word.startswith("--")} - known
        assert unknown == set(), f"{page}: {line}"
