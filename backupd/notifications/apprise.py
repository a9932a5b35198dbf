"""Sends a message with Apprise, in a process of its own: Apprise is large to import, may hang, and logs secrets.

The child (`python -m backupd.notifications.apprise`) reads the message and the URLs as JSON from standard input, and
writes to standard output, for each URL, the error, empty when the service accepted the message.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from backupd.masking import without_secrets

if TYPE_CHECKING:  # the child needs none of them, and starts sooner
    from backupd.catalog import OutboxMessage
    from backupd.notifications.message import Channel, Message

_COMMAND: Final = (sys.executable, "-P", "-m", "backupd.notifications.apprise")
DEADLINE_S: Final = 30.0
# What the child allows itself, and the time to import Apprise on a busy machine; an orphaned child ends by itself.
TIMEOUT_S: Final = DEADLINE_S + 15
_UNUSABLE_URL: Final = "Apprise cannot use this URL: see its page of the service for what it needs"


class Sender:
    """Sends one message at a time; `stop` ends it from another thread."""

    def __init__(self, command: Sequence[str] = _COMMAND, timeout_s: float = TIMEOUT_S) -> None:
        self._command, self._timeout_s = tuple(command), timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.stopped = False

    def send(self, message: "Message | OutboxMessage", channels: "Sequence[Channel]") -> "Mapping[Channel, str]":
        """Send to each of `channels`, and return the error of each, empty where the message was accepted."""
        return self._ask(channels, severity=message.severity, title=message.title, body=message.body)

    def check(self, channels: "Sequence[Channel]") -> "Mapping[Channel, str]":
        """Return why Apprise cannot use the URL of each of `channels`, empty where it can; sends nothing."""
        return self._ask(channels)

    def _ask(self, channels: "Sequence[Channel]", **message: str) -> "Mapping[Channel, str]":
        request = json.dumps({"urls": [channel.url for channel in channels], "message": message})
        errors = self._ask_child(request, len(channels))
        if isinstance(errors, str):
            return dict.fromkeys(channels, errors)
        return dict(zip(channels, errors, strict=True))

    def stop(self) -> None:
        """Kill the sending process, and send nothing from now on."""
        with self._lock:
            self.stopped = True
            if self._process is not None:
                self._process.kill()

    def _ask_child(self, request: str, url_count: int) -> list[str] | str:
        try:
            process = self._start_child()
        except OSError as error:  # too many processes, or too little memory
            return f"the sending process could not be started: {error.strerror}"
        if process is None:
            return "the daemon is stopping"
        with process:
            try:
                answer, _ = process.communicate(request.encode(errors="replace"), self._timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                return f"the sending process did not end within {self._timeout_s:.0f} s"
            finally:
                self._process = None
        with suppress(ValueError):
            errors = json.loads(answer)
            if isinstance(errors, list) and len(errors) == url_count:
                return [str(error) for error in errors]
        return f"the sending process ended with code {process.returncode}"

    def _start_child(self) -> "subprocess.Popen[bytes] | None":
        with self._lock:
            if self.stopped:
                return None
            pipe, discard = subprocess.PIPE, subprocess.DEVNULL
            self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=discard)  # noqa: S603 - our own module
            return self._process


def main() -> None:
    """Send, answer, and exit at once, even while a service still hangs."""
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S + 5)
    answer = os.dup(1)
    discard = os.open(os.devnull, os.O_WRONLY)
    os.dup2(discard, 1)
    os.dup2(discard, 2)
    errors = _send_all(json.load(sys.stdin))
    os.write(answer, json.dumps(errors).encode())
    os._exit(0)


def _send_all(request: dict[str, Any]) -> list[str]:
    urls: list[str] = request["urls"]
    errors = [f"no answer within {DEADLINE_S:.0f} s"] * len(urls)

    def send(index: int) -> None:
        try:
            errors[index] = without_secrets(_send(urls[index], request["message"]), urls[index])
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and quote the URL
            errors[index] = f"Apprise failed with {type(error).__name__}"

    threads = [threading.Thread(target=send, args=(index,), daemon=True) for index in range(len(urls))]
    give_up = time.monotonic() + DEADLINE_S
    for index, thread in enumerate(threads):
        try:
            thread.start()
        except RuntimeError as error:
            errors[index] = str(error)
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, give_up - time.monotonic()))
    return list(errors)


def _send(url: str, message: dict[str, str]) -> str:
    try:
        import apprise
    except ImportError:
        return "Apprise is not installed: pip install apprise"
    log: list[str] = []
    # A redirected POST would become a GET without the message, and count as sent.
    asset = apprise.AppriseAsset(async_mode=False, http_redirects=False)
    channel = apprise.Apprise(asset=asset)
    if not channel.add(url):
        return _UNUSABLE_URL
    if not message:
        return ""
    if "overflow=" not in url:
        for service in channel:
            service.overflow_mode = apprise.OverflowMode.SPLIT  # else a service refuses a message that is too long
    accepted = channel.notify(
        title=message["title"],
        body=message["body"],
        notify_type=apprise.NotifyType(message["severity"]),
        body_format=apprise.NotifyFormat.TEXT,
        log_callback=lambda entry, _service: log.append(str(entry.message)),
        log_level=logging.WARNING,
    )
    return "" if accepted else log[-1] if log else "the service refused the message, and Apprise gives no reason"


if __name__ == "__main__":
    main()
