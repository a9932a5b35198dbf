"""docs/deploy-guard.md in both languages: the same commands, and every setting of the gate and of the hook."""

import re

import pytest

from backupd.config import GateSection
from support.documents import ROOT, command_blocks

pytestmark = pytest.mark.no_cover

PAGES = ("docs/deploy-guard.md", "docs/deploy-guard.es.md")
HOOK = (ROOT / "deploy" / "forgejo" / "pre-receive").read_text()


def code_blocks(page: str) -> list[str]:
    """Return all blocks of code but the drawing, whose words differ."""
    return re.findall(r"^ *```\w+\n(.*?)^ *```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def test_both_languages_have_same_commands_files_and_tables() -> None:
    assert code_blocks(PAGES[0]) == code_blocks(PAGES[1])
    assert [block.test for block in command_blocks(PAGES[0])] == [block.test for block in command_blocks(PAGES[1])]
    english, spanish = ([line.count("|") for line in (ROOT / page).read_text().splitlines()] for page in PAGES)
    assert [count for count in english if count] == [count for count in spanish if count]


@pytest.mark.parametrize("page", PAGES)
def test_page_names_each_key_of_gate(page: str) -> None:
    text = (ROOT / page).read_text()
    assert [key for key in GateSection.model_fields if f"`{key}`" not in text] == []


@pytest.mark.parametrize("page", PAGES)
def test_page_names_each_setting_of_hook_with_its_default(page: str) -> None:
    (names,) = re.findall(r"^settings='(.*)'$", HOOK, re.MULTILINE)
    documented = {}
    for line in re.findall(r"^\| (`backupd\..*)$", (ROOT / page).read_text(), re.MULTILINE):
        setting, default, _ = (cell.strip() for cell in line.strip("|").split("|"))
        found = re.findall(r"`backupd\.(\w+)`", setting)
        documented.update(zip(found, default.replace("`", "").split(", ") * len(found), strict=False))
    assert sorted(documented) == sorted(names.split())
    for name, default in documented.items():
        (own,) = re.findall(rf"^{name}=('.*?'|\S*)(?: +#.*)?$", HOOK, re.MULTILINE)
        assert own.startswith("$") or own.strip("'") == default, name
