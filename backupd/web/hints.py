"""The hints of runs in Spanish, clause by clause.

A run leaves its hint in the catalog as a text, which later versions read as well. So a hint is recognised by its words,
and one that is not (of another version) is quoted as it is.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Final

from backupd.web.hint_translations import HINTS
from backupd.web.localizer import Language

_MOST_CHARACTERS: Final = 1000
_MOST_PARTS: Final = 8  # of one entry, which a hint is cut into at these joints
_JOINTS: Final = {
    "; or ": "; o ",
    "; ": "; ",
    ", or ": ", o ",
    ", and ": ", y ",
    ", then ": " y luego ",
    ": ": ": ",
    ", ": ", ",
}
_JOINT: Final = re.compile(f"({'|'.join(map(re.escape, _JOINTS))})")
_VALUE: Final = "((?:(?!; |: |, or |, and ).)+?)"  # what `{}` stands for: a path, a name or a number


def translate_hint(hint: str, language: Language) -> str:
    """Return a hint in `language`; empty where a part of it is not known in that."""
    if language == "en":
        return hint
    parts, at, said = _JOINT.split(hint[:_MOST_CHARACTERS]), 0, ""
    while at < len(parts):  # clauses and the joints after them take turns
        ends = range(min(len(parts), at + 2 * _MOST_PARTS - 1), at, -2)
        clauses = [(look_up("".join(parts[at:end])), end) for look_up in (HINTS.get, _filled) for end in ends]
        clause, at = next(((found, end) for found, end in clauses if found), ("", len(parts)))
        if not clause:
            return ""
        said += clause + (_JOINTS[parts[at]] if at < len(parts) else "")
        at += 1
    return said


def _filled(clause: str) -> str:
    """Return the entry with values that is all of `clause`, filled in; empty where there is none."""
    for key, pattern in _patterns().items():
        if found := pattern.fullmatch(clause):
            return HINTS[key].format(*found.groups())
    return ""


@cache
def _patterns() -> Mapping[str, re.Pattern[str]]:
    keys = [key for key in HINTS if "{}" in key]
    return {key: re.compile(re.escape(key).replace(r"\{\}", _VALUE)) for key in sorted(keys, key=len, reverse=True)}
