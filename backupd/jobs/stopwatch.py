"""Measure how long each stage of a job takes, by what it tells of its progress."""

import time
from collections.abc import Callable

from backupd.model import Progress


class Stopwatch:
    """Passes progress on to `to`, and tells `add_stage` the name of each stage and its seconds when it ends."""

    def __init__(self, to: Progress, add_stage: Callable[[str, float], None]) -> None:
        self._to, self._add_stage = to, add_stage
        self._name, self._began = "", 0.0

    def stage(self, name: str, total_bytes: int) -> None:
        """Hear that a stage begins, and with that that the one before has ended."""
        self.end()
        self._name, self._began = name, time.monotonic()
        self._to.stage(name, total_bytes)

    def advance(self, done_bytes: int) -> None:
        """Pass it on."""
        self._to.advance(done_bytes)

    def end(self) -> None:
        """Hear that the last stage has ended."""
        if self._name:
            self._add_stage(self._name, time.monotonic() - self._began)
            self._name = ""
