"""Hints in Spanish: each one that a run may leave, as the source has it."""

import re
from dataclasses import replace
from string import Formatter

import pytest

from backupd.health import Health
from backupd.web.hint_translations import HINTS
from backupd.web.hints import translate_hint
from backupd.web.page import page_response
from support.hint_templates import hint_templates
from support.page_states import failing

VALUE = "/x/y"
CLAUSE = "check the path"


def filled(template: str) -> str:
    """Fill in values; where a template continues or contains another hint, that one."""
    text = re.sub(r"^\{\}(?=[:;])|^(?=, )|(?<=: )\{\}$", CLAUSE, template)
    text = re.sub(r"(?<=\S)\{\}$", "", text)
    return text.replace("{}", VALUE)


def test_each_hint_of_run_has_spanish() -> None:
    templates = hint_templates()
    assert len(templates) > 150, "they are found"
    assert {place: text for text, place in templates.items() if not translate_hint(filled(text), "es")} == {}


def test_no_english_is_left_in_spanish() -> None:
    english = re.compile(r"(?<!--)\b(the|and|or|that|this|with|is|of|if|from|there|check)\b")
    said = {text: english.findall(translate_hint(text, "es")) for text in map(filled, hint_templates())}
    assert {text: words for text, words in said.items() if words} == {}


def test_values_are_kept_in_spanish() -> None:
    for text in map(filled, hint_templates()):
        assert translate_hint(text, "es").count(VALUE) == text.count(VALUE), text


def test_each_entry_is_part_of_hint() -> None:
    said = "\n".join(map(filled, hint_templates()))
    assert [key for key in HINTS if key.replace("{}", VALUE) not in said] == []


@pytest.mark.parametrize("key", HINTS)
def test_entry_has_same_values_and_commands_in_spanish(key: str) -> None:
    english, spanish = ([name for _, name, _, _ in Formatter().parse(text)] for text in (key, HINTS[key]))
    assert english == spanish
    assert re.findall("`[^`]*`", key) == re.findall("`[^`]*`", HINTS[key])


def test_hint_is_translated_clause_by_clause_with_its_values() -> None:
    hint = "free space on the file system of /a, b; c, or move backups_dir; backupd doctor tries them"
    assert translate_hint(hint, "en") == hint
    assert translate_hint(hint, "es") == "", "a clause that is not known"
    hint = "free space on the file system of /data/{x}, or move backups_dir; backupd doctor tries them"
    spanish = "libere espacio en el sistema de archivos de /data/{x}, o mueva backups_dir; backupd doctor los prueba"
    assert translate_hint(hint, "es") == spanish


@pytest.mark.parametrize("text", ["", "ask the oracle", "check the path; ", "a: b; " * 1000, "check the path; " * 1000])
def test_unknown_hint_has_no_translation(text: str) -> None:
    assert translate_hint(text, "es") == ""


def test_spanish_page_has_hint_in_spanish_and_quotes_unknown_one() -> None:
    history = failing()
    problem = history.status.health.problems[0]

    def page(hint: str) -> str:
        health = Health(history.status.health.checked_at, (), (replace(problem, hint=hint),))
        return page_response(replace(history, status=replace(history.status, health=health)), "es").body.decode()

    assert "Sugerencia: revise el disco de /data (dmesg)." in page("check the disk of /data (dmesg)")
    assert '<q lang="en">ask the oracle</q>' in page("ask the oracle")
