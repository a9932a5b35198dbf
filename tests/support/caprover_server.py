"""CapRover's two ways to deploy an app, and a small app that answers as the deployed one does.

Routes, order of checks and answers are those of CapRover 1.15 (`src/routes/user/UserRouter.ts`,
`src/routes/user/apps/{appdata/AppDataRouter,webhooks/WebhooksRouter}.ts`, `src/injection/Injector.ts`,
`src/api/ApiStatusCodes.ts`, `src/user/ImageMaker.ts`): errors come with HTTP 200, an app that does not exist is
answered as a wrong token is, and only the lock of the namespace has a status of HTTP.
"""

import io
import json
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs

from python_multipart import parse_form
from python_multipart.multipart import Field, File

from support.recording_server import CannedResponse, ReceivedRequest, RecordingServer, recording_server

OK, OK_STARTED, GENERIC, NOT_AUTHORIZED, ILLEGAL_OPERATION = 100, 101, 1000, 1102, 1108
BUSY: Final = CannedResponse(
    429, b"Another operation still in progress... please wait...", {"Content-Type": "text/html; charset=utf-8"}
)
BODY_LIMIT: Final = 2 << 20  # of bodies that are JSON or a form: `bodyParser` in src/app.ts


def answer(status: int, description: str) -> CannedResponse:
    """Return what CapRover sends, whatever came of it: HTTP 200, and its own status in JSON."""
    said = json.dumps({"status": status, "description": description, "data": {}}).encode()
    return CannedResponse(200, said, {"Content-Type": "application/json; charset=utf-8"})


@dataclass(frozen=True)
class Build:
    """What CapRover was given to build: the tar of an upload, or the branch whose head it will fetch."""

    git_hash: str
    tar: bytes | None
    branch: str | None = None

    def files(self) -> dict[bytes, tuple[str, bytes]]:
        """Return mode and contents of each file, as `Repository.files_of` does."""
        assert self.tar is not None
        found = {}
        with tarfile.open(fileobj=io.BytesIO(self.tar), mode="r:", errors="surrogateescape") as tar:
            for member in tar:
                name = member.name.encode(errors="surrogateescape")
                if member.issym():
                    found[name] = ("120000", member.linkname.encode(errors="surrogateescape"))
                elif member.isreg():
                    contents = tar.extractfile(member)
                    assert contents is not None
                    found[name] = ("100755" if member.mode & 0o100 else "100644", contents.read())
        return found


@dataclass
class LiveVersion:
    """The app as its users reach it: GET /health answers `version` while it is healthy."""

    version: str | None = "old"
    healthy: bool = True
    then: Callable[[Build], Iterator[tuple[float, str | None, bool]]] | None = None
    listener: RecordingServer = field(default_factory=RecordingServer)

    @property
    def health_url(self) -> str:
        return self.listener.url("/health")

    def answering(self, _asked: ReceivedRequest) -> CannedResponse:
        said = {} if self.version is None else {"version": self.version}
        return CannedResponse(200 if self.healthy else 503, json.dumps({"ok": self.healthy, **said}).encode())

    def deploy(self, build: Build) -> None:
        """Go through the states that `then` yields, each after so many seconds; without it, the new version is up."""
        states = self.then(build) if self.then else iter([(0.0, build.git_hash, True)])
        threading.Thread(target=self._go_through, args=(states,), daemon=True).start()

    def _go_through(self, states: Iterator[tuple[float, str | None, bool]]) -> None:
        for after_s, self.version, self.healthy in states:
            time.sleep(after_s)


def rolls_back(build: Build) -> Iterator[tuple[float, str | None, bool]]:
    """Begin the new version, which is not healthy, and go back to the old one without a word."""
    yield 0.2, build.git_hash, False
    yield 0.0, "old", True


def never_comes_up(build: Build) -> Iterator[tuple[float, str | None, bool]]:
    """Stop the old version, and start none that is healthy."""
    yield 0.0, build.git_hash, False


def flaps(build: Build) -> Iterator[tuple[float, str | None, bool]]:
    """Answer in turn as the old and the new version, for as long as anybody asks."""
    while True:
        yield 0.1, build.git_hash, True
        yield 0.1, "old", True


def tells_no_version(_build: Build) -> Iterator[tuple[float, str | None, bool]]:
    """Be healthy, and tell no version."""
    yield 0.0, None, True


@dataclass
class CapRoverServer:
    """The running server; `before_answer` of a test goes before its own checks, such as `busy_for`."""

    app: str = "app"
    token: str | None = "caprover-app-token-0123456789"  # None: the app has no token enabled
    webhook_token: str = "caprover-webhook-token-0123456789"
    branch: str = "main"
    busy_for: int = 0  # further requests that meet the lock
    live: LiveVersion | None = None
    builds: list[Build] = field(default_factory=list)
    before_answer: Callable[[ReceivedRequest], CannedResponse | None] = lambda _asked: None
    server: RecordingServer = field(default_factory=RecordingServer)

    @property
    def url(self) -> str:
        return self.server.url()

    @property
    def webhook_url(self) -> str:
        path = "/api/v2/user/apps/webhooks/triggerbuild"
        return self.server.url(f"{path}?namespace=captain&token={self.webhook_token}")

    @property
    def requests(self) -> list[ReceivedRequest]:
        return self.server.requests

    def build(self, build: Build) -> None:
        self.builds.append(build)
        if self.live is not None:
            self.live.deploy(build)


@contextmanager
def caprover_server(**settings: Any) -> Iterator[CapRoverServer]:
    """Serve while the block runs; `settings` are fields of `CapRoverServer`."""
    caprover = CapRoverServer(**settings)
    with recording_server(lambda asked: _answer(caprover, asked)) as caprover.server:
        yield caprover


@contextmanager
def live_version(**settings: Any) -> Iterator[LiveVersion]:
    """Serve the health of an app while the block runs; `settings` are fields of `LiveVersion`."""
    live = LiveVersion(**settings)
    with recording_server(live.answering) as live.listener:
        yield live


def _answer(caprover: CapRoverServer, asked: ReceivedRequest) -> CannedResponse:
    refused = caprover.before_answer(asked) or _unusual(asked)
    if refused is not None:
        return refused
    upload = f"/api/v2/user/apps/appData/{caprover.app}"
    is_upload = asked.method == "POST" and asked.path.rstrip("/") == upload
    is_webhook = asked.path == "/api/v2/user/apps/webhooks/triggerbuild"
    with_token = caprover.token is not None and asked.header("x-captain-app-token") == caprover.token
    for_webhook = asked.query.get("token") == caprover.webhook_token and asked.query.get("namespace") == "captain"
    if not (is_upload and with_token) and not (is_webhook and for_webhook):
        return answer(NOT_AUTHORIZED, "The request is not authorized.")
    if caprover.busy_for:
        caprover.busy_for -= 1
        return BUSY
    return _upload(caprover, asked) if is_upload else _webhook(caprover, asked)


def _unusual(asked: ReceivedRequest) -> CannedResponse | None:
    kind = (asked.header("Content-Type") or "").partition(";")[0]
    if kind in ("application/json", "application/x-www-form-urlencoded") and len(asked.body) > BODY_LIMIT:
        return CannedResponse(500, b"Internal Server Error")  # the parser's error, which is none of CapRover's
    if asked.path.startswith("/api/v2/"):
        return None
    if asked.path.startswith("/api/"):
        return answer(GENERIC, "This captain instance only accepts API v2")
    return CannedResponse(404, b"Not Found")


def _upload(caprover: CapRoverServer, asked: ReceivedRequest) -> CannedResponse:
    fields: dict[str, bytes] = {}
    files: dict[str, bytes] = {}

    def on_field(one: Field) -> None:
        fields[(one.field_name or b"").decode()] = one.value or b""

    def on_file(one: File) -> None:
        one.file_object.seek(0)
        files[(one.field_name or b"").decode()] = one.file_object.read()
        one.close()

    headers = {name: (asked.header(name) or "").encode() for name in ("Content-Type", "Content-Length")}
    parse_form(headers, io.BytesIO(asked.body), on_field, on_file)
    tar, content = files.get("sourceFile"), fields.get("captainDefinitionContent")
    if (tar is None) == (not content):
        text = "Either uploadedTarPathSource or captainDefinitionContent should be provided, but not both."
        return answer(ILLEGAL_OPERATION, text)
    caprover.build(Build(fields.get("gitHash", b"").decode(), tar))
    if asked.query.get("detached"):
        return answer(OK_STARTED, "Deploy is started")
    return answer(OK, "Deploy is done")


def _webhook(caprover: CapRoverServer, asked: ReceivedRequest) -> CannedResponse:
    """Answer before the decision: another branch is not built, nor a tag, which loses its first letter."""
    if asked.header("X-GitHub-Event") == "push":
        form = parse_qs(asked.body.decode()).get("payload") if b"payload=" in asked.body[:8] else None
        payload = json.loads(form[0]) if form else asked.json
        if payload["ref"][11:] != caprover.branch:
            return answer(OK, "Build webhook has triggered")
    caprover.build(Build("", None, caprover.branch))
    return answer(OK, "Build webhook has triggered")
