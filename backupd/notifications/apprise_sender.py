"""Hands a message to the process that sends it, and waits no longer than it may take."""

import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from backupd.notifications.apprise_worker import DEADLINE_S
from backupd.notifications.message import Channel, Message

_COMMAND: Final = (sys.executable, "-P", "-m", "backupd.notifications.apprise_worker")
# More than the child gives itself, and the time that it takes to import Apprise on a busy machine.
TIMEOUT_S: Final = DEADLINE_S + 15


class Sender:
    """Sends, one message at a time; `stop` ends it from another thread."""

    def __init__(self, command: Sequence[str] = _COMMAND, timeout_s: float = TIMEOUT_S) -> None:
        self._command, self._timeout_s = tuple(command), timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def send(self, message: Message, channels: Sequence[Channel]) -> Mapping[Channel, str]:
        """Send to each of `channels`, and return of each why it did not take the message, empty where it did."""
        order = {"mood": message.severity, "title": message.title, "body": message.body}
        reasons = self._answer(json.dumps({**order, "urls": [channel.url for channel in channels]}))
        if isinstance(reasons, str):
            return dict.fromkeys(channels, reasons)
        return dict(zip(channels, reasons, strict=True))

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stopped

    def stop(self) -> None:
        """End what is being sent; nothing is sent any more."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _answer(self, order: str) -> list[str] | str:
        try:
            process = self._begun()
        except OSError as error:  # too many processes, or too little memory
            return f"the sending process could not be begun: {error.strerror}"
        if process is None:
            return "the daemon stops"
        with process:
            try:
                answer, _ = process.communicate(order.encode(errors="replace"), self._timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                return f"the sending process did not end within {self._timeout_s:.0f} s"
            finally:
                self._process = None
        with suppress(ValueError):
            reasons = json.loads(answer)
            if isinstance(reasons, list) and len(reasons) == len(json.loads(order)["urls"]):
                return [str(reason) for reason in reasons]
        return f"the sending process ended with code {process.returncode}"

    def _begun(self) -> "subprocess.Popen[bytes] | None":
        with self._lock:
            if self._stopped:
                return None
            pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=nothing)  # noqa: S603 - our own module
            return self._process
