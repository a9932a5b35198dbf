"""How values read on the page: phrases of one language, ISO times of one zone, sizes, spans, and words of strangers."""

from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final

from backupd.formatting import human_bytes, human_duration, printable
from backupd.web.translations import TRANSLATIONS, Language, say

_MOST_CHARACTERS: Final = 600


@dataclass(frozen=True, slots=True)
class Localizer:
    """One language in one time zone."""

    language: Language
    zone: tzinfo

    def say(self, key: str, **values: object) -> str:
        """Return a phrase with its placeholders filled; values that are texts of others are made fit to be shown."""
        fit = {name: self.quote(value) if isinstance(value, str) else value for name, value in values.items()}
        return say(self.language, key, **fit)

    def known(self, text: str) -> str:
        """Return the phrase for an English sentence of ours, the sentence itself where there is none."""
        return self.say(text) if text in TRANSLATIONS else self.quote(text)

    def quote(self, text: str, most: int = _MOST_CHARACTERS) -> str:
        """Return what others wrote without anything that steers, cut off where it is very long."""
        shown = printable(text[: most + 1])
        return shown if len(shown) <= most else f"{shown[:most]}…"

    def at(self, moment: datetime) -> str:
        """Return a time to the minute: `2026-11-25 04:00`."""
        return self._local(moment).isoformat(" ", "minutes")[:16]

    def second(self, moment: datetime) -> str:
        """Return a time to the second."""
        return self._local(moment).isoformat(" ", "seconds")[:19]

    def size(self, size_bytes: float) -> str:
        """Return a size with a binary unit."""
        return human_bytes(size_bytes)

    def span(self, seconds: float) -> str:
        """Return an age."""
        return human_duration(seconds)

    def took(self, seconds: float) -> str:
        """Return how long something took."""
        return human_duration(seconds)

    def task(self, task: str) -> str:
        """Return what a task is called."""
        return self.say(f"task.{task}") if f"task.{task}" in TRANSLATIONS else self.quote(task)

    def reason(self, reason: str) -> str:
        """Return why retention keeps a generation: `daily 2026-11-25` as `day 2026-11-25`."""
        rule, _, period = reason.partition(" ")
        if reason not in TRANSLATIONS and f"rule.{rule}" in TRANSLATIONS:
            return f"{self.say(f'rule.{rule}')} {self.quote(period)}".strip()
        return self.known(reason)

    def _local(self, moment: datetime) -> datetime:
        try:
            return moment.astimezone(self.zone)
        except OverflowError:  # the last hours of the year 9999: nobody's time, but anybody may write it into the log
            return moment
