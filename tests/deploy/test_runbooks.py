"""The runbook in both languages: the same commands in the same sections, and no alert is left unexplained.

tests/e2e/test_runbook.py and test_rollback.py run the commands.
"""

import re

import pytest

from support.documents import ROOT, command_blocks

pytestmark = pytest.mark.no_cover

PAGES = ("docs/runbook.md", "docs/runbook.es.md")


def without_comments(commands: str) -> str:
    return re.sub(r" +# .*$", "", commands, flags=re.MULTILINE)


def test_runbooks_have_same_commands_and_sections() -> None:
    english, spanish = (
        [(block.section[:2], without_comments(block.commands)) for block in command_blocks(page)] for page in PAGES
    )
    assert english == spanish
    assert {section for section, _ in english} == {"", "1.", "2.", "3.", "4.", "5.", "7.", "8.", "9.", "10", "11", "12"}


def test_each_alert_is_in_both_runbooks() -> None:
    alerts = re.findall(r"alert: (\w+)", (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    assert alerts
    for page in PAGES:
        text = (ROOT / page).read_text()
        assert {alert for alert in alerts if f"`{alert}`" not in text} == set()


def test_tight_start_is_the_same_on_each_page() -> None:
    """README and runbook start the container with the same options; tests/e2e tests both."""
    start = re.compile(r"^docker run -d[^#]*--env-file[^#]* backupd$", re.MULTILINE)
    found = [
        command
        for page in ("README.md", *PAGES)
        for block in command_blocks(page)
        for command in start.findall(block.commands)
    ]
    assert (len(found), len(set(found))) == (3, 1)
