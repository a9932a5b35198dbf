"""The checks of `backupd gate --check`: whether each part that a gate works with is there; nothing is changed."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote

from backupd.config import Config
from backupd.errors import CheckFailed, RemoteRunUnknown
from backupd.formatting import one_line
from backupd.gate.app_tests import require_rights
from backupd.gate.live_app import version_now
from backupd.gate.model import AppTests, CapRover, Forgejo, Gate, LiveApp, SidecarAccess
from backupd.gate.settings import gates_of
from backupd.gate.steps import steps_of
from backupd.remote.sidecar import Sidecar, sends_token_in_clear
from backupd.system.directory import Directory
from backupd.system.http import HttpRequest, HttpResponse, RequestFailed, send_request
from backupd.tasks.doctor import Finding, run_check

_ANSWER_S: Final = 10.0
_NO_RUN: Final = "none"
_PROBE: Final = ".check"
_READABLE: Final = 'for file; do [ ! -r "$file" ] || echo "$file"; done'


def check_gates(config: Config) -> Iterator[Finding]:
    """Yield a finding for each part of each gate. Raises ConfigError where no gate is configured."""
    gates = gates_of(config)
    yield run_check("gate directory", partial(_directory, config.gate_dir))
    for gate in gates:
        yield from _check(gate, config.secret_files)


def _check(gate: Gate, secret_files: tuple[str, ...]) -> Iterator[Finding]:
    yield _steps(gate)
    yield from _tokens_in_clear(gate)
    if gate.sidecar is not None:
        yield run_check(f"{gate.name}: sidecar", partial(_sidecar, gate.sidecar))
    if gate.forgejo is not None:
        yield run_check(f"{gate.name}: repository", partial(_repository, gate.forgejo))
    if gate.tests is not None:
        yield run_check(f"{gate.name}: tests", partial(_tests, gate.tests, secret_files))
        yield from _command(gate.name, gate.tests)
    if isinstance(gate.target, CapRover):
        yield run_check(f"{gate.name}: CapRover", partial(_caprover, gate.target))
    if gate.app is not None:
        yield _app(gate.name, gate.app)


def _steps(gate: Gate) -> Finding:
    """Say what a push goes through; one that is delivered unseen is worth a warning."""
    steps = steps_of(gate)
    detail = f"{', '.join(gate.refs)} of {gate.repository}: {', '.join(steps)}"
    missing = [
        text
        for text, is_set in (
            ("no backup is taken before (sidecar_url)", "backup" in steps),
            ("nothing is tested (test_command, wait_for_status)", "tests" in steps or "status" in steps),
            ("it is not checked whether the app comes up (health_url)", "health" in steps),
            ("CapRover builds the branch as it is then, not the tested commit", isinstance(gate.target, CapRover)),
        )
        if not is_set
    ]
    if missing:
        return Finding(f"{gate.name}: steps", ok=True, detail=detail, hint="; ".join(missing), warning=True)
    return Finding(f"{gate.name}: steps", ok=True, detail=detail)


def _tokens_in_clear(gate: Gate) -> Iterator[Finding]:
    """Warn of each server to which a token travels so that others may read it."""
    for key, url in (
        ("sidecar_url", gate.sidecar.url if gate.sidecar else ""),
        ("forgejo_url", gate.forgejo.url if gate.forgejo and gate.forgejo.token else ""),
        ("caprover_url", gate.target.url if isinstance(gate.target, CapRover) else ""),
    ):
        if sends_token_in_clear(url):
            detail, hint = "the token travels unencrypted over http", "use https, or a private network"
            yield Finding(f"{gate.name}: {key}", ok=True, detail=detail, hint=hint, warning=True)


def _directory(path: Path) -> str:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Directory.open(path) as directory:
        directory.replace(_PROBE, b"", temporary=f"{_PROBE}.new")
        directory.unlink(_PROBE)
    return f"{path} can be written to"


def _sidecar(access: SidecarAccess) -> str:
    """Ask for a run that does not exist, which takes the token for backups, and no backup."""
    try:
        Sidecar(access.url, access.backup_token, timeout_s=0).wait_for(_NO_RUN)
    except RemoteRunUnknown as error:
        if error.hint:  # it is the sidecar that knows of no such run
            return "answers, and accepts the token for backups"
    raise CheckFailed("it takes no requests for backups", "set http.actions = true there, with http.backup_token")


def _repository(forgejo: Forgejo) -> str:
    headers = {"Accept": "application/json"} | ({"Authorization": f"token {forgejo.token}"} if forgejo.token else {})
    url = f"{forgejo.url}/api/v1/repos/{quote(forgejo.repository)}"
    response = _answer(HttpRequest(url, headers=headers), "forgejo_url")
    if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise CheckFailed(f"the token is refused: {one_line(response.words())}", "make a new token: write:repository")
    if response.status == HTTPStatus.NOT_FOUND:
        what = f"{forgejo.repository} is not there, or the token may not read it"
        raise CheckFailed(what, "check repository, forgejo_url, and the access of the token's user to the repository")
    permissions = _permissions(response)
    if forgejo.token is None:
        return "can be read; without forgejo_token the result is not shown beside the commit"
    if not permissions.get("push"):
        what = "the token may read the repository, and may not write the status of commits"
        raise CheckFailed(what, "give the token's user write access to the repository, and the token write:repository")
    return "can be read, and the status of commits written"


def _permissions(response: HttpResponse) -> dict[str, object]:
    try:
        found = json.loads(response.body)["permissions"]
    except (ValueError, LookupError, TypeError, RecursionError):
        found = None
    if not response.ok or not isinstance(found, dict):
        raise CheckFailed(f"it is not Forgejo or Gitea: it {one_line(response.words())}", "check forgejo_url")
    return found


def _tests(tests: AppTests, files: tuple[str, ...]) -> str:
    """Become the user of the tests, in a process that ends at once and must not read the `files` of secrets."""
    require_rights(tests.user)
    try:
        readable = subprocess.run(  # noqa: S603 - a command of this module
            ["/bin/sh", "-c", _READABLE, "sh", *files],
            user=tests.user,
            group=tests.user,
            extra_groups=(),
            env={},
            check=True,
            capture_output=True,
        ).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        raise CheckFailed(
            f"a process cannot become user {tests.user}: {error}",
            "let the container have the capabilities SETUID, SETGID, CHOWN and KILL; or set another test_user",
        ) from None
    if readable:
        raise CheckFailed(
            f"the tests of every commit can read {one_line(readable.rstrip())}",
            "give files with secrets mode 0400; for a secret of Docker Swarm: mode: 0400 where the service names it",
        )
    return f"can run as user {tests.user}, who can read no file of a secret"


def _command(gate: str, tests: AppTests) -> Iterator[Finding]:
    program = tests.command[0]
    if os.sep not in program and shutil.which(program) is None:
        detail, hint = f"{one_line(program)} is not in this image", "build an image of the gate that has it"
        yield Finding(f"{gate}: test_command", ok=False, detail=detail, hint=f"{hint}: docs/deploy-guard.md")


def _caprover(target: CapRover) -> str:
    """Ask for nothing but an answer: CapRover tells whether a token is right only to a deploy."""
    response = _answer(HttpRequest(f"{target.url}/api/v2/login", headers={"x-namespace": "captain"}), "caprover_url")
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise CheckFailed(f"CapRover {one_line(response.words())}", "check caprover_url, and CapRover itself")
    return "answers; whether the token is right shows the first deploy"


def _app(gate: str, app: LiveApp) -> Finding:
    name = f"{gate}: app"
    version = version_now(app)
    if version is None:
        hint = "it may not be deployed yet; else check health_url and version_field"
        return Finding(name, ok=True, detail="it reports no version now", hint=hint, warning=True)
    return Finding(name, ok=True, detail=f"it reports {one_line(version)}")


def _answer(request: HttpRequest, key: str) -> HttpResponse:
    try:
        return send_request(request, timeout_s=_ANSWER_S)
    except RequestFailed as error:
        raise CheckFailed(f"no answer: {error}", f"check {key}, and that it can be reached from here") from None
