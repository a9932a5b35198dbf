"""The status in lines of text, for `backupd status` and the digest."""

from collections.abc import Iterator
from functools import partial

from backupd import __version__
from backupd.formatting import counted, human_age, human_bytes, human_duration, printable
from backupd.health import within_limit
from backupd.runbook import DOCS_URL, runbook_address
from backupd.status.model import NextRun, SourceFigures, Status, TaskFigures

_SUCCESS = {"backup": "verified backup", "replicate": "off-site copy", "drill": "proven restore"}
_NO_CATALOG = "backupd doctor finds the cause; backupd catalog rebuild makes a new catalog"


def status_lines(status: Status, docs_url: str = DOCS_URL) -> tuple[str, ...]:
    """Return health, problems with next steps, ages and their limits, runs and generations, as printable lines.

    Links to the runbook lead below `docs_url`.
    """
    parts = (_verdict, _steps, partial(_links, docs_url=docs_url), _freshness, _drills, _runs)
    return tuple(
        printable(line) for part in (*parts, _failures, _sources, _points, _undelivered, _rest) for line in part(status)
    )


def _verdict(status: Status) -> Iterator[str]:
    health = status.health
    yield "healthy" if health.healthy else "NOT HEALTHY"
    yield from (f"  reason: {reason}" for reason in health.reasons)
    yield from (f"  warning: {warning}" for warning in health.warnings)


def _steps(status: Status) -> Iterator[str]:
    """Yield the next step of each problem, and of a catalog that does not work."""
    problems = status.health.problems
    for step in dict.fromkeys(problem.advice for problem in problems):
        yield f"  what to do: {step}"
    known = any(problem.kind in ("catalog", "store") for problem in problems)
    if not status.migrations_ok and not _is_new(status) and not known:
        yield f"  what to do: {_NO_CATALOG}"


def _links(status: Status, docs_url: str) -> Iterator[str]:
    """Yield the address of the runbook's section on each problem."""
    for topic in dict.fromkeys(problem.topic for problem in status.health.problems):
        yield f"  runbook: {runbook_address(topic, docs_url=docs_url)}"


def _freshness(status: Status) -> Iterator[str]:
    now = status.health.checked_at
    for one in status.health.freshness:
        age, late = "never", ""
        if one.last_at is not None:
            age_s = (now - one.last_at).total_seconds()
            age = human_age(age_s) if age_s < 0 else f"{human_age(age_s)} ago"
            late = "" if within_limit(one, now) else ", TOO OLD" if age_s > 0 else ", CHECK THE CLOCK"
        allowed = f"at most {human_duration(one.limit_s)} allowed"
        yield f"{_SUCCESS.get(one.task, one.task):<16} {one.subject}: {age}, {allowed}{late}"


def _drills(status: Status) -> Iterator[str]:
    """Yield what a disaster would cost, as the last drills measured it: lost data (RPO) and time (RTO)."""
    for task in status.tasks:
        drill = task.drill
        if drill is not None and drill.age_s is not None and drill.recovery_s is not None:
            files = f"{counted(drill.files, 'file')}, " if drill.files is not None else ""
            part = f" of {drill.point}" if drill.point else ""
            yield (
                f"{'measured':<16} {task.source}: back from {drill.store} in {human_duration(drill.recovery_s)}, "
                f"{files}with data {human_duration(drill.age_s)} old ({task.generation}{part})"
            )


def _runs(status: Status) -> Iterator[str]:
    """Yield a line for each subject: when each task last succeeded, and when the daemon runs it next."""
    last = [(task.source, _last_run(task, status)) for task in status.tasks]
    following = [(run.source, _next_run(run, status)) for run in status.next_runs]
    for heading, runs in (("last runs", last), ("next runs", following)):
        for subject in dict.fromkeys(source for source, _ in runs):
            yield f"{heading:<16} {subject}: {', '.join(text for source, text in runs if source == subject)}"


def _last_run(task: TaskFigures, status: Status) -> str:
    if task.last_success_at is None:
        return f"{task.task} never"
    took = "" if task.duration_s is None else f" ({human_duration(task.duration_s)})"
    return f"{task.task} {human_duration((status.taken_at - task.last_success_at).total_seconds())} ago{took}"


def _next_run(run: NextRun, status: Status) -> str:
    if run.overdue:
        return f"{run.task} now (when the daemon runs{f'; {run.reason}' if run.retry else ''})"
    why = f", {run.reason}" if run.retry else ""
    wait = human_duration((run.at - status.taken_at).total_seconds())
    return f"{run.task} {run.at:%a %F %H:%M} {run.at:%Z} (in {wait}{why})"


def _failures(status: Status) -> Iterator[str]:
    for task in status.tasks:
        if task.failed_at is not None:
            ago = human_duration((status.taken_at - task.failed_at).total_seconds())
            step = f" | what to do: {task.hint}" if task.hint else ""
            yield f"{f'last {task.task}':<16} {task.source}: failed {ago} ago: {task.error}{step}"
        elif task.warnings:
            yield f"{f'last {task.task}':<16} {task.source}: degraded: {'; '.join(task.warnings)}"


def _sources(status: Status) -> Iterator[str]:
    for source in status.sources:
        yield f"{'generations':<16} {source.source}: {', '.join(_holdings(source, status))}"


def _points(status: Status) -> Iterator[str]:
    """Yield the newest restore point that is sound, where there are any."""
    if status.point is not None:
        point, age_s = status.point, (status.taken_at - status.point.taken_at).total_seconds()
        spread = f"{counted(len(point.parts), 'part')} at most {point.spread_ms} ms apart"
        same = ", nothing has changed since" if point.current else ""
        yield f"{'restore point':<16} {point.id}: {human_age(age_s)} old{same}, {spread}, {status.points} in all"
    elif status.points:
        yield f"{'restore point':<16} none of {status.points} IS SOUND | what to do: backupd list --points"


def _holdings(source: SourceFigures, status: Status) -> Iterator[str]:
    yield f"{source.generations}, {source.verified} of them verified"
    if source.newest_at is not None:
        yield f"the newest {human_duration((status.taken_at - source.newest_at).total_seconds())} old"
    if source.files is not None:  # whose archive is their list alone
        yield f"{counted(source.files.files, 'file')} ({human_bytes(source.files.size_bytes)})"
    elif source.snapshot_bytes is not None and source.archive_bytes is not None:
        yield f"{human_bytes(source.snapshot_bytes)} as {human_bytes(source.archive_bytes)}"
    if source.frozen:
        yield "ON HOLD: nothing is pruned"


def _undelivered(status: Status) -> Iterator[str]:
    """Yield messages and pings that are not delivered: no message can report that."""
    if status.messages.waiting:
        yield f"{'messages':<16} {status.messages.waiting} NOT DELIVERED yet | what to do: backupd notify"
    for ping in status.pings:
        if ping.failing:
            yield f"{'pings':<16} {ping}: the last one FAILED: {ping.reason} | what to do: backupd notify --test"


def _rest(status: Status) -> Iterator[str]:
    for store, free in status.free_bytes.items():
        yield f"{'free space':<16} {store}: {human_bytes(free)}"
    catalog = "works" if status.migrations_ok else "not made yet" if _is_new(status) else "DOES NOT WORK"
    yield f"{'backupd':<16} {__version__}, SQLite {status.sqlite_version}, catalog {catalog}"


def _is_new(status: Status) -> bool:
    """Return whether there was no run yet: the first one makes the catalog."""
    known = any(one.last_at for one in status.health.freshness)
    return bool(status.sources) and not known and not any(source.generations for source in status.sources)
