"""Where a key was set: under which environment name, or on which line of the file."""

from backupd.config.environment import Setting
from backupd.config.file import Document
from backupd.config.keys import KeyPath
from backupd.config.lines import lines_of
from backupd.config.problems import dotted
from backupd.config.schema import ENVIRONMENT


class Places:
    """Where each key of one configuration was set; the environment goes before the file, as for values."""

    def __init__(self, document: Document, settings: tuple[Setting, ...]) -> None:
        self._file = document.file
        self._lines = lines_of(document.text)
        self._settings = settings

    def locate(self, path: KeyPath) -> str:
        """Return "FILE:LINE: key" or "environment NAME" for `path`, or for what is nearest above it."""
        for length in range(len(path), 0, -1):
            place = self._at(path[:length], path)
            if place is not None:
                return place
        return f"{self._file or ENVIRONMENT}: {dotted(path)}"

    def _at(self, known: KeyPath, path: KeyPath) -> str | None:
        for setting in self._settings:
            if setting.path == known:
                key = "" if known == path else f": {dotted(path)}"
                return f"{ENVIRONMENT} {setting.name}{key}"
        if known in self._lines:
            return f"{self._file}:{self._lines[known]}: {dotted(path)}"
        below = (setting for setting in self._settings if setting.path[: len(known)] == known)
        return next((f"{ENVIRONMENT} {setting.name}: {dotted(path)}" for setting in below), None)
