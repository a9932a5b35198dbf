"""Ask an app over HTTP whether it is well, again and again for a time."""

import http.client
import time
import urllib.request
from typing import Final
from urllib.error import HTTPError

from backupd.errors import DrillFailed
from backupd.text import printable

_EVERY_S: Final = 0.5
_ANSWER_S: Final = 5.0
_LONGEST_WORDS: Final = 200


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nowhere: a page to log in is no word of health."""

    def redirect_request(self, *_arguments: object) -> None:
        """Return nothing, so that the redirection itself is the answer."""


# Straight to the app, whatever proxy the environment names.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)


def why_unwell(url: str) -> str:
    """Ask `url` once, and return in words what it answered, empty for 200."""
    try:
        with _OPENER.open(url, timeout=_ANSWER_S) as answer:
            return "" if answer.status == http.client.OK else f"it answered {answer.status}"
    except HTTPError as error:
        with error:
            return f"it answered {error.code}{_words_of(error)}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"nobody answered: {getattr(error, 'reason', None) or error}"


def require_well(url: str, timeout_s: float) -> None:
    """Ask until `url` answers 200. Raises DrillFailed after `timeout_s`, with the last answer."""
    give_up = time.monotonic() + timeout_s
    while why := why_unwell(url):
        if time.monotonic() >= give_up:
            raise DrillFailed(
                f"{url} did not answer 200 within {timeout_s:.0f} s: {why}",
                "look at the log of the app that was started on the restored copy",
            )
        time.sleep(_EVERY_S)


def require_silent(url: str, timeout_s: float) -> None:
    """Wait until `url` answers 200 no more: who is well before it has the copy is another. Raises DrillFailed."""
    give_up = time.monotonic() + timeout_s
    while not why_unwell(url):
        if time.monotonic() >= give_up:
            raise DrillFailed(
                f"{url} answers 200 though the restored copy is not in place yet: it proves nothing",
                "it may be the live app, or an instance that kept the copy of an earlier drill open: let the second "
                "instance run only while its database is there (docs/drill.md)",
            )
        time.sleep(_EVERY_S)


def _words_of(error: HTTPError) -> str:
    try:
        words = error.read(_LONGEST_WORDS).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        words = ""
    return f": {printable(words)}" if words else ""
