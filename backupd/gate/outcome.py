"""What a deploy comes to, for the page, `/api/deploys`, metrics and messages; pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final
from urllib.parse import quote, urlsplit

from backupd.formatting import printable
from backupd.gate.model import COMMIT, CapRover, Deploy, DeployState, Gate, Push, Step
from backupd.model import Severity, is_generation_id
from backupd.web.localizer import Localizer

SEVERITIES: Final[Mapping[DeployState, Severity]] = {
    "waiting": "info",
    "running": "info",
    "deployed": "success",
    "stopped": "warning",
    "unhealthy": "failure",
    "superseded": "info",
    "interrupted": "failure",
}
MOST_LINES: Final = 200
_MOST_COLUMNS: Final = 500
_MOST_OUTPUT: Final = MOST_LINES * _MOST_COLUMNS
_TERMINAL: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


def newest_first(deploys: Iterable[Deploy], gate: str) -> tuple[Deploy, ...]:
    """Return the deploys of one gate."""
    return tuple(sorted((one for one in deploys if one.gate == gate), key=lambda one: one.received_at, reverse=True))


def current(deploys: Sequence[Deploy]) -> Deploy | None:
    """Return the newest of `deploys` (newest first) that no other superseded."""
    return next((one for one in deploys if one.state != "superseded"), None)


def deployed_before(deploy: Deploy, deploys: Iterable[Deploy]) -> Deploy | None:
    """Return the last deploy of the same gate before `deploy` that came up."""
    earlier = [one for one in newest_first(deploys, deploy.gate) if one.received_at < deploy.received_at]
    return next((one for one in earlier if one.state == "deployed"), None)


def duration_s(deploy: Deploy | Step, now: datetime) -> float:
    """Return how long it took, or has taken by `now`; the time that a deploy waited for another is not counted."""
    if isinstance(deploy, Step):
        began_at = deploy.began_at
    else:
        began_at = deploy.steps[0].began_at if deploy.steps else deploy.ended_at or deploy.received_at
    return max(0.0, ((deploy.ended_at or now) - began_at).total_seconds())


def repository_url(gate: Gate) -> str:
    """Return the address of the repository in Forgejo; empty where that is not known."""
    server = public_url(gate.forgejo.url) if gate.forgejo else ""
    return f"{server}/{quote(gate.repository, errors='replace')}" if server else ""


def commit_url(gate: Gate, push: Push) -> str:
    """Return the address of the commit in Forgejo; empty where that is not known."""
    repository = repository_url(gate)
    return f"{repository}/commit/{push.commit}" if repository and COMMIT.fullmatch(push.commit) else ""


def public_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, which may be secrets; empty for one that is not HTTP."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}" if parts.scheme in ("http", "https") else ""


def last_lines(output: str, most: int = MOST_LINES) -> tuple[str, ...]:
    """Return the end of what tests printed, line by line, without colours and other control characters."""
    lines = _TERMINAL.sub("", output[-_MOST_OUTPUT:]).rstrip().splitlines()[-most:]
    return tuple(printable(line.expandtabs(4).rstrip())[:_MOST_COLUMNS] for line in lines)


def shown_output(deploy: Deploy, outputs: Mapping[str, str], *, newest: bool) -> tuple[str, ...]:
    """Return the end of what the tests of a deploy printed: of the newest, and of one that failed."""
    return last_lines(outputs.get(deploy.id, "")) if newest or deploy.failure else ()


def way_back(deploy: Deploy, gate: Gate, before: Deploy | None, localizer: Localizer) -> tuple[str, ...]:
    """Return what goes back from a deploy that did not come up, in order, with commands between backticks.

    `before` is the last deploy that came up. The app is stopped until version and data fit together, and the data come
    last: the new version would migrate them again. Section 10 of docs/runbook.md has the same order.
    """
    translate, new = localizer.translate, without_backticks(deploy.push.version)
    if deploy.state != "unhealthy":
        return ()
    app = gate.target.app if isinstance(gate.target, CapRover) else translate("back.the-app")
    generations = [one for one in deploy.generations if is_generation_id(one)]
    data = [translate("back.restore", version=new, generation=one) for one in generations]
    return (
        translate("back.stop", app=app),
        translate("back.version", app=app, version=_version_before(deploy, before, localizer)),
        *(data or [translate("back.no-backup", version=new)]),
        translate("back.start", app=app),
    )


def without_backticks(text: str) -> str:
    """Return foreign text that cannot pass as a command."""
    return text.replace("`", "'")


def _version_before(deploy: Deploy, before: Deploy | None, localizer: Localizer) -> str:
    """Return what the app reported before, and the commit of that, by which CapRover lists it."""
    known = before.push if before else None
    version = deploy.version_before or (known.version if known else localizer.translate("back.version-before"))
    if known and version != known.commit[:10] and version in (known.version, known.commit):
        return localizer.translate("back.commit", version=without_backticks(version), commit=known.commit[:10])
    return without_backticks(version)
