"""Check what is called around backups, without calling it."""

from collections.abc import Iterator
from functools import partial
from urllib.parse import urlsplit, urlunsplit

from backupd.errors import CheckFailed
from backupd.system.http import HttpRequest, RequestFailed, send_request
from backupd.tasks.doctor import Finding, check_program, run_check
from backupd.tasks.requests import Hooks

_ANSWER_S = 5.0


def check_hooks(hooks: Hooks) -> Iterator[Finding]:
    """Yield a finding for each hook: that this user may run the command, that the host of the URL answers."""
    for name, hook in (("before", hooks.before), ("after", hooks.after)):
        if hook is not None and hook.url:
            yield run_check(f"hook {name}", partial(_check_host, hook.url, f"hooks.{name}"))
        elif hook is not None:
            yield run_check(f"hook {name}", partial(check_program, hook.command[0], f"hooks.{name}"))


def _check_host(url: str, key: str) -> str:
    """Request the root of the host, with no body: any answer will do, and the hook itself does not notice."""
    parts = urlsplit(url)
    root = urlunsplit((parts.scheme, parts.netloc, "/", "", ""))
    try:
        send_request(HttpRequest(root, method="HEAD"), timeout_s=_ANSWER_S, direct=True)
    except RequestFailed as error:
        raise CheckFailed(f"{root}: {error}", f"is it running, and is {key} right?") from None
    return f"{root} answers; the hook itself was not called"
