"""One line of `backup.log` as a person reads it, whatever stands there: others may write to that file too."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from backupd.text import printable

LEVELS: Final = ("info", "warning", "error")
# What is longer was not written by us, and is cut; even a run that removes ten thousand generations stays below.
MOST_BYTES: Final = 1 << 20
_MOST_SHOWN: Final = 4000
_NUMBERS: Final = logging.getLevelNamesMapping()
_UNREADABLE: Final = logging.WARNING  # cut off or made up: somebody should look at it
_NO_TIME: Final = "????-??-?? ??:??:??Z"


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line with its time (aware; None where it tells none) and severity, a number of `logging`.

    `facts` is what it holds, None when it is no JSON object; `raw` is its text without the end of the line.
    """

    raw: str
    at: datetime | None
    severity: int
    facts: Mapping[str, Any] | None

    def is_at_least(self, level: str) -> bool:
        """Tell whether the line is as grave as `level`, one of LEVELS; what cannot be read is a warning."""
        return self.severity >= _NUMBERS[level.upper()]

    def as_json(self) -> str:
        """Return the JSON object as it stands in the file; one that could steer a terminal is escaped."""
        return self.raw if self.raw.isprintable() else json.dumps(self.facts)

    def as_text(self) -> str:
        """Return time in UTC, level, message and what to do, on one line that no terminal takes for commands."""
        if self.facts is None:
            return f"{_NO_TIME} {'?':<7} {_shown(self.raw)}"
        hint = self.facts.get("backupd.hint")
        step = f" | what to do: {hint}" if isinstance(hint, str) and hint else ""
        time = _NO_TIME if self.at is None else f"{self.at:%F %TZ}"
        return f"{time} {_shown(self.level):<7} {_shown(str(self.facts.get('message', self.raw)) + step)}"

    @property
    def level(self) -> str:
        """The level as the line tells it."""
        return str((self.facts or {}).get("log.level", "?"))


def read_line(raw: bytes) -> LogLine:
    """Read a line, which may be anything at all."""
    text = raw.decode(errors="replace").rstrip("\r\n")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, cut off, a number of thousands of digits, nested without end
        facts = None
    if not isinstance(facts, dict):
        return LogLine(text, None, _UNREADABLE, None)
    return LogLine(text, _time(facts.get("@timestamp")), _severity(facts.get("log.level")), facts)


def _time(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _severity(value: object) -> int:
    return _NUMBERS.get(value.upper(), _UNREADABLE) if isinstance(value, str) else _UNREADABLE


def _shown(text: str) -> str:
    """Return `text` for a terminal; of one that is very long the beginning."""
    if len(text) <= _MOST_SHOWN:
        return printable(text)
    return f"{printable(text[:_MOST_SHOWN])}… ({len(text)} characters)"
