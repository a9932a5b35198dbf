"""The tree of a commit, the verdict of another CI and the gate's own status, from a server in front of real git."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupd.errors import Cancelled, GateStepFailed
from backupd.gate import forgejo as module
from backupd.gate.forgejo import await_status, commit_of, fetch_commit, set_status
from backupd.gate.model import CommitStatus, Forgejo, Push
from support.caprover_server import Build
from support.forgejo_server import LOGIN_PAGE, NO_COMMIT, ForgejoServer, forgejo_server
from support.recording_server import HANG, HANG_UP, CannedResponse, recording_server

FILES = {"captain-definition": '{"schemaVersion": 2}', "Dockerfile": "FROM scratch\n", "src/app.py": b"\0\xff\n"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ForgejoServer]:
    with forgejo_server(tmp_path / "forgejo") as running:
        yield running


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "wait_random_exponential", lambda **_limits: lambda _state: 0.01)


def client(server: ForgejoServer, **other: str) -> Forgejo:
    return Forgejo(**{"url": server.url, "repository": server.name, "token": server.token, **other})


def push(commit: str, ref: str = "refs/heads/main") -> Push:
    return Push("1", "ana/app", ref, commit, NO_COMMIT, "ana")


def never() -> bool:
    return False


def fetched(server: ForgejoServer, pushed: Push, to: Path) -> tuple[str, dict[bytes, tuple[str, bytes]]]:
    said = fetch_commit(client(server), pushed, to)
    return said, Build("", to.read_bytes()).files()


def test_commit_is_fetched_byte_for_byte_without_prefix(server: ForgejoServer, tmp_path: Path) -> None:
    long_name = "/".join(["deep" * 20] * 4) + "/file.txt"
    awkward = {"run.sh*": "#!/bin/sh\n", "caf\udce9.txt": "latin", "ñandú": "x", "a\nb": "", long_name: "long"}
    links = {"current -> src/app.py": None, "src/up -> ../Dockerfile": None, "src/nowhere -> ./missing": None}
    commit = server.repository.commit({**FILES, **awkward, **links})
    said, files = fetched(server, push(commit), tmp_path / "tree.tar")
    assert files == server.repository.files_of(commit)
    assert f"commit {commit[:10]}: 8 files" in said
    assert server.requests[0].headers["Authorization"] == f"token {server.token}"


def test_pushed_commit_and_no_later_one_is_fetched(server: ForgejoServer, tmp_path: Path) -> None:
    first = server.repository.commit(FILES)
    server.repository.commit({"later": "x"})
    _, files = fetched(server, push(first), tmp_path / "tree.tar")
    assert b"later" not in files
    assert files == server.repository.files_of(first)


@pytest.mark.parametrize("annotated", [True, False])
def test_tag_leads_to_its_commit(server: ForgejoServer, tmp_path: Path, annotated: bool) -> None:
    commit = server.repository.commit(FILES)
    pushed = push(server.repository.tag("v1.0", commit, annotated=annotated), "refs/tags/v1.0")
    assert (pushed.commit == commit) is not annotated
    assert commit_of(client(server), pushed) == commit
    _, files = fetched(server, pushed, tmp_path / "tree.tar")
    assert files == server.repository.files_of(commit)


def test_tag_of_tag_is_followed_and_tag_of_file_is_refused(server: ForgejoServer) -> None:
    commit = server.repository.commit(FILES)
    outer = server.repository.tag("v2", server.repository.tag("v1", commit))
    assert commit_of(client(server), push(outer, "refs/tags/v2")) == commit
    of_file = server.repository.tag("vfile", server.repository.git("rev-parse", "HEAD:Dockerfile").decode().strip())
    with pytest.raises(GateStepFailed, match="the server of the repository answered 404"):
        fetch_commit(client(server), push(of_file, "refs/tags/vfile"), server.repository.tree / "tree.tar")


def test_archive_without_prefix_is_whole(server: ForgejoServer, tmp_path: Path) -> None:
    server.prefix = ""
    commit = server.repository.commit({**FILES, "app/main.py": "x"})
    _, files = fetched(server, push(commit), tmp_path / "tree.tar")
    assert files == server.repository.files_of(commit)


def test_redirection_to_object_storage_is_followed_without_token(server: ForgejoServer, tmp_path: Path) -> None:
    commit = server.repository.commit(FILES)
    with recording_server() as storage:
        server.storage = storage
        _, files = fetched(server, push(commit), tmp_path / "tree.tar")
        assert files == server.repository.files_of(commit)
        assert "Authorization" not in storage.requests[0].headers


def test_what_the_tree_lacks_is_told(server: ForgejoServer, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    modules = '[submodule "x"]\n\tpath = libs/x\n\turl = ../x\n'
    notable = {".gitmodules": modules, "logo.png": pointer, ".gitattributes": "tests export-ignore\n", "tests/t.py": ""}
    commit = server.repository.commit({**FILES, **notable})
    said, files = fetched(server, push(commit), tmp_path / "tree.tar")
    assert "without the contents of submodules, which no archive has: libs/x" in said
    assert "with Git LFS pointers in place of contents: logo.png" in said
    assert "export-ignore or export-subst" in said
    assert b"tests/t.py" not in files


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        pytest.param(LOGIN_PAGE, "answered with something else than the archive", "login page", id="login page"),
        pytest.param(CannedResponse(404, b"{}"), "answered 404", "must be able to read it", id="missing"),
        pytest.param(CannedResponse(500, b"{}"), "could not be had", "is up", id="error"),
        pytest.param(CannedResponse(200, b"x" * 9000, cut_after=100), "the connection was cut", "is up", id="cut"),
        pytest.param(HANG_UP, "could not be had", "is up", id="hang up"),
    ],
)
def test_answer_without_archive_is_told(
    server: ForgejoServer, tmp_path: Path, answer: CannedResponse, message: str, hint: str
) -> None:
    commit = server.repository.commit(FILES)
    server.archive = answer
    with pytest.raises(GateStepFailed, match=message) as failed:
        fetch_commit(client(server), push(commit), tmp_path / "tree.tar")
    assert hint in failed.value.hint
    assert list(tmp_path.glob("*.tar")) == []


def test_archive_that_does_not_come_is_given_up(
    server: ForgejoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FETCH_S", 0.2)
    commit = server.repository.commit(FILES)
    server.archive = HANG
    with pytest.raises(GateStepFailed, match=r"could not be had .*: (no answer within|timed out)"):
        fetch_commit(client(server), push(commit), tmp_path / "tree.tar")


def test_error_that_passes_is_not_told(server: ForgejoServer, tmp_path: Path) -> None:
    commit = server.repository.commit(FILES)
    answers = [HANG_UP, CannedResponse(503), CannedResponse(200, b"x" * 9000, cut_after=100)]
    server.before_answer = lambda _asked: answers.pop() if answers else None
    _, files = fetched(server, push(commit), tmp_path / "tree.tar")
    assert files == server.repository.files_of(commit)
    assert len(server.requests) == 4


def test_archive_of_another_commit_is_refused(server: ForgejoServer, tmp_path: Path) -> None:
    first = server.repository.commit(FILES)
    second = server.repository.commit({"later": "x"})
    server.archive = server.repository.archive(second)
    with pytest.raises(GateStepFailed, match=f"archive of another commit: {second}, not {first}"):
        fetch_commit(client(server), push(first), tmp_path / "tree.tar")
    assert list(tmp_path.glob("*.tar")) == []


@pytest.mark.parametrize("token", ["wrong-token-0123456789", None])
def test_wrong_or_missing_token_is_told_and_not_shown(server: ForgejoServer, tmp_path: Path, token: str | None) -> None:
    commit = server.repository.commit(FILES)
    asking = Forgejo(server.url, server.name, token)
    with pytest.raises(GateStepFailed, match=r"answered 40[14]") as failed:
        fetch_commit(asking, push(commit), tmp_path / "tree.tar")
    assert "forgejo_token" in failed.value.hint
    assert "0123456789" not in f"{failed.value} {failed.value.hint} {asking!r}"


def test_public_repository_needs_no_token(server: ForgejoServer, tmp_path: Path) -> None:
    server.private = False
    commit = server.repository.commit(FILES)
    assert fetch_commit(Forgejo(server.url, server.name), push(commit), tmp_path / "tree.tar")


@pytest.mark.parametrize("commit", ["main", "", "../../../user", "0" * 39, "g" * 40, "\x1b[2J"])
def test_nothing_but_an_id_of_a_commit_is_asked_for(server: ForgejoServer, tmp_path: Path, commit: str) -> None:
    with pytest.raises(GateStepFailed, match="is not the id of a commit") as failed:
        fetch_commit(client(server), push(commit), tmp_path / "tree.tar")
    assert str(failed.value).isprintable()
    assert server.requests == []


def test_download_is_abandoned_when_cancelled(server: ForgejoServer, tmp_path: Path) -> None:
    commit = server.repository.commit(FILES)
    server.archive = HANG
    began = time.monotonic()
    with pytest.raises(Cancelled):
        fetch_commit(client(server), push(commit), tmp_path / "tree.tar", lambda: bool(server.requests))
    assert time.monotonic() - began < 30


def test_verdict_is_awaited_until_every_context_passed(server: ForgejoServer) -> None:
    commit = server.repository.commit(FILES)
    steps = iter(
        [
            lambda: None,
            lambda: server.set_status(commit, "ci / build", "pending"),
            lambda: server.set_status(commit, "ci / build", "success"),
            lambda: server.set_status(commit, "ci / test", "pending"),
            lambda: server.set_status(commit, "ci / test", "success"),
        ]
    )
    server.before_answer = lambda _asked: next(steps, lambda: None)()
    said = await_status(client(server), CommitStatus(timeout_s=60), commit, never, poll_s=0)
    assert said == "passed: ci / test, ci / build"
    assert len(server.requests) == 6


@pytest.mark.parametrize("state", ["failure", "error", "warning"])
def test_failed_context_stops_at_once(server: ForgejoServer, state: str) -> None:
    commit = server.repository.commit(FILES)
    server.set_status(commit, "ci / slow", "pending")
    server.set_status(commit, "ci / test", state, "3 of 9 failed\x1b[2J")
    with pytest.raises(GateStepFailed, match=rf"ci / test is {state} \(3 of 9 failed") as failed:
        await_status(client(server), CommitStatus(timeout_s=60), commit, never)
    assert str(failed.value).isprintable()


def test_only_named_contexts_count_and_each_must_be_reported(server: ForgejoServer) -> None:
    commit = server.repository.commit(FILES)
    server.set_status(commit, "lint / style", "failure")
    server.set_status(commit, "ci / build", "success")
    asking = client(server)
    assert await_status(asking, CommitStatus(("ci / *",), 60), commit, never, poll_s=0).endswith("ci / build")
    with pytest.raises(GateStepFailed, match=r"within 0 s: e2e/\* is not reported"):
        await_status(asking, CommitStatus(("ci / *", "e2e/*"), 0), commit, never, poll_s=0)


def test_context_with_brackets_is_named_as_it_is(server: ForgejoServer) -> None:
    commit = server.repository.commit(FILES)
    server.set_status(commit, "ci / test [3.11]", "success")
    assert await_status(client(server), CommitStatus(("ci / test [3.11]",), 60), commit, never, poll_s=0)


def test_own_status_is_not_taken_for_a_verdict(server: ForgejoServer) -> None:
    commit = server.repository.commit(FILES)
    set_status(client(server), commit, "success", "deployed")
    with pytest.raises(GateStepFailed, match=r"\* is not reported"):
        await_status(client(server), CommitStatus(timeout_s=0), commit, never, poll_s=0)


def test_rerun_that_passed_counts_and_all_pages_are_read(server: ForgejoServer) -> None:
    commit = server.repository.commit(FILES)
    server.set_status(commit, "ci / 0", "failure")
    for number in range(70):
        server.set_status(commit, f"ci / {number}", "success")
    assert "and 65 more" in await_status(client(server), CommitStatus(timeout_s=60), commit, never, poll_s=0)
    server.set_status(commit, "ci / 0", "failure")
    for number in range(1, 70):
        server.set_status(commit, f"ci / {number}", "success")
    with pytest.raises(GateStepFailed, match="ci / 0 is failure"):
        await_status(client(server), CommitStatus(timeout_s=60), commit, never, poll_s=0)


@pytest.mark.parametrize("answer", [LOGIN_PAGE, CannedResponse(200, b"[]"), CannedResponse(200, b'{"statuses": 5}')])
def test_verdict_in_no_known_form_is_none(server: ForgejoServer, answer: CannedResponse) -> None:
    commit = server.repository.commit(FILES)
    server.before_answer = lambda _asked: answer
    with pytest.raises(GateStepFailed, match=r"something else than JSON|is not reported"):
        await_status(client(server), CommitStatus(timeout_s=0), commit, never, poll_s=0)


def test_server_that_is_down_for_a_while_delays_the_verdict(server: ForgejoServer) -> None:
    commit = server.repository.commit(FILES)
    server.set_status(commit, "ci", "success")
    answers = [HANG_UP, CannedResponse(502, b"bad gateway")]
    server.before_answer = lambda _asked: answers.pop() if answers else None
    assert await_status(client(server), CommitStatus(timeout_s=60), commit, never, poll_s=0) == "passed: ci"


def test_wait_for_verdict_ends_when_cancelled(server: ForgejoServer) -> None:
    commit = server.repository.commit(FILES)
    began = time.monotonic()
    with pytest.raises(Cancelled):
        await_status(client(server), CommitStatus(timeout_s=600), commit, lambda: bool(server.requests), poll_s=600)
    assert time.monotonic() - began < 30


def test_own_status_is_set(server: ForgejoServer) -> None:
    commit = server.repository.commit(FILES)
    set_status(client(server), commit, "pending", "x" * 1000, "https://gate.example.com/")
    found = server.latest(commit)["backupd"]
    assert (found["status"], found["target_url"]) == ("pending", "https://gate.example.com/")
    assert found["description"] == "x" * 255


def test_token_that_may_only_read_is_told(server: ForgejoServer) -> None:
    commit = server.repository.commit(FILES)
    server.scopes = frozenset({"read:repository"})
    with pytest.raises(GateStepFailed, match="403") as failed:
        set_status(client(server), commit, "success", "deployed")
    assert "write:repository" in failed.value.hint
