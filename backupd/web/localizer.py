"""Values as text on the page, in one language and time zone; and the choice of the language."""

from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final, Literal

from backupd.formatting import printable
from backupd.web.translations import TRANSLATIONS

Language = Literal["en", "es"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "es")
_MOST_CHARACTERS: Final = 600
_MOST_HEADER_CHARACTERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Localizer:
    """One language in one time zone."""

    language: Language
    zone: tzinfo

    def translate(self, key: str, **values: object) -> str:
        """Return the text `key` with its placeholders filled; values that are strings are quoted.

        Raises KeyError where the text, or a placeholder, is missing.
        """
        safe = {name: self.quote(value) if isinstance(value, str) else value for name, value in values.items()}
        text: str = getattr(TRANSLATIONS[key], self.language)
        return text.format(**safe)

    def quote(self, text: str, most: int = _MOST_CHARACTERS) -> str:
        """Return text from outside without control characters, cut off after `most` characters."""
        shown = printable(text[: most + 1])
        return shown if len(shown) <= most else f"{shown[:most]}…"

    def at(self, moment: datetime) -> str:
        """Return a time to the minute: `2026-11-25 04:00`."""
        return self.local(moment).isoformat(" ", "minutes")[:16]

    def second(self, moment: datetime) -> str:
        """Return a time to the second."""
        return self.local(moment).isoformat(" ", "seconds")[:19]

    def task(self, task: str) -> str:
        """Return the name of a task."""
        return self.translate(f"task.{task}") if f"task.{task}" in TRANSLATIONS else self.quote(task)

    def reason(self, reason: str) -> str:
        """Return why retention keeps a generation: `daily 2026-11-25` as `day 2026-11-25`."""
        rule, _, period = reason.partition(" ")
        if reason in TRANSLATIONS:
            return self.translate(reason)
        if f"rule.{rule}" not in TRANSLATIONS:
            return self.quote(reason)
        return f"{self.translate(f'rule.{rule}')} {self.quote(period)}".strip()

    def local(self, moment: datetime) -> datetime:
        """Return a time in the zone."""
        try:
            return moment.astimezone(self.zone)
        except OverflowError:  # the last hours of the year 9999, which only a forged log line contains
            return moment


def choose_language(accept_language: str) -> Language:
    """Return the language that an Accept-Language header (RFC 9110 §12.5.4) prefers; English by default."""
    best: Language = LANGUAGES[0]
    best_quality = 0.0
    for part in accept_language[:_MOST_HEADER_CHARACTERS].split(","):
        tag, _, parameters = part.partition(";")
        found = quality(parameters)
        wanted = tag.strip().lower().partition("-")[0]
        for language in LANGUAGES:
            if found > best_quality and wanted in (language, "*"):
                best, best_quality = language, found
    return best


def quality(parameters: str) -> float:
    """Return the quality value in `parameters` (RFC 9110 §12.4.2), 0 to 1; 0 where it is invalid."""
    name, _, value = parameters.strip().partition("=")
    if not name.strip():
        return 1.0
    try:
        found = float(value)
    except ValueError:
        return 0.0
    return found if name.strip().lower() == "q" and 0 <= found <= 1 else 0.0
