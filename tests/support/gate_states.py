"""Gates and deploys as an operator would see them: one of each outcome, and apps with much and with little set."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from backupd.gate.model import (
    AppTests,
    CapRover,
    CapRoverWebhook,
    CommitStatus,
    Deploy,
    DeployState,
    Forgejo,
    Gate,
    LiveApp,
    Push,
    SidecarAccess,
    Step,
    StepName,
    StepState,
)

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
ZONE = ZoneInfo("America/Santiago")
MINUTE = timedelta(minutes=1)
# No message, page, answer or log may have one of them.
SECRETS = (
    *("hook-secret-0123456789", "door-token-0123456789", "copy-token-0123456789", "forge-token-0123456789"),
    *("captain-token-0123456789", "token-in-the-url-0123456789", "health-key-0123456789", "hidden-payload"),
)
TASKS = Gate(
    name="tasks",
    secret=SECRETS[0],
    repository="ada/tasks",
    refs=("refs/heads/main", "refs/tags/v*"),
    sidecar=SidecarAccess("http://srv-captain--tasks-backup:8080", SECRETS[1], ("tasks",), SECRETS[2]),
    forgejo=Forgejo("https://git.example.com", "ada/tasks", SECRETS[3]),
    status=CommitStatus(("ci / *",)),
    tests=AppTests(("sh", "-c", "npm ci && npm test"), rehearse=True),
    target=CapRover("https://captain.example.com", "tasks", SECRETS[4]),
    app=LiveApp(f"https://tasks.example.com/health?key={SECRETS[6]}"),
    page_url="https://gate.example.com",
)
NOTES = Gate(
    name="notes",
    secret=SECRETS[0],
    repository="ada/notes",
    refs=("refs/tags/v*",),
    sidecar=None,
    forgejo=None,
    status=None,
    tests=None,
    target=CapRoverWebhook(f"https://captain.example.com/hooks?token={SECRETS[5]}"),
    app=None,
)
OUTPUT = (
    "\x1b[32m✓\x1b[0m saves a task\n\x1b[31m✗\x1b[0m moves the column\r\n\texpected 3, got 2\n\n1 of 2 tests failed\n"
)


def push(version: str, number: int = 1) -> Push:
    """Return a push of a tag, or of a branch where `version` begins with `refs/`."""
    ref = version if version.startswith("refs/") else f"refs/tags/{version}"
    commit = f"{number:x}0c0ffee" * 5
    secret = {"X-Forgejo-Signature": SECRETS[7]}
    return Push(f"delivery-{number}", "ada/tasks", ref, commit[:40], "0" * 40, "ada", SECRETS[7].encode(), secret)


def step(name: StepName, at: datetime, took_s: float, detail: str, state: StepState = "passed", hint: str = "") -> Step:
    ended_at = None if state == "running" else at + timedelta(seconds=took_s)
    return Step(name, state, at, ended_at, detail, hint)


def deployed(number: int = 1, at: datetime = NOW - timedelta(days=1), version: str = "v1.1") -> Deploy:
    """Return a deploy that came up in three minutes."""
    deploy = Deploy(f"d{number}", "tasks", push(version, number), at, version_before="v1.0")
    for made in (
        step("backup", at, 4, "tasks-20261124-1200, verified"),
        step("fetch", at + timedelta(seconds=4), 1.2, "212 files, 1.4 MiB"),
        step("tests", at + timedelta(seconds=6), 61, "passed"),
        step("deliver", at + timedelta(seconds=67), 2, "CapRover builds it"),
        step("health", at + timedelta(seconds=69), 111, f"it reports {version}"),
    ):
        deploy = deploy.with_step(made)
    return replace(deploy, state="deployed", ended_at=at + 3 * MINUTE, generations=("tasks-20261124-1200",))


def ended(state: DeployState, failed: Step, number: int = 2, version: str = "v1.2") -> Deploy:
    """Return a deploy of today that ended at the step `failed`."""
    whole = deployed(number, NOW - 20 * MINUTE, version)
    names = [one.name for one in whole.steps]
    steps = whole.steps[: names.index(failed.name)] if failed.name in names else whole.steps[:2]
    moved = replace(failed, began_at=whole.received_at + 2 * MINUTE, ended_at=whole.received_at + 3 * MINUTE)
    before = "v1.1" if failed.name == "health" else None
    return replace(whole, state=state, steps=(*steps, moved), version_before=before)


def stopped() -> Deploy:
    hint = "run the tests on this commit: npm test"
    return ended("stopped", step("tests", NOW, 60, "sh ended with code 1", "failed", hint))


def unhealthy() -> Deploy:
    hint = "look at its log in CapRover"
    return ended("unhealthy", step("health", NOW, 60, "after 5 min the app still reports v1.1", "failed", hint))


def interrupted() -> Deploy:
    return ended("interrupted", step("deliver", NOW, 60, "the gate ended during the delivery", "failed"))


def superseded() -> Deploy:
    whole = deployed(3, NOW - 40 * MINUTE, "refs/heads/main")
    return replace(whole, state="superseded", steps=whole.steps[:1], ended_at=whole.received_at + MINUTE)


def running() -> Deploy:
    """Return a deploy whose tests have run for a minute."""
    at = NOW - 2 * MINUTE
    deploy = replace(deployed(4, at, "refs/heads/main"), state="running", ended_at=None, version_before=None)
    return replace(deploy, steps=(*deploy.steps[:2], step("tests", NOW - MINUTE, 0, "", "running")))


def waiting() -> Deploy:
    return Deploy("d5", "tasks", push("v1.3", 5), NOW - timedelta(seconds=5))


# What the newest deploy of tasks is; before each there is one that came up.
STATES: dict[str, tuple[Deploy, ...]] = {
    "none": (),
    "deployed": (superseded(), deployed()),
    "stopped": (stopped(), superseded(), deployed()),
    "unhealthy": (unhealthy(), deployed()),
    "interrupted": (interrupted(), deployed()),
    "running": (waiting(), running(), stopped(), deployed()),
}
