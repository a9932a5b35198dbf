"""What the gate asks of Forgejo or Gitea: the tree of a commit, the verdict of another CI, and a place for its own.

The API is that of Gitea 1.20 and later and of all versions of Forgejo; a token needs the scope `write:repository`
(`read:repository` where the gate reports no status).
"""

import http.client
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_random_exponential

from backupd.errors import GateStepFailed
from backupd.formatting import human_duration, one_line
from backupd.gate.model import COMMIT, CommitStatus, Forgejo, Push
from backupd.gate.source_tree import write_tree
from backupd.gate.waiting import IsCancelled, ask, pause
from backupd.system.http import LONGEST_BODY, HttpRequest, HttpResponse, RequestFailed

State = Literal["pending", "success", "error", "failure", "warning"]
CONTEXT: Final = "backupd"  # of the gate's own status
MAX_ARCHIVE_BYTES: Final = 256 << 20
_FETCH_S, _ANSWER_S, _RETRY_S, _ATTEMPTS = 600.0, 15.0, 60.0, 4
_POLL_S: Final = 5.0
_PAGES, _PAGE = 20, 50
_PAGE_BYTES: Final = 4 << 20
_DESCRIPTION: Final = 255
_TAGS: Final = 5  # that may point to each other
_TRANSIENT: Final = frozenset({429, 500, 502, 503, 504})
_PASSED: Final = frozenset({"success", "skipped"})


class _NoAnswerYet(Exception):
    """The server did not answer, or with an error of its own: it may answer later."""


def fetch_commit(forgejo: Forgejo, push: Push, to: Path, cancelled: IsCancelled = lambda: False) -> str:
    """Write the tree of the commit of `push` to the plain tar `to`, a new file; return what is in it, in a line.

    Raises GateStepFailed, Cancelled; then there is no `to`.
    """
    commit = commit_of(forgejo, push, cancelled)
    what = f"the archive of commit {commit[:10]}"
    with tempfile.TemporaryFile(dir=to.parent) as packed:
        request = _request(forgejo, f"archive/{commit}.tar.gz", into=packed, limit_bytes=MAX_ARCHIVE_BYTES)
        _require(_send(request, what, cancelled, timeout_s=_FETCH_S), what)
        packed.seek(0)
        if packed.read(2) != b"\x1f\x8b":
            raise GateStepFailed(
                f"{_where(forgejo)} answered with something else than {what}",
                "check forgejo_url: it may lead to a login page or to another service",
            )
        packed.seek(0)
        tree = write_tree(packed, to, forgejo.repository)
    if tree.commit not in (None, commit):
        to.unlink()
        raise GateStepFailed(
            f"{_where(forgejo)} sent the archive of another commit: {one_line(tree.commit or '')[:40]}, not {commit}",
            "redeliver the webhook in Forgejo; if it happens again, delete the repository archives in the "
            "administration of that server",
        )
    return f"commit {commit[:10]}: {tree}" + ("" if tree.commit else "; the archive does not tell its commit")


def commit_of(forgejo: Forgejo, push: Push, cancelled: IsCancelled = lambda: False) -> str:
    """Return the commit of `push`: a pushed tag may have an object of its own. Raises GateStepFailed, Cancelled."""
    found = _valid(push.commit)
    if not push.is_tag:
        return found
    for _ in range(_TAGS):
        what = f"tag {push.version}"
        response = _send(_request(forgejo, f"git/tags/{found}"), what, cancelled)
        if response.status == http.client.NOT_FOUND:  # it is a commit, or there is no such thing, as the archive tells
            return found
        _require(response, what)
        about = _json(response, forgejo).get("object")
        if not isinstance(about, Mapping):
            break
        found = _valid(about.get("sha"))
        if about.get("type") == "commit":
            return found
    raise GateStepFailed(f"tag {one_line(push.version)} does not lead to a commit", "tag a commit")


@dataclass(frozen=True, slots=True)
class Reported:
    """The latest state that a CI has reported for a commit in one context."""

    context: str
    state: str
    description: str = ""

    def __str__(self) -> str:
        """Return it in a line, which may be shown."""
        text = f" ({one_line(self.description)})" if self.description else ""
        return f"{one_line(self.context)} is {one_line(self.state)}{text}"


def open_verdicts(found: tuple[Reported, ...], contexts: tuple[str, ...]) -> tuple[str, ...]:
    """Return what has not passed yet, empty once all has. Raises GateStepFailed when something has failed."""
    others = [one for one in found if one.context != CONTEXT and not one.context.startswith(f"{CONTEXT}/")]
    asked = [one for one in others if not contexts or any(_is_named(one, pattern) for pattern in contexts)]
    failed = [str(one) for one in asked if one.state not in (*_PASSED, "pending")]
    if failed:
        raise GateStepFailed(
            f"another CI did not pass: {'; '.join(failed[:3])}", "mend it and push again, or run that CI again"
        )
    missing = [
        f"{one_line(pattern)} is not reported"
        for pattern in contexts or ("*",)
        if not any(_is_named(one, pattern) for one in asked)
    ]
    return (*missing, *(str(one) for one in asked if one.state == "pending"))


def _is_named(one: Reported, pattern: str) -> bool:
    return pattern in (one.context, "*") or fnmatchcase(one.context, pattern)  # a name may have [ ] of its own


def await_status(
    forgejo: Forgejo, status: CommitStatus, commit: str, cancelled: IsCancelled, *, poll_s: float = _POLL_S
) -> str:
    """Wait until all contexts of `status` are success, twice in a row since CI may add more; return which they are.

    Raises GateStepFailed as soon as one of them failed, and after its time limit; raises Cancelled.
    """
    deadline = time.monotonic() + status.timeout_s
    passed: set[str] = set()
    while True:
        try:
            found = _reported(forgejo, commit, cancelled)
            waiting = open_verdicts(found, status.contexts)
        except _NoAnswerYet as error:
            waiting = (f"{_where(forgejo)}: {error}",)
        if waiting:
            passed.clear()
        elif passed == (now := {str(one) for one in found}):
            return _summary(found)
        else:
            passed = now
        if waiting and time.monotonic() >= deadline:
            raise GateStepFailed(
                f"no verdict of another CI within {human_duration(status.timeout_s)}: {'; '.join(waiting[:3])}",
                "check that it runs for this commit, the names in status_contexts, and status_timeout_s",
            )
        pause(poll_s, cancelled)


def set_status(
    forgejo: Forgejo, commit: str, state: State, description: str, target_url: str = "", context: str = CONTEXT
) -> None:
    """Set the gate's own status of a commit, which Forgejo shows beside it. Raises GateStepFailed."""
    said = {"state": state, "context": context, "description": description[:_DESCRIPTION], "target_url": target_url}
    request = _request(forgejo, f"statuses/{_valid(commit)}", body=json.dumps(said).encode())
    what = f"the status of commit {commit[:10]}"
    _require(_send(request, what, lambda: False), what)


def _reported(forgejo: Forgejo, commit: str, cancelled: IsCancelled) -> tuple[Reported, ...]:
    """Return the latest state of each context. Raises _NoAnswerYet, GateStepFailed, Cancelled."""
    found: dict[str, Reported] = {}
    for page in range(1, _PAGES + 1):
        path = f"commits/{_valid(commit)}/status?page={page}&limit={_PAGE}"
        response = _answer_to(_request(forgejo, path, limit_bytes=_PAGE_BYTES), cancelled, _ANSWER_S)
        _require(response, f"the status of commit {commit[:10]}")
        said = _json(response, forgejo) if response.body else {}  # nothing at all before the first status
        listed = said.get("statuses") or ()
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, Mapping):
                reported = Reported(*(str(one.get(name) or "") for name in ("context", "status", "description")))
                found.setdefault(reported.context, reported)  # the latest comes first
        total = said.get("total_count")
        if not listed or not isinstance(total, int) or page * _PAGE >= total:
            break
    return tuple(found.values())


def _summary(found: tuple[Reported, ...]) -> str:
    names = [one_line(one.context) for one in found if one.state in _PASSED and one.context != CONTEXT]
    return f"passed: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")  # noqa: PLR2004


def _request(forgejo: Forgejo, path: str, **more: Any) -> HttpRequest:  # noqa: ANN401 - fields of HttpRequest
    owner, _, name = forgejo.repository.partition("/")
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if forgejo.token:
        headers["Authorization"] = f"token {forgejo.token}"
    base = f"{forgejo.url.rstrip('/')}/api/v1/repos/{quote(owner, safe='')}/{quote(name, safe='')}"
    return HttpRequest(f"{base}/{path}", headers=headers, **more)


def _send(request: HttpRequest, what: str, cancelled: IsCancelled, *, timeout_s: float = _ANSWER_S) -> HttpResponse:
    """Send `request` until the server answers, a few times. Raises GateStepFailed, Cancelled."""
    attempts = Retrying(
        retry=retry_if_exception_type(_NoAnswerYet),
        stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(_RETRY_S),
        wait=wait_random_exponential(max=8),
        sleep=partial(pause, cancelled=cancelled),
        reraise=True,
    )
    try:
        return attempts(_answer_to, request, cancelled, timeout_s)
    except _NoAnswerYet as error:
        raise GateStepFailed(
            f"{one_line(what)} could not be had from the server of the repository: {error}",
            "check forgejo_url, and that the server is up and reachable from the gate",
        ) from None


def _answer_to(request: HttpRequest, cancelled: IsCancelled, timeout_s: float) -> HttpResponse:
    """Return the whole answer. Raises _NoAnswerYet, Cancelled."""
    if request.into is not None:
        request.into.seek(0)
        request.into.truncate()
    try:
        response = ask(request, cancelled, timeout_s=timeout_s)
    except RequestFailed as error:
        if request.into is not None and request.into.tell() + LONGEST_BODY > request.limit_bytes:
            hint = "remove large files from the repository, or set caprover_webhook"
            raise GateStepFailed(f"the archive of the commit is too large: {error}", hint) from None
        raise _NoAnswerYet(str(error)) from None
    if response.status in _TRANSIENT:
        raise _NoAnswerYet(response.words())
    length = response.headers.get("content-length", "")
    if request.into is not None and response.ok and length.isdecimal() and request.into.tell() != int(length):
        raise _NoAnswerYet("the connection was cut")
    return response


def _require(response: HttpResponse, what: str) -> None:
    """Raise GateStepFailed unless the answer is a 2xx."""
    if response.ok:
        return
    text = f"{one_line(what)}: the server of the repository {one_line(response.words())}"
    if response.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        raise GateStepFailed(text, "check forgejo_token: it needs the scope write:repository")
    if response.status == http.client.NOT_FOUND:
        raise GateStepFailed(
            text, "check repository and forgejo_token, whose user must be able to read it; the commit may be gone"
        )
    raise GateStepFailed(text, "look at the log of that server")


def _json(response: HttpResponse, forgejo: Forgejo) -> Mapping[str, Any]:
    try:
        said = json.loads(response.body)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, Mapping):
        raise GateStepFailed(
            f"{_where(forgejo)} answered with something else than JSON",
            "check forgejo_url: it may lead to a login page or to another service",
        )
    return said


def _valid(commit: object) -> str:
    if isinstance(commit, str) and COMMIT.fullmatch(commit):
        return commit
    raise GateStepFailed(f"{one_line(str(commit))[:80]} is not the id of a commit", "push again")


def _where(forgejo: Forgejo) -> str:
    return f"the server of {one_line(forgejo.repository)}"
