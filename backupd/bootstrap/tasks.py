"""Builds the context, the requests and the schedule of tasks from the configuration."""

import os
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import TextIO
from zoneinfo import ZoneInfo

from backupd.config import Config, DrillSection, WithheldSecret, config_digest, mask_of, secrets_of
from backupd.config.kinds import is_web
from backupd.errors import BackupdError, ConfigError, UsageError
from backupd.files.selection import left_alone, path_below
from backupd.health import Limit, health_limit
from backupd.log import LOG_NAME, EventLog, LogSettings, null_log, open_log
from backupd.model import LOCAL_STORE, NoProgress, Progress, Task
from backupd.pings import Monitor, Pinger
from backupd.schedule import Planned, Schedule
from backupd.sqlite.database_files import SIDE_SUFFIXES
from backupd.sqlite.source import real_path
from backupd.sqlite.worker.protocol import SnapshotSettings
from backupd.stores.local import DirectoryStore
from backupd.system.resources import Priority
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import (
    AnyBackupRequest,
    AppCheck,
    BackupRequest,
    DrillRequest,
    FilesRequest,
    Hook,
    Hooks,
    Packing,
    RetentionRule,
    ShrinkGuard,
)
from backupd.tasks.restore import RestoreRequest
from backupd.tasks.restore.files import FilesRestoreRequest
from backupd.tasks.restore.point import AnyRestoreRequest

# The order in which tasks run when several are due: new copies before the care of old ones.
_SCHEDULED: tuple[Task, ...] = ("backup", "replicate", "drill", "prune", "scrub")


_LEAST_UNPACKING = 4  # threads for files: each waits for its disk at the beginning and the end


def build_context(
    config: Config, progress: Progress | None = None, *, writing: bool = True, console: TextIO | None = None
) -> TaskContext:
    """Return the context of the local store, with pings of its runs; log lines go to `console` too.

    Without `writing` nothing is created, logged or pinged.

    Raises StoreUnusable when the directory of the backups cannot be made.
    """
    context = TaskContext(
        DirectoryStore(LOCAL_STORE, config.backups_dir),
        null_log(mask_of(config)),
        config.lock.timeout_s,
        progress or NoProgress(),
        configuration=partial(config_digest, config),
    )
    if not writing:
        return context
    context.store.prepare()
    path = config.backups_dir / LOG_NAME
    try:
        context = replace(
            context, log=open_log(path, context.log.mask, console=console, settings=_log_settings(config))
        )
    except OSError as error:
        warning = f"{path} cannot be written: {error.strerror}"
        context = replace(context, log=deferred_log(config, console), warnings=(warning,))
    if config.pings:
        from backupd.notifications.delivery import ping_recorder  # slow to import

        pinger = Pinger(monitors(config), context.log, ping_recorder(context), helper=config.ping_helper)
        context = replace(context, watch=pinger.watch)
    return context


def daemon_context(config: Config, console: TextIO) -> TaskContext:
    """Return the context of the daemon, which keeps running while the local store is not usable."""
    context = build_context(config, writing=False)
    with suppress(BackupdError):  # each tick tries again and reports the error
        context.store.prepare()
    return replace(context, log=deferred_log(config, console))


def deferred_log(config: Config, console: TextIO | None = None, *, directory: Path | None = None) -> EventLog:
    """Return the log of a store that may be missing; lines that cannot be written to the file go to `console`.

    It is in `directory`, by default the store itself.
    """
    path, settings = (directory or config.backups_dir) / LOG_NAME, _log_settings(config)
    return open_log(path, mask_of(config), console=console, late=True, settings=settings)


def _log_settings(config: Config) -> LogSettings:
    return LogSettings(config.log.format == "json", config.log.max_size, config.log.keep)


def monitors(config: Config) -> Mapping[str, Monitor]:
    """Return the outside monitors by their names under `[pings]`: those that this process, or its helper, can ping."""
    if config.ping_helper is not None:
        return config.ping_helper.monitors
    given = {name: url for name, url in config.pings.items() if not isinstance(url, WithheldSecret)}
    return {name: Monitor.parse(url.get_secret_value()) for name, url in given.items()}


def writable(config: Config) -> bool:
    """Return whether the local store exists and is writable."""
    return DirectoryStore(LOCAL_STORE, config.backups_dir).writable()


def sources(config: Config, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sources in `names`, all for an empty tuple. Raises UsageError for an unknown one."""
    for name in names:
        if name not in config.sources:
            known = ", ".join(config.sources)
            raise UsageError(f"unknown source {name!r}", f"the configuration ({config.origin}) has: {known}")
    return tuple(dict.fromkeys(names)) or tuple(config.sources)


def subjects_of_backups(config: Config, names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the sources and sets of files in `names`, all for an empty tuple. Raises UsageError for an unknown one."""
    known = (*config.sources, *config.files)
    if unknown := [name for name in names if name not in known]:
        what = f"the configuration ({config.origin}) has: {', '.join(known)}"
        raise UsageError(f"unknown source {unknown[0]!r}", what)
    return tuple(dict.fromkeys(names)) or known


def request_of_backup(config: Config, name: str) -> AnyBackupRequest:
    """Return the request to back up the source or the set of files `name`."""
    return files_request(config, name) if name in config.files else backup_request(config, name)


def one_source(name: str | None, config: Config) -> str:
    """Return the source that is meant: `name`, else the only one. Raises UsageError."""
    names = sources(config, (name,) if name else ())
    if len(names) > 1:
        raise UsageError(f"which source: {', '.join(names)}?", "name it with --source")
    return names[0]


def refuse_shared_databases(config: Config) -> None:
    """Raise ConfigError where the paths of two sources lead to one database through links."""
    named: dict[str, str] = {}
    for name, source in config.sources.items():
        real = os.path.realpath(source.path)
        other = named.setdefault(real, name)
        if other != name:
            raise ConfigError(f"the sources {other} and {name} are the same database {real}", "keep one of them")


def backup_request(config: Config, name: str) -> BackupRequest:
    """Return the request to back up source `name`."""
    source, member = config.sources[name], config.member(name)
    return BackupRequest(
        source=name,
        path=Path(source.path),
        settings=SnapshotSettings(**source.model_dump(exclude={"path", "exclude", "allow_empty", "hard_link"})),
        allow_empty=source.allow_empty,
        allow_links=source.hard_link == "allow",
        packing=Packing(config.pack.level, workers(config), priority(config)),
        retention=retention_rule(config),
        guard=ShrinkGuard(**dict(config.shrink_guard)),
        reserve_bytes=config.space.reserve,
        timezone_warning=config.timezone_warning,
        replicas=tuple(config.replicas),
        search=member.search if member else None,
        search_warning=member.warning if member else "",
        hooks=hooks(config),
    )


def hooks(config: Config) -> Hooks:
    """Return what is called around backups."""
    return Hooks(_hook(config.hooks.before), _hook(config.hooks.after), config.hooks.timeout_s)


def _hook(text: str | None) -> Hook | None:
    if text is None:
        return None
    return Hook(url=text) if is_web(text) else Hook(tuple(shlex.split(text)))


def files_request(config: Config, name: str) -> FilesRequest:
    """Return the request to back up the set of files `name`."""
    section = config.files[name]
    only = next(iter(config.sources)) if len(config.sources) == 1 else ""
    database = only if section.with_ is None else section.with_
    return FilesRequest(
        source=name,
        path=section.path,
        exclude=section.exclude,
        database=database if database in config.sources else "",
        query=section.query,
        timeout_s=section.timeout_s,
        databases=tuple(Path(source.path) for source in config.sources.values()),
        packing=Packing(config.pack.level, workers(config), priority(config)),
        retention=retention_rule(config),
        guard=ShrinkGuard(**dict(config.shrink_guard)),
        reserve_bytes=config.space.reserve,
        timezone_warning=config.timezone_warning,
        replicas=tuple(config.replicas),
        hooks=hooks(config),
    )


def restore_request(config: Config, source: str, *, stopped: bool, dry_run: bool) -> RestoreRequest:
    """Return the request to replace the database of `source`. Raises UsageError where it is not configured."""
    if source not in config.sources:
        raise UsageError(
            f"the configuration ({config.origin}) has no source {source!r}; it has: {', '.join(config.sources)}",
            "add it to [sources], or restore to a new file (--to PATH)",
        )
    member = config.member(source)
    below = member.search.directory if member else None
    return RestoreRequest(source, config.sources[source].path, workers(config), stopped, dry_run, below=below)


def files_restore_request(
    config: Config, source: str, *, exact: bool = False, stopped: bool = False, dry_run: bool = False
) -> FilesRestoreRequest:
    """Return the request to put the set of files `source` back. Raises SourceUnusable for a link of another owner."""
    section, real = config.files[source], real_path(config.files[source].path)
    kept_elsewhere = (
        config.backups_dir,
        *(Path(f"{each.path}{suffix}") for each in config.sources.values() for suffix in ("", *SIDE_SUFFIXES)),
    )
    below = (path_below(real, path) for path in kept_elsewhere)
    return FilesRestoreRequest(
        source=source,
        path=section.path,
        workers=max(workers(config), _LEAST_UNPACKING),
        stays=left_alone(section.exclude, filter(None, below)),
        exact=exact,
        stopped=stopped,
        dry_run=dry_run,
    )


def restore_requests(
    config: Config, names: Iterable[str], *, exact: bool = False, stopped: bool = False, dry_run: bool = False
) -> list[AnyRestoreRequest]:
    """Return the requests to restore databases and sets of files. Raises UsageError where one is not configured."""
    return [
        files_restore_request(config, name, exact=exact, stopped=stopped, dry_run=dry_run)
        if name in config.files
        else restore_request(config, name, stopped=stopped, dry_run=dry_run)
        for name in names
    ]


def drill_store(config: Config) -> str:
    """Return the store that drills restore from: as configured, else the first replica, else the local one."""
    return config.drill.from_ or next(iter(config.replicas), LOCAL_STORE)


def drills(config: Config) -> bool:
    """Return whether drills are scheduled: where a replica or a key of [drill] is set."""
    return bool(config.replicas) or config.drill != DrillSection()


def drilled_sources(config: Config, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sources in `names`, all for an empty tuple, and the databases that sets of files among them query.

    Databases come first. Raises UsageError for an unknown one.
    """
    wanted = {*subjects_of_backups(config, names)}
    queried = [name for name in config.files if name in wanted and config.files[name].query]
    wanted |= {files_request(config, name).database for name in queried}
    return tuple(name for name in subjects_of_backups(config) if name in wanted)


def drill_request(config: Config, source: str, store: str | None = None) -> DrillRequest:
    """Return the request to drill a restore of `source` from `store` (None: `drill_store`)."""
    files = files_request(config, source) if source in config.files else None
    settings = config.drill
    wanted = store or drill_store(config)
    limits_s = [_limit_s(config, "backup", source)]
    if wanted != LOCAL_STORE:
        limits_s.append(_limit_s(config, "replicate", wanted))
    unclear = "" if files else config.unclear_drill
    asks = not files and settings.checks_app and settings.source in (None, source) and not unclear
    return DrillRequest(
        source=source,
        store=wanted,
        max_age_s=settings.max_age_s or sum(limits_s),
        workers=workers(config),
        reserve_bytes=config.space.reserve,
        app=_app_check(config) if asks else None,
        note="" if store or settings.from_ else _store_note(config),
        path=files.path if files else config.sources[source].path,
        files=files,
        unclear=f"drill.{unclear}" if unclear else "",
    )


def _store_note(config: Config) -> str:
    if not config.replicas:
        return "restored from the local store: no replica is configured, and a fire would destroy this store as well"
    first, *others = config.replicas
    return f"restored from {first}, the first of {len(others) + 1} replicas: drill.from names another" if others else ""


def _app_check(config: Config) -> AppCheck:
    settings = config.drill
    return AppCheck(
        timeout_s=settings.timeout_s,
        place_at=settings.place_at,
        command=tuple(shlex.split(settings.command or "")),
        health_url=settings.health_url,
        user_version=settings.user_version,
        query=settings.query,
        answer=settings.answer,
        databases=tuple(source.path for source in config.sources.values()),
        secrets=frozenset(secrets_of(config)),
    )


def retention_rule(config: Config) -> RetentionRule:
    """Return the retention policy and the zone of its days."""
    return RetentionRule(config.retention.policy(), ZoneInfo(config.schedule.timezone))


def priority(config: Config) -> Priority:
    """Return the CPU and disk priority of compression and verification."""
    pack = config.pack
    return Priority(idle_cpu=pack.priority == "idle", nice=pack.nice, idle_io=pack.io_priority == "idle")


def limits(config: Config) -> tuple[Limit, ...]:
    """Return the maximum age of each backup, off-site copy and drill: as set, else from its schedule."""
    subjects: Mapping[Task, Iterable[str]] = {
        "backup": subjects_of_backups(config),
        "replicate": config.replicas,
        "drill": [drill_store(config)] if drills(config) else [],
    }
    return tuple(
        Limit(task, name, _limit_s(config, task, name), of_files=task == "backup" and name in config.files)
        for task, names in subjects.items()
        for name in names
    )


def _schedule(config: Config, task: Task, subject: str) -> Schedule:
    """Return when `task` is due for `subject`, a source or a replica; a replica may have its own schedule."""
    own = config.replicas[subject].schedule if task == "replicate" else None
    return Schedule.parse(own or getattr(config.schedule, task), ZoneInfo(config.schedule.timezone))


def _limit_s(config: Config, task: Task, subject: str) -> float:
    configured: float | None = getattr(config.health, f"{task}_limit_s")
    if configured is not None:
        return configured
    return _limit_of(_schedule(config, task, subject))


@lru_cache  # most sources have one schedule, and its longest gap is sought through two years
def _limit_of(schedule: Schedule) -> float:
    return health_limit(schedule, datetime.now(UTC)).total_seconds()


def workers(config: Config) -> int:
    """Return the number of threads of compression: as configured, else one for each available core."""
    return config.pack.workers or len(os.sched_getaffinity(0))


def planned_tasks(config: Config) -> tuple[Planned, ...]:
    """Return every task that the configuration schedules."""
    store, every = drill_store(config), subjects_of_backups(config)
    subjects: Mapping[Task, Iterable[str]] = {"replicate": config.replicas, "drill": every if drills(config) else ()}
    return tuple(
        Planned(
            task,
            source,
            _schedule(config, task, source),
            store if task == "drill" else "",
            config.sources[source].path if task == "backup" and source in config.sources else None,
        )
        for task in _SCHEDULED
        for source in subjects.get(task, every)
    )
