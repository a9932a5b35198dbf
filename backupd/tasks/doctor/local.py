"""Check clock, time zone, backups directory, sources and store of this host, and name files without a backup."""

import os
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from backupd.catalog import read_catalog
from backupd.errors import BackupdError, CatalogUnavailable, CheckFailed, SourceUnusable, StoreUnusable, TargetRefused
from backupd.formatting import counted, human_age, human_bytes, printable
from backupd.log import LOG_NAME, require_log_writable
from backupd.model import CLOCK_TOLERANCE
from backupd.sqlite.database_files import DatabasePlace
from backupd.sqlite.discovery import NARROWER, DirectoryContents, Search, contents_of, is_directory, names_of
from backupd.sqlite.history import KEPT_FOR, kept_files
from backupd.sqlite.snapshot import probe_source
from backupd.sqlite.source import real_path
from backupd.stores.names import unexpected_files
from backupd.system.directory import Directory
from backupd.system.fs import note_extra_access
from backupd.system.held_file import HeldFile
from backupd.system.mounts import exposing_mount
from backupd.system.os_errors import dangling_link, os_error_hint, os_error_text
from backupd.system.owners import NAMESPACE_HINT
from backupd.system.resources import require_space, reserve_bytes
from backupd.tasks.context import TaskContext, local_inventory, read_inventory
from backupd.tasks.copying import FILES_OF_A_BACKUP, bytes_needed, inspect_source
from backupd.tasks.doctor import Finding, kept_by_restore, run_check
from backupd.tasks.inventory import Inventory, shared_source_warning
from backupd.tasks.requests import BackupRequest
from backupd.tasks.restore.recovery import restore_pending

# 3.53.3 can delete a hot journal without replaying it (docs/adr/0002-one-sqlite-library.md).
OLDEST_SQLITE = (3, 53, 4)
# An app that is starting rolls its journal back within a second; the doctor does not wait as long as a backup.
_HOT_WAIT_S = 2.0
# An earlier clock than the first version of this program is wrong.
_EARLIEST = datetime(2026, 11, 1, tzinfo=UTC)
_UNCOVERED_NAMED = 3
_MEMBERS_NAMED = 20
# Of names: in the directory of a database and in those in it.
_KEYS = ("*.key", "*.pem", ".env", "secret_key*", "rsa_key*")
_KEY_HINT = (
    "without it a restored database may be useless: what the app has encrypted cannot be read, and sessions end. Keep "
    "a copy in a safe place, apart from the backups"
)


_NO_SETS: Final[Mapping[str, Path]] = {}


def check_local(
    requests: tuple[BackupRequest, ...], context: TaskContext, sets: Mapping[str, Path] = _NO_SETS
) -> Iterator[Finding]:
    """Yield a finding for each part of the set-up of this host, in the order in which a backup needs them.

    `sets` are the directories of the sets of files, by name: what lies below them is backed up.
    """
    yield run_check("clock", lambda: _clock(context))
    if requests:
        yield _time_zone(requests[0])
    store = run_check("backups directory", lambda: _write_rename_delete(context))
    yield store
    yield from _exposed(requests, context)
    for request in requests:
        source = _check_source(request, context, store_ready=store.ok)
        yield from _until_error(f"source {request.source}", source)
    yield from _unexpected_files(context)
    yield from _found(requests)
    searches = [request.search for request in requests if request.search is not None]
    yield from find_uncovered([request.path for request in requests], context.store.directory, searches, sets.values())
    if store.ok:
        checked = _check_store(tuple(request.source for request in requests), tuple(sets), context)
        yield from _until_error("generations", checked)


def _until_error(check: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the findings; a failed system call among them is the last."""
    try:
        yield from findings
    except OSError as error:
        yield Finding(check, ok=False, detail=os_error_text(error), hint=os_error_hint(error))


def _found(requests: tuple[BackupRequest, ...]) -> Iterator[Finding]:
    """Yield a finding for each directory or pattern, with the name of each database that it has now."""
    for search in dict.fromkeys(request.search for request in requests if request.search is not None):
        members = [request for request in requests if request.search == search and request.path != search.path]
        shown = (f"{one.source} = {printable(os.path.relpath(one.path, search.directory))}" for one in members)
        if members:
            more = f" and {len(members) - _MEMBERS_NAMED} more" if len(members) > _MEMBERS_NAMED else ""
            detail = f"{counted(len(members), 'database')}: {', '.join(islice(shown, _MEMBERS_NAMED))}{more}"
            warning = members[0].search_warning
            detail = f"{detail}; {warning}" if warning else detail
            hint = NARROWER if warning else ""
            yield Finding(f"databases at {search.path}", ok=True, detail=detail, hint=hint, warning=bool(warning))


def find_uncovered(
    databases: Collection[Path], backups: Path, searches: Collection[Search] = (), covered: Collection[Path] = ()
) -> Iterator[Finding]:
    """Yield a finding for other databases, one for keys and one for other files in each directory of `databases`.

    Also in those of `searches`, without what they exclude. Looks at 10,000 names and 5 directories deep, through no
    link, and not into `backups` or what is `covered`, as it is backed up as files. Each finding is advice, and `ok`.
    """
    ours = {_without_links(path) for path in (*databases, backups, *covered)}
    directories = {_without_links(path) if is_directory(path) else _without_links(path).parent for path in databases}
    excluded = {_without_links(search.directory): search.exclude for search in searches}
    directories |= excluded.keys()
    for path in sorted(directories - ours):
        if directories.isdisjoint(path.parents):  # the directory above shows what is in this one
            try:
                found = contents_of(path, ours, exclude=excluded.get(path, ()), keys=_KEYS)
            except BackupdError:  # an unreadable directory is a finding of the source
                continue
            yield from _uncovered_findings(path, found)


def _without_links(path: Path) -> Path:
    """Return `path` without links; `Path.resolve` raises RuntimeError for links that lead to each other."""
    return Path(os.path.realpath(path))


def _uncovered_findings(path: Path, found: DirectoryContents) -> Iterator[Finding]:
    least = "" if found.complete else "at least "
    if found.databases:
        names = names_of(found, _UNCOVERED_NAMED)
        detail = f"{least}{counted(len(found.databases), 'database')} in {path} without a backup: {names}"
        hint = f"add each that matters ([sources.NAME] path = …), or all of them: path = {path}"
        yield Finding("not backed up", ok=True, detail=detail, hint=hint, warning=True)
    if found.keys:
        names = ", ".join(map(printable, found.keys[:_UNCOVERED_NAMED]))
        detail = f"{names} in {path} may be a key of the app, and has no backup"
        yield Finding("not backed up", ok=True, detail=detail, hint=_KEY_HINT, warning=True)
    if found.files:
        size = f", {human_bytes(sum(found.sizes.values()))}" if found.complete else ""
        directories = sorted(filter(None, found.files), key=lambda name: found.files[name], reverse=True)
        most = ", ".join(f"{printable(name)}/ {found.files[name]}" for name in directories[:_UNCOVERED_NAMED])
        detail = f"{least}{counted(sum(found.files.values()), 'other file')} in {path}{size}"
        named = path / directories[0] if directories else path
        hint = f"back up what matters as well: [files.NAME] path = {printable(str(named))} (docs/sources.md)"
        detail = f"{detail}: {most}" if most else detail
        yield Finding("not backed up", ok=True, detail=detail, hint=hint, warning=True)


def _unexpected_files(context: TaskContext) -> Iterator[Finding]:
    """Yield a finding for each pipe, link and so on that has a name of the store."""
    with suppress(OSError):  # the check of the directory says so
        for error in unexpected_files(context.store.directory):
            detail = f"{error.filename} is {error.strerror}"
            yield Finding("files of the store", ok=False, detail=detail, hint=os_error_hint(error))


def _clock(context: TaskContext) -> str:
    now = context.clock()
    if now < _EARLIEST:
        raise CheckFailed(f"the system clock is wrong: it reads {now:%F %T} UTC", "set the clock (NTP)")
    return f"{now:%F %T} UTC"


def _time_zone(request: BackupRequest) -> Finding:
    if request.timezone_warning:
        return Finding("time zone", ok=False, detail=request.timezone_warning, hint="or set schedule.timezone")
    zone = request.retention.timezone if request.retention else UTC
    return Finding("time zone", ok=True, detail=f"days are counted in {zone}")


def _write_rename_delete(context: TaskContext) -> str:
    if link := dangling_link(context.store.directory):
        raise StoreUnusable(link, "mount what the link leads to, or correct backups_dir (BACKUPD_BACKUPS_DIR)")
    context.store.prepare()
    name = f"doctor-{secrets.token_hex(4)}"
    with Directory.open(context.store.directory) as base, base.child(context.store.hidden.name) as hidden:
        try:
            probe = HeldFile.create(hidden, f"{name}.a")
            probe.write(b"written, renamed and deleted by backupd doctor")
            note_extra_access(probe.descriptor, probe.path)
            probe.move(base, f".{name}.b")
            base.fsync()
        finally:
            hidden.unlink(f"{name}.a")
            base.unlink(f".{name}.b")
    return f"{context.store.directory}: write, fsync, rename and delete work"


def _exposed(requests: Iterable[BackupRequest], context: TaskContext) -> Iterator[Finding]:
    """Yield a warning where an app can delete the backups along with its database, and no replica has copies."""
    directory = os.path.realpath(context.store.directory)
    for request in requests:
        mount = None if request.replicas else exposing_mount(os.path.realpath(request.path), directory)
        if mount is not None:
            what = f"the app of {request.source} can delete {directory} along with its database, and no replica is set"
            lines = f"volumes: ['{mount.volume}:{mount.point}', 'backups:/backups'] and BACKUPD_BACKUPS_DIR: /backups"
            own = f", or give the backups a volume of their own ({lines}; docs/container.md says how to move them)"
            hint = f"set a replica (docs/replicas.md){own if mount.point != '/' else ''}"
            yield Finding("backups", ok=True, detail=what, hint=hint, warning=True)
            return


def _check_source(request: BackupRequest, context: TaskContext, *, store_ready: bool) -> Iterator[Finding]:
    yield run_check(f"source {request.source}", lambda: _readable(request))
    yield from _restores(request.path, context)
    if store_ready:
        if conflict := shared_source_warning(read_inventory(context), request.source, request.path):
            hint = "backupd show ID says which database a generation is of"
            yield Finding(f"backups of {request.source}", ok=False, detail=conflict, hint=hint)
        yield run_check(f"space for {request.source}", lambda: _space(request, context))


def _restores(path: Path, context: TaskContext) -> Iterator[Finding]:
    """Yield a finding for a killed restore, and one for each old database that a restore kept."""
    try:
        target = real_path(path)
        with DatabasePlace.open(target) as place:
            if restore_pending(place):
                what = f"a restore of {target} was killed, or is running"
                yield Finding("restore", ok=False, detail=what, hint="the next backup or restore finishes or undoes it")
            for kept in kept_files(place):
                if kept.holds_data:
                    yield kept_by_restore(kept.path.name, kept.since, kept.size_bytes, context)
    except TargetRefused as error:
        yield Finding("restore", ok=False, detail=error.message, hint=error.hint)
    except (SourceUnusable, OSError):  # a link that is refused, or an unreadable directory, is a finding of the source
        return


def _readable(request: BackupRequest) -> str:
    source = inspect_source(request)
    wait_s = request.settings.hot_journal_wait_s
    impatient = request.settings._replace(hot_journal_wait_s=min(wait_s, _HOT_WAIT_S))
    probed = probe_source(source, impatient, Path("/"))
    if probed["hot"]:
        raise SourceUnusable(
            f"{source.path}-journal is hot: the app died in a transaction and has not started again",
            f"start the app, which rolls it back; each backup waits {wait_s:.0f} s for that, then copies the state "
            "before the transaction and is degraded",
        )
    copier = probed["copier"]
    if tuple(int(part) for part in copier.split(".")) < OLDEST_SQLITE:
        oldest = ".".join(str(part) for part in OLDEST_SQLITE)
        raise CheckFailed(f"SQLite {copier} has known bugs in recovery", f"install apsw {oldest} or later")
    if source.unmapped:
        raise SourceUnusable(
            f"{source.path} is readable now, but its {source.unmapped} is not mapped in this user namespace: "
            "it cannot be restored in place, nor backed up as an idle WAL database",
            NAMESPACE_HINT,
        )
    where = f"{source.path}: {human_bytes(source.size_bytes)}, on {probed['filesystem']}, uid {source.uid}"
    if probed["encrypted"]:
        return f"{where}, encrypted: copied as it is; only the app can check its integrity"
    return f"{where}, {probed['journal_mode']}, written by SQLite {probed['writer']}, readable with SQLite {copier}"


def _space(request: BackupRequest, context: TaskContext) -> str:
    source, directory = inspect_source(request), context.store.directory
    last = local_inventory(context).last_database(request.source)
    needed = bytes_needed(source, last, 2 if request.settings.method == "vacuum" else 1)
    reserve = reserve_bytes(directory, request.reserve_bytes)
    require_space(directory, needed, reserve, f"a backup of {request.source}", FILES_OF_A_BACKUP)
    free = context.store.free_space()
    return f"{human_bytes(needed)} needed, {human_bytes(free)} free, {human_bytes(reserve)} kept in reserve"


def _check_store(databases: Sequence[str], sets: Sequence[str], context: TaskContext) -> Iterator[Finding]:
    """Yield a finding for each part of the local store."""
    inventory = local_inventory(context)
    yield run_check("catalog", lambda: _catalog(inventory, context))
    yield run_check("log", lambda: _log(context))
    yield from _generations(inventory, context)
    if unpaired_files := context.store.unpaired_files():
        hint = "backupd does not remove files that it does not know; check them, then delete them"
        yield Finding("stray files", ok=False, detail=", ".join(unpaired_files), hint=hint)
    for source in (*databases, *sets):
        if hold := context.holds.get(source):
            detail = f"pruning of {source} is on hold since {hold.since:%F}: {hold.reason}"
            what = "directory" if source in sets else "database"
            hint = f"check the {what}, then: backupd prune --unfreeze --source {source}"
            yield Finding("pruning", ok=False, detail=detail, hint=hint)
    yield from _quarantine(context)


def _catalog(inventory: Inventory, context: TaskContext) -> str:
    path = context.catalog_path
    if not os.path.lexists(path):
        if inventory.generations:
            raise CatalogUnavailable(
                f"there is no catalog {path}", "run backupd catalog rebuild: it reads the manifests"
            )
        return f"the first backup makes {path}"
    with read_catalog(path) as catalog:
        catalog.runs(limit=1)
    if not os.access(path, os.W_OK, effective_ids=True):  # SQLite would open it read-only
        raise CatalogUnavailable(f"{path} is not writable: no run is recorded", "give it to backupd's user (chown)")
    return f"{path} is usable"


def _log(context: TaskContext) -> str:
    require_log_writable(context.store.directory)
    return f"{context.store.directory / LOG_NAME} can be written"


def _quarantine(context: TaskContext) -> Iterator[Finding]:
    now = context.clock()
    for copy in context.quarantine.copies():
        age = human_age((now - copy.since).total_seconds())
        detail = f"{copy.name} is a damaged copy, {age} old, {human_bytes(copy.size_bytes)}"
        hint = f"read findings.txt in {copy.directory}; backupd clean removes it after {KEPT_FOR.days} days"
        yield Finding("quarantine", ok=False, detail=detail, hint=hint)


def _generations(inventory: Inventory, context: TaskContext) -> Iterator[Finding]:
    ahead = [g.id for g in inventory.generations if g.taken_at - context.clock() > CLOCK_TOLERANCE]
    damaged = [g.id for g in inventory.generations if g.damaged and g.id not in inventory.refused]
    if ahead:
        hint = "set the clock; generations that are dated in the future never count"
        yield Finding("generations", ok=False, detail=f"{', '.join(ahead)} are dated in the future", hint=hint)
    if inventory.refused:
        hint = "; ".join(map(inventory.how_to_repair, inventory.refused))
        yield Finding("generations", ok=False, detail="; ".join(inventory.refused.values()), hint=hint)
    if damaged:
        hint = f"they never count; when they are no longer needed: backupd remove {' '.join(damaged)}"
        yield Finding("generations", ok=False, detail=f"{', '.join(damaged)} failed a check", hint=hint)
    if not (ahead or inventory.refused or damaged):
        yield Finding("generations", ok=True, detail=f"{len(inventory.generations)} in {context.store.directory}")
