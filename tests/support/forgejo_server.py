"""Forgejo's routes for one repository, in front of real git: archives, commit statuses, tags, and its webhook.

Answers are those of Gitea's sources, which Forgejo shares: `routers/api/v1/repo/{file,status,tag}.go`,
`services/repository/archiver/archiver.go` (`git archive --prefix=NAME/`), `modules/structs/{status,hook}.go`,
`services/webhook/deliver.go` (headers, signature) and `services/repository/push.go` (what a pushed tag is).
"""

import gzip
import hashlib
import hmac
import http.client
import io
import json
import os
import subprocess
import tarfile
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from support.recording_server import CannedResponse, ReceivedRequest, RecordingServer, recording_server

NO_COMMIT: Final = "0" * 40
STATES: Final = ("pending", "success", "error", "failure", "warning")
LOGIN_PAGE: Final = CannedResponse(
    200, b"<!DOCTYPE html><html><title>Sign in</title></html>", {"Content-Type": "text/html"}
)
_IDENTITY: Final = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "Ana"), ("EMAIL", "ana@example.com"), ("DATE", "2026-11-30T12:00:00Z"))
    },
}


@dataclass
class Repository:
    """A bare repository, and the tree of its last commit in a directory beside it."""

    git_dir: Path
    tree: Path

    @classmethod
    def create(cls, directory: Path) -> "Repository":
        repository = cls(directory / "app.git", directory / "tree")
        repository.tree.mkdir(parents=True)
        repository.git("init", "--quiet", "--bare", "--initial-branch=main", os.fspath(repository.git_dir))
        return repository

    def git(self, *words: str, said: bytes = b"") -> bytes:
        """Run git in the repository; return its output."""
        where = [] if words[0] == "init" else [f"--git-dir={self.git_dir}", f"--work-tree={self.tree}"]
        environ = {"PATH": os.environ["PATH"], "HOME": os.fspath(self.tree), **_IDENTITY}
        done = subprocess.run(["git", *where, *words], input=said, env=environ, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit(self, files: Mapping[str, str | bytes | None] | None = None, *, branch: str = "main") -> str:
        """Write `files` to the tree (None: remove one), commit all of it to `branch`, and return the id of the commit.

        A name that ends in `*` is of an executable file, and one with ` -> ` is of a symbolic link.
        """
        for name, text in (files or {}).items():
            self._write(name, text)
        self.git("add", "--all", "--force", ".")
        written = self.git("write-tree").decode().strip()
        parent = self.head(branch)
        words = ("-p", parent) if parent else ()
        made = self.git("commit-tree", written, *words, "-m", f"change {len(files or {})} files").decode().strip()
        self.git("update-ref", f"refs/heads/{branch}", made)
        return made

    def _write(self, name: str, text: str | bytes | None) -> None:
        name, _, target = name.partition(" -> ")
        path = Path(os.fsdecode(os.fsencode(self.tree / name.removesuffix("*"))))
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None and not target:
            path.unlink()
        elif target:
            path.symlink_to(target)
        else:
            path.write_bytes(text.encode() if isinstance(text, str) else text or b"")
            path.chmod(0o755 if name.endswith("*") else 0o644)

    def head(self, branch: str = "main") -> str:
        """Return the commit of `branch`, empty where there is none."""
        listed = self.git("for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}")
        return listed.decode().strip()

    def tag(self, name: str, commit: str, *, annotated: bool = True) -> str:
        """Tag `commit`; return the id that a push of the tag reports: of the tag itself where it is annotated."""
        self.git("tag", *(("--annotate", "--message", name) if annotated else ()), name, commit)
        return self.git("rev-parse", f"refs/tags/{name}").decode().strip()

    def commit_of(self, name: str) -> str | None:
        """Return the commit that `name` leads to, None where there is none."""
        try:
            return self.git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").decode().strip()
        except AssertionError:
            return None

    def archive(self, name: str, prefix: str = "app/") -> bytes:
        """Return what `git archive` makes of `name`, which has the id of its commit in a header."""
        return self.git("archive", "--format=tar.gz", f"--prefix={prefix}", name)

    def files_of(self, commit: str) -> dict[bytes, tuple[str, bytes]]:
        """Return mode and contents of each file of `commit`, as git has them."""
        found = {}
        for line in self.git("ls-tree", "-r", "-z", commit).split(b"\0"):
            if line:
                facts, _, path = line.partition(b"\t")
                mode, kind, name = facts.decode().split()
                found[path] = (mode, self.git("cat-file", "blob", name) if kind == "blob" else b"")
        return found


@dataclass
class ForgejoServer:
    """The running server: `archive` or `routes` set by a test replace an answer of its own."""

    repository: Repository
    name: str = "ana/app"
    token: str = "forgejo-token-0123456789"
    private: bool = True
    may_push: bool = True
    scopes: frozenset[str] = frozenset({"read:repository", "write:repository"})
    prefix: str = "app/"  # empty where PREFIX_ARCHIVE_FILES is false
    archive: CannedResponse | bytes | None = None
    storage: RecordingServer | None = None  # to which archives are redirected, as with SERVE_DIRECT
    statuses: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    before_answer: Callable[[ReceivedRequest], CannedResponse | None] = lambda _asked: None
    server: RecordingServer = field(default_factory=RecordingServer)

    @property
    def url(self) -> str:
        return self.server.url()

    @property
    def requests(self) -> list[ReceivedRequest]:
        return self.server.requests

    def set_status(self, commit: str, context: str, state: str, description: str = "") -> None:
        """Report a state of another CI."""
        assert state in STATES
        known = {"id": len(self.statuses[commit]) + 1, "status": state, "context": context, "description": description}
        self.statuses[commit].append(known)

    def latest(self, commit: str) -> dict[str, dict[str, Any]]:
        """Return the latest status of each context of `commit`."""
        return {one["context"]: one for one in self.statuses[commit]}

    def push_payload(self, ref: str, after: str, before: str = NO_COMMIT) -> dict[str, Any]:
        """Return the payload of a push: of a tag, `after` is the object of the tag, and `head_commit` what it tags."""
        owner, _, name = self.name.partition("/")
        head = None if after == NO_COMMIT else self.repository.commit_of(after)
        person = {"id": 1, "login": owner, "username": owner, "full_name": "", "email": f"{owner}@example.com"}
        about = head and {"id": head, "message": "change\n", "url": f"{self.url}/{self.name}/commit/{head}"}
        return {
            "ref": ref,
            "before": before,
            "after": after,
            "compare_url": f"{self.url}/{self.name}/compare/{before}...{after}",
            "commits": [about] if about and ref.startswith("refs/heads/") else [],
            "total_commits": 1,
            "head_commit": about,
            "repository": {
                "id": 1,
                "owner": person,
                "name": name,
                "full_name": self.name,
                "private": self.private,
                "html_url": f"{self.url}/{self.name}",
                "clone_url": f"{self.url}/{self.name}.git",
                "default_branch": "main",
            },
            "pusher": person,
            "sender": person,
        }


def webhook_headers(body: bytes, secret: str, *, event: str = "push", delivery: str | None = None) -> dict[str, str]:
    """Return the headers of a webhook; without a secret the signatures are empty, not absent."""
    delivery = delivery or str(uuid.uuid4())
    sha1, sha256 = (
        hmac.new(secret.encode(), body, algorithm).hexdigest() if secret else "" for algorithm in ("sha1", "sha256")
    )
    families = {
        f"X-{family}-{what}": value
        for family in ("Forgejo", "Gitea", "Gogs")
        for what, value in (("Delivery", delivery), ("Event", event), ("Event-Type", event), ("Signature", sha256))
    }
    github = {"X-GitHub-Delivery": delivery, "X-GitHub-Event": event, "X-GitHub-Event-Type": event}
    signatures = {"X-Hub-Signature": f"sha1={sha1}", "X-Hub-Signature-256": f"sha256={sha256}"}
    return {"Content-Type": "application/json", **families, **github, **signatures}


def send_webhook(
    url: str,
    payload: object,
    secret: str,
    *,
    event: str = "push",
    delivery: str | None = None,
    as_form: bool = False,
    headers: Mapping[str, str | None] | None = None,
    timeout_s: float = 5,
) -> tuple[int, bytes]:
    """Send a webhook as Forgejo does; return status and body of the answer.

    `payload` is bytes, or JSON. As a form its field `payload` is signed, not the body. `headers` replace or remove
    (None) some.
    """
    signed = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    sent: dict[str, str | None] = {**webhook_headers(signed, secret, event=event, delivery=delivery)}
    body = signed
    if as_form:
        body = urlencode({"payload": signed.decode()}).encode()
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    sent |= headers or {}
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout_s)
    try:
        kept = {name: value for name, value in sent.items() if value is not None}
        connection.request("POST", f"{parts.path}?{parts.query}".rstrip("?"), body, kept)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def hostile_archive(members: Iterable[tuple[tarfile.TarInfo, bytes]], commit: str | None = None) -> bytes:
    """Return a tar.gz of `members`, as git would have written it for `commit`."""
    packed = io.BytesIO()
    headers = {"comment": commit} if commit else {}
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        for member, contents in members:
            member.size = len(contents) if member.isreg() else member.size
            tar.addfile(member, io.BytesIO(contents))
    return packed.getvalue()


def archive_bomb(unpacked_bytes: int, commit: str) -> bytes:
    """Return an archive of one file of so many zeros, which is a thousandth as long."""
    header = tarfile.TarInfo("app/zeros")
    header.size = unpacked_bytes
    start = gzip.decompress(hostile_archive([], commit))[: 2 * tarfile.BLOCKSIZE]
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as stream:
        stream.write(start + header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(unpacked_bytes >> 20):
            stream.write(bytes(1 << 20))
        stream.write(bytes(tarfile.RECORDSIZE))
    return packed.getvalue()


@contextmanager
def forgejo_server(directory: Path, **settings: Any) -> Iterator[ForgejoServer]:
    """Serve a new repository below `directory` while the block runs; `settings` are fields of `ForgejoServer`."""
    forgejo = ForgejoServer(Repository.create(directory), **settings)
    with recording_server(lambda asked: _answer(forgejo, asked)) as forgejo.server:
        yield forgejo


def _answer(forgejo: ForgejoServer, asked: ReceivedRequest) -> CannedResponse:  # noqa: PLR0911 - one for each route
    base = f"/api/v1/repos/{forgejo.name}/"
    refused = forgejo.before_answer(asked) or _refusal(forgejo, asked, base)
    if refused is not None:
        return refused
    match asked.method, f"{asked.path}/".removeprefix(base).removesuffix("/").split("/"):
        case "GET", [""]:
            return _json(200, {"permissions": {"admin": False, "push": forgejo.may_push, "pull": True}})
        case "GET", ["archive", file] if file.endswith(".tar.gz"):
            return _archive(forgejo, file.removesuffix(".tar.gz"))
        case "GET", ["git", "tags", name]:
            return _annotated_tag(forgejo, name)
        case "GET", ["commits", commit, "status"]:
            return _combined(forgejo, commit, asked.query)
        case "POST", ["statuses", commit]:
            return _new_status(forgejo, commit, asked)
    return _error(404, "The target couldn't be found.")


def _refusal(forgejo: ForgejoServer, asked: ReceivedRequest, base: str) -> CannedResponse | None:
    token = asked.header("Authorization")
    needed = "write:repository" if asked.method == "POST" else "read:repository"
    if token is None and asked.method == "POST":
        return _error(401, "token is required")
    if token is not None and not hmac.compare_digest(token, f"token {forgejo.token}"):
        return _error(401, "user does not exist [uid: 0, name: ]")
    if token is not None and needed not in forgejo.scopes:
        return _error(403, f"token does not have at least one of required scope(s): [{needed}]")
    if not f"{asked.path}/".startswith(base) or (forgejo.private and token is None):
        return _error(404, "The target couldn't be found.")
    return None


def _archive(forgejo: ForgejoServer, name: str) -> CannedResponse:
    if isinstance(forgejo.archive, CannedResponse):
        return forgejo.archive
    if forgejo.repository.commit_of(name) is None:
        return _error(404, f"unrecognized repository reference: {name}")
    packed = forgejo.archive or forgejo.repository.archive(name, forgejo.prefix)
    if forgejo.storage is not None:
        forgejo.storage.answering = lambda _asked: CannedResponse(200, packed)
        return CannedResponse(302, b"", {"Location": forgejo.storage.url("/archives/1.tar.gz?signature=s3")})
    digest = hashlib.sha256(packed).hexdigest()
    return CannedResponse(200, packed, {"Content-Type": "application/octet-stream", "ETag": f'"{digest}"'})


def _annotated_tag(forgejo: ForgejoServer, name: str) -> CannedResponse:
    git = forgejo.repository.git
    try:
        kind = git("cat-file", "-t", name).decode().strip()
    except AssertionError:
        kind = ""
    if kind != "tag":
        return _error(404, "The target couldn't be found.")
    lines = dict(line.split(" ", 1) for line in git("cat-file", "tag", name).decode().partition("\n\n")[0].splitlines())
    about = {"type": lines["type"], "sha": lines["object"], "url": ""}
    return _json(200, {"tag": lines["tag"], "sha": name, "url": "", "message": "", "object": about})


def _combined(forgejo: ForgejoServer, name: str, query: Mapping[str, str]) -> CannedResponse:
    commit = forgejo.repository.commit_of(name)
    if commit is None:
        return _error(404, "The target couldn't be found.")
    latest = sorted(forgejo.latest(commit).values(), key=lambda one: -int(one["id"]))
    if not latest:
        return CannedResponse(200, b"")  # nothing at all, which is no JSON
    order = ("error", "failure", "warning", "pending", "success")
    limit = min(int(query.get("limit", 30)), 50)
    first = (int(query.get("page", 1)) - 1) * limit
    page = latest[first : first + limit]
    state = min((one["status"] for one in page), key=order.index, default="pending")
    return _json(200, {"state": state, "sha": commit, "total_count": len(latest), "statuses": page})


def _new_status(forgejo: ForgejoServer, commit: str, asked: ReceivedRequest) -> CannedResponse:
    if forgejo.repository.commit_of(commit) != commit:
        return _error(404, f"object does not exist [id: {commit}, rel_path: ]")
    said = asked.json
    if said.get("state") not in STATES:
        return _error(500, f"invalid state {said.get('state')!r}")
    forgejo.set_status(commit, said.get("context") or "default", said["state"], said.get("description", ""))
    forgejo.statuses[commit][-1]["target_url"] = said.get("target_url", "")
    return _json(201, forgejo.statuses[commit][-1])


def _json(status: int, value: object) -> CannedResponse:
    return CannedResponse(status, json.dumps(value).encode(), {"Content-Type": "application/json;charset=utf-8"})


def _error(status: int, message: str) -> CannedResponse:
    return _json(status, {"message": message, "url": "https://forgejo.example.com/api/swagger"})
