"""Every block of commands in the documentation is run by a test that is named above it, or says why it is not."""

import re
from pathlib import Path

import pytest

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
