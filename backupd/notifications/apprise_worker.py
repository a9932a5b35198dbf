"""Sends one message with Apprise, in a process of its own: `python -m backupd.notifications.apprise_worker`.

Apprise is large to import, can hang, and logs what it likes: none of this is the daemon's business. The order comes
through standard input as JSON, the answer goes to standard output: for each URL an empty text, or why it was not taken.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from typing import Any, Final

from backupd.formatting import without_secrets

# Whoever started us gives up later than this (send.py); an orphan ends by itself.
DEADLINE_S: Final = 30.0
_UNKNOWN: Final = "Apprise cannot use this URL: see its page of the service for what it needs"


def main() -> None:
    """Send, answer, and end at once, whatever still hangs."""
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S + 5)
    answer = os.dup(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    order = json.load(sys.stdin)
    reasons = _send_all(order)
    os.write(answer, json.dumps(reasons).encode())
    os._exit(0)


def _send_all(order: dict[str, Any]) -> list[str]:
    urls: list[str] = order["urls"]
    reasons = [f"no answer within {DEADLINE_S:.0f} s"] * len(urls)

    def send(index: int) -> None:
        try:
            reasons[index] = without_secrets(_send(urls[index], order), urls[index])
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, with the URL in its words
            reasons[index] = f"Apprise failed with {type(error).__name__}"

    threads = [threading.Thread(target=send, args=(index,), daemon=True) for index in range(len(urls))]
    give_up = time.monotonic() + DEADLINE_S
    for index, thread in enumerate(threads):
        try:
            thread.start()
        except RuntimeError as error:
            reasons[index] = str(error)
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, give_up - time.monotonic()))
    return list(reasons)


def _send(url: str, order: dict[str, Any]) -> str:
    try:
        import apprise
    except ImportError:
        return "Apprise is not installed: pip install apprise"
    said: list[str] = []
    # A message that is redirected becomes a GET without a body, and the page that answers it is taken for success.
    asset = apprise.AppriseAsset(async_mode=False, http_redirects=False)
    channel = apprise.Apprise(asset=asset)
    if not channel.add(url):
        return _UNKNOWN
    if "overflow=" not in url:
        for service in channel:
            service.overflow_mode = apprise.OverflowMode.SPLIT  # else what is too long for a service is refused by it
    taken = channel.notify(
        title=order["title"],
        body=order["body"],
        notify_type=apprise.NotifyType(order["mood"]),
        body_format=apprise.NotifyFormat.TEXT,
        log_callback=lambda entry, _service: said.append(str(entry.message)),
        log_level=logging.WARNING,
    )
    return "" if taken else said[-1] if said else "the service did not take it, and Apprise does not say why"


if __name__ == "__main__":
    main()
