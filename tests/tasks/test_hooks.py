"""Hooks around a backup: what they are told, what their ends mean, and that nothing of them stays."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupd.catalog import open_catalog
from backupd.daemon.task_queue import STOP_GRACE_S
from backupd.health import Health, Limit
from backupd.pings import Monitor, Pinger
from backupd.schedule import Planned
from backupd.status.current import StatusScope, due_run
from backupd.status.history import read_history
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor.hooks import check_hooks
from backupd.tasks.freshness import read_health_facts
from backupd.tasks.hooks import STOPPING_S
from backupd.tasks.requests import BackupRequest, Hook, Hooks, RetentionRule
from support.command import Backupd, log_lines
from support.daemon import free_port, wait_until
from support.drills import shell
from support.faults import processes_below
from support.page_states import NIGHTLY
from support.recording_server import HANG, HANG_UP, CannedResponse, ReceivedRequest, RecordingServer, recording_server

# Adds what a hook is told to the file $0; $1 is which of the two it is.
NOTE = 'echo "$1|$BACKUPD_SOURCE|$BACKUPD_GENERATION|$BACKUPD_OUTCOME" >>"$0"'
LIMITS = (Limit("backup", "tasks", 86_400.0),)
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
PLANNED = Planned("backup", "tasks", NIGHTLY)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """The file to which hooks add what they are told."""
    return tmp_path / "notes"


@pytest.fixture
def noted(order: BackupRequest, notes: Path) -> BackupRequest:
    """A backup whose two hooks are commands."""
    return with_hooks(order, noting(notes, "before"), noting(notes, "after"))


@pytest.fixture
def app() -> Iterator[RecordingServer]:
    """An app that takes both hooks."""
    with recording_server() as server:
        yield server


def noting(notes: Path, event: str, then: str = "") -> Hook:
    return Hook((*shell(f"{NOTE}; {then}"), str(notes), event))


def with_hooks(order: BackupRequest, before: Hook | None, after: Hook | None, timeout_s: float = 30) -> BackupRequest:
    return replace(order, hooks=Hooks(before, after, timeout_s))


def told(notes: Path) -> list[list[str]]:
    return [line.split("|") for line in notes.read_text().splitlines()]


def called(context: TaskContext) -> list[tuple[str, str]]:
    """Return level and message of each event of a hook."""
    lines = log_lines(context.store.directory)
    return [(one["log.level"], one["message"]) for one in lines if one["event.action"] == "hook.called"]


# --- What they are told ---


def test_commands_get_source_generation_and_outcome(noted: BackupRequest, context: TaskContext, notes: Path) -> None:
    first, second = backup(noted, context), backup(noted, context)
    assert (first.outcome, second.outcome) == ("published", "unchanged")
    before = ["before", "tasks", "", ""]
    assert told(notes) == [
        before,
        ["after", "tasks", first.generation, "published"],
        before,
        ["after", "tasks", first.generation, "unchanged"],
    ]
    assert {"hook before", "hook after"} <= first.stages.keys()
    assert called(context)[:2] == [
        ("INFO", "hooks.before of tasks succeeded"),
        ("INFO", "hooks.after of tasks succeeded"),
    ]


def test_nothing_is_staged_before_and_all_is_published_after(
    order: BackupRequest, context: TaskContext, tmp_path: Path
) -> None:
    look = 'ls "$1"/*.gz "$1"/.backupd/staging >"$0" 2>/dev/null; true'
    seen = {event: tmp_path / event for event in ("before", "after")}
    hooks = [Hook((*shell(look), str(path), str(context.store.directory))) for path in seen.values()]
    report = backup(with_hooks(order, *hooks), context)
    before, after = (path.read_text() for path in seen.values())
    assert ".gz" not in before
    assert f"{report.generation}.sqlite3.gz" in after
    assert "run-" not in before + after


def test_url_gets_same_facts_as_json(order: BackupRequest, context: TaskContext, app: RecordingServer) -> None:
    report = backup(
        with_hooks(order, Hook(url=app.url("/before?key=k3y")), Hook(url=app.url("/after?key=k3y"))), context
    )
    assert report.outcome == "published"
    before, after = app.requests
    assert [(one.method, one.target) for one in app.requests] == [
        ("POST", "/before?key=k3y"),
        ("POST", "/after?key=k3y"),
    ]
    assert {one.header("Content-Type") for one in app.requests} == {"application/json"}
    assert before.json == {"event": "before", "source": "tasks", "generation": "", "outcome": ""}
    facts = {"event": "after", "source": "tasks", "generation": report.generation, "outcome": "published"}
    assert after.json == facts


def test_after_is_told_of_degraded_and_failed_backup(noted: BackupRequest, context: TaskContext, notes: Path) -> None:
    degraded = backup(noted, replace(context, warnings=("the log cannot be written",)))
    noted.path.unlink()
    failed = backup(noted, context)
    assert (degraded.outcome, failed.outcome, failed.error_kind) == ("degraded", "failed", "missing")
    assert told(notes)[1::2] == [
        ["after", "tasks", degraded.generation, "degraded"],
        ["after", "tasks", "", "failed"],
    ]


def test_command_gets_no_setting_and_no_secret_of_backupd(backupd: Backupd, tmp_path: Path) -> None:
    token = "t0ken-of-the-page-7f3a91"
    answer = backupd(
        "backup",
        BACKUPD_HOOKS__BEFORE=f"sh -c 'env >{tmp_path}/environ; pwd >>{tmp_path}/environ; cat >>{tmp_path}/environ'",
        BACKUPD_HTTP__TOKEN=token,
        COPY_OF_THE_TOKEN=token,
        THE_APPS_OWN="kept",
    )
    assert answer.code == 0, answer
    given = (tmp_path / "environ").read_text()
    assert token not in given
    assert "THE_APPS_OWN=kept" in given
    names = {line.partition("=")[0] for line in given.splitlines() if line.startswith("BACKUPD_")}
    assert names == {"BACKUPD_SOURCE", "BACKUPD_GENERATION", "BACKUPD_OUTCOME"}
    assert given.splitlines()[-1] == "/"


# --- A `before` that fails ---


@pytest.mark.parametrize(
    ("before", "error", "hint"),
    [
        (shell("echo first; echo it is stuck >&2; exit 4"), "sh failed (exit code 4): it is stuck", "docs/hooks.md"),
        (shell("printf '\\033[2J'; exit 1"), "(exit code 1): \\x1b[2J", "docs/hooks.md"),
        (shell("kill -SEGV $$"), "killed by signal 11", "docs/hooks.md"),
        (("/no/such/program",), "program cannot be run: No such file or directory", "check hooks.before and PATH"),
        (shell("sleep 3600"), "sh did not end within 1 s", "raise hooks.timeout_s"),
    ],
)
def test_failed_command_fails_backup_before_any_copy_and_after_is_called(
    order: BackupRequest, context: TaskContext, notes: Path, before: tuple[str, ...], error: str, hint: str
) -> None:
    report = backup(with_hooks(order, Hook(before), noting(notes, "after"), 1), context)
    assert (report.outcome, report.exit_code, report.error_kind) == ("failed", 1, "other")
    assert str(report.error).startswith("hooks.before: the command ")
    assert error in str(report.error)
    assert hint in str(report.hint)
    assert "copy" not in report.stages
    assert context.store.list() == ()
    assert told(notes) == [["after", "tasks", "", "failed"]]
    assert called(context)[0][0] == "WARNING"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (CannedResponse(500, b"the queue is stuck"), "answered 500: the queue is stuck"),
        (CannedResponse(302, headers={"Location": "/elsewhere"}), "answered 302"),
        (HANG, "no answer within 1 s|timed out"),
        (HANG_UP, "closed connection"),
    ],
)
def test_failed_request_fails_backup(
    order: BackupRequest, context: TaskContext, notes: Path, answer: CannedResponse, error: str
) -> None:
    with recording_server(answer) as app:
        hook = Hook(url=app.url("/before?key=k3y-of-the-app"))
        report = backup(with_hooks(order, hook, noting(notes, "after"), 1), context)
        app.released.set()
        assert [one.path for one in app.requests] == ["/before"]
    assert (report.outcome, report.error_kind) == ("failed", "other")
    assert re.match(rf"hooks\.before: {app.url('/before')}:? .*({error})", str(report.error))
    assert "k3y" not in (context.store.directory / "backup.log").read_text()
    assert told(notes) == [["after", "tasks", "", "failed"]]


def test_unreachable_app_fails_backup(order: BackupRequest, context: TaskContext) -> None:
    hook = Hook(url=f"http://127.0.0.1:{free_port()}/before")
    assert "Connection refused" in str(backup(with_hooks(order, hook, None), context).error)


# --- Not now ---


def not_now(notes: Path, app: RecordingServer) -> Iterator[Hook]:
    """Yield each kind of `before` that asks to try again later."""
    yield noting(notes, "before", "echo deploying; exit 75")
    for status in (503, 429):
        app.answering = lambda _asked, status=status: CannedResponse(status, b"deploying")
        yield Hook(url=app.url("/before"))


def test_before_that_says_not_now_postpones_backup_quietly(
    order: BackupRequest, context: TaskContext, notes: Path, app: RecordingServer
) -> None:
    assert backup(order, context).outcome == "published"
    scope = StatusScope((PLANNED,), LIMITS, RetentionRule(), {}, context, context.clock())
    for hook in not_now(notes, app):
        report = backup(with_hooks(order, hook, noting(notes, "after")), context)
        assert (report.outcome, report.exit_code, report.error_kind) == ("failed", 75, "postponed")
        assert "asks to try again later" in str(report.error)
        assert "deploying" in str(report.error)
    assert told(notes) == [["before", "tasks", "", ""]]
    assert {line["log.level"] for line in log_lines(context.store.directory)} == {"INFO"}
    history = read_history(scope)
    assert history.status.health.problems == ()
    assert (history.status.tasks[0].failed_at, sum(day.failed for day in history.histories[0].days)) == (None, 0)
    assert history.status.next_runs[0].retry, "the daemon tries again later"


def test_postponed_backup_is_due_again_soon(order: BackupRequest, context: TaskContext, notes: Path) -> None:
    context = replace(context, clock=lambda: NOON)
    assert backup(with_hooks(order, noting(notes, "before", "exit 75"), None), context).exit_code == 75
    with open_catalog(context.catalog_path) as catalog:
        due = due_run(PLANNED, catalog, str, NOON)
    assert (due.retry, due.at) == (True, NOON + timedelta(minutes=2))


def test_earlier_failure_stays_a_problem_while_backups_are_postponed(
    order: BackupRequest, context: TaskContext, notes: Path
) -> None:
    postponed = with_hooks(order, noting(notes, "before", "exit 75"), None)
    backup(postponed, context)
    backup(with_hooks(order, noting(notes, "before", "exit 1"), None), context)
    backup(postponed, context)
    (failure,) = read_health_facts(LIMITS, context).failures
    assert (failure.kind, failure.runs) == ("other", 1)
    assert "hooks.before: the command sh failed" in failure.error
    later = context.clock() + timedelta(days=2)
    kinds = {problem.kind for problem in Health.of(read_health_facts(LIMITS, context), later).problems}
    assert kinds == {"failed", "never"}


def test_postponed_backup_pings_no_failure(
    order: BackupRequest, context: TaskContext, notes: Path, app: RecordingServer
) -> None:
    pinger = Pinger({"backup": Monitor.parse(app.url("/ping/1111"))}, context.log)
    hooked = with_hooks(order, noting(notes, "before", "exit 75"), None)
    assert backup(hooked, replace(context, watch=pinger.watch)).exit_code == 75
    assert [one.path for one in app.wait_for(1)] == ["/ping/1111/start"]


# --- An `after` that fails ---


@pytest.mark.parametrize(
    ("script", "warning"),
    [
        ("echo no route to the app; exit 75", "the command sh failed (exit code 75): no route to the app"),
        ("sleep 3600", "the command sh did not end within 1 s"),
    ],
)
def test_failed_after_degrades_backup_which_stays_published(
    order: BackupRequest, context: TaskContext, script: str, warning: str
) -> None:
    report = backup(with_hooks(order, None, Hook(shell(script)), 1), context)
    assert (report.outcome, report.exit_code, report.warnings) == ("degraded", 3, (f"hooks.after: {warning}",))
    assert [stored.id for stored in context.store.list()] == [report.generation]


def test_after_that_answers_503_degrades_backup(order: BackupRequest, context: TaskContext) -> None:
    with recording_server(CannedResponse(503, b"busy")) as app:
        report = backup(with_hooks(order, None, Hook(url=app.url("/after"))), context)
    assert (report.outcome, report.warnings) == ("degraded", (f"hooks.after: {app.url('/after')} answered 503: busy",))


# --- Processes ---


@pytest.mark.parametrize("then", ["exit 0", "exit 1", "sleep 3600"])
def test_all_processes_of_hook_end_with_it(
    order: BackupRequest, context: TaskContext, tmp_path: Path, then: str
) -> None:
    (tmp_path / "hook").mkdir()
    script = f"cd {tmp_path}/hook; (sleep 3600 & sleep 3600) & echo >begun; {then}"
    report = backup(with_hooks(order, Hook(shell(script)), Hook(shell(script)), 2), context)
    assert report.outcome == ("published" if then == "exit 0" else "failed")
    assert (tmp_path / "hook" / "begun").exists()
    wait_until(lambda: not processes_below(tmp_path), "the end of all processes")


def test_after_ends_before_stopped_run_is_killed() -> None:
    assert STOPPING_S < STOP_GRACE_S


def test_long_output_is_cut_to_one_short_line(order: BackupRequest, context: TaskContext) -> None:
    hook = Hook(shell("head -c 3000000 /dev/zero | tr '\\0' x; exit 1"))
    report = backup(with_hooks(order, hook, None), context)
    assert "xxx" in str(report.error)
    assert len(str(report.error)) < 400
    assert max(len(message) for _, message in called(context)) < 400


# --- The doctor ---


def test_doctor_checks_hooks_without_calling_them(notes: Path, app: RecordingServer) -> None:
    def look(before: Hook, after: Hook | None = None) -> list[tuple[str, bool]]:
        return [(one.check, one.ok) for one in check_hooks(Hooks(before, after))]

    assert list(check_hooks(Hooks())) == []
    app.answering = lambda _asked: CannedResponse(404)
    assert look(noting(notes, "before"), Hook(url=app.url("/after?key=k3y"))) == [
        ("hook before", True),
        ("hook after", True),
    ]
    assert [(one.method, one.target) for one in app.requests] == [("HEAD", "/")]
    assert not notes.exists()
    assert look(Hook(("/no/such/program",))) == [("hook before", False)]
    (finding,) = check_hooks(Hooks(Hook(url=f"http://127.0.0.1:{free_port()}/before?key=k3y")))
    assert (finding.ok, "Connection refused" in finding.detail, "k3y" in finding.detail) == (False, True, False)


# --- The command line ---


def echoing(asked: ReceivedRequest) -> CannedResponse:
    return CannedResponse(500, f"you asked for {asked.target}".encode())


@pytest.mark.parametrize(("answering", "code"), [(lambda _asked: CannedResponse(), 0), (echoing, 1)])
def test_secret_in_url_of_hook_is_shown_nowhere(
    backupd: Backupd, backups: Path, answering: Callable[[ReceivedRequest], CannedResponse], code: int
) -> None:
    with recording_server(answering) as app:
        hooked: dict[str, Any] = {"BACKUPD_HOOKS__BEFORE": app.url("/before?key=k3y-of-the-app")}
        answer = backupd("backup", "--json", **hooked)
        assert answer.code == code, answer
        assert app.requests[0].target == "/before?key=k3y-of-the-app"
        shown = [backupd("config", "show", **hooked), backupd("doctor", **hooked), backupd("status", **hooked), answer]
    said = "".join(one.out + one.err for one in shown) + (backups / "backup.log").read_text()
    assert "k3y" not in said
    assert json.loads(answer.out)["outcome"] == ("published" if code == 0 else "failed")
