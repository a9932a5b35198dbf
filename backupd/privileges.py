"""The user to run as: in a container that starts as root, the owner of the databases, or PUID and PGID.

Side files of SQLite and the backups beside the database then belong to the user of the app.
"""

import os
import pwd
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from backupd.config import Config
from backupd.errors import ConfigError
from backupd.log import LOG_NAME
from backupd.model import Manifest
from backupd.sqlite.permissions import apply_permissions, plan_permissions
from backupd.sqlite.source import real_path
from backupd.stores.contract import HIDDEN
from backupd.stores.ownership import transfer_ownership
from backupd.system.directory import Directory
from backupd.system.links import first_not_of_root, foreign_link, others_write
from backupd.system.owners import NAMESPACE_HINT, host_id, known_owner, rights_of_owner
from backupd.tasks.restore import RestoreRequest

PUID = "PUID"
PGID = "PGID"
AUTO = "auto"
_CAP_DAC_OVERRIDE = 1  # linux/capability.h
_HIGHEST = 2**32 - 2  # the next number means "unchanged" to chown(2)
_DOUBT = (
    f"set {PUID} to the number of the app's user (see `docker exec APP id -u`), or to 0 to run as root on purpose; or "
    "correct the owner of these files"
)
_CHOICES = "set PUID and PGID to numbers that fit all of them (see `stat -c %u:%g FILE`), or PUID=0 to stay root"


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of `path`: a database, or its nearest visible directory where it cannot be seen.

    `uid` and `gid` are None where this user namespace does not map them. `doubt` says why that is not to be followed:
    somebody else may have put it there.
    """

    path: Path
    uid: int | None
    gid: int | None
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and a group to run as, and the reason."""

    uid: int
    gid: int
    reason: str


def drop_privileges(config: Config, environ: Mapping[str, str]) -> Identity | None:
    """Become the user that `environ` asks for, permanently; `None` where this process keeps its user.

    The directory of the backups, and backupd's files in it that root owns, go to that user first. Call it before any
    file of the app or of the store is opened; a second call changes nothing. Raises ConfigError.
    """
    identity = identity_for(config, environ)
    if identity is None:
        return None
    become_root_again()
    hand_over_backups(config, identity)
    _become(identity)
    return identity


ROOT_HINT = f"set {PUID} to the number of the app's user if the app does not run as root: a fault then has fewer rights"


def runs_as_root(environ: Mapping[str, str]) -> str:
    """Return why this process runs as root in a container, empty where it does not."""
    if os.geteuid() != 0 or PUID not in environ:
        return ""
    return "since no other user owns a database" if follows_owner(environ) else f"as {PUID} says"


def follows_owner(environ: Mapping[str, str]) -> bool:
    """Tell whether root becomes the owner of the databases. Raises ConfigError."""
    return PUID in environ and _number(environ, PUID) is None


def may_override_rights() -> bool:
    """Tell whether this process may bypass file permissions (CAP_DAC_OVERRIDE), see proc(5)."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        effective = next(line.split()[1] for line in status if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> _CAP_DAC_OVERRIDE & 1)


def hand_over_backups(config: Config, identity: Identity) -> None:
    """Give `identity` the directory of the backups, and backupd's files in it that root owns. Raises ConfigError."""
    _require_mapped(identity)
    if identity.uid != 0:
        _hand_over(config.backups_dir, identity)


def become_owner_of_backups(config: Config, environ: Mapping[str, str]) -> None:
    """Become the owner of the backups until `become_root_again`, where root without DAC_OVERRIDE cannot read them.

    A missing database has no owner to become: without this, a restore could not read its generation.
    """
    store = config.backups_dir / HIDDEN
    if os.geteuid() != 0 or not follows_owner(environ) or not _is_shut_out(store):
        return
    owner = _owner_of(store)
    if owner is None or not owner.uid:
        return
    with suppress(OSError):  # without SETUID or SETGID: opening the store says what is missing
        os.setegid(owner.uid if owner.gid is None else owner.gid)
        os.seteuid(owner.uid)


def become_root_again() -> None:
    """Undo `become_owner_of_backups`, if it changed the user."""
    if os.getuid() == 0 and os.geteuid() != 0:
        os.seteuid(0)
        os.setegid(os.getgid())


def identity_for(config: Config, environ: Mapping[str, str]) -> Identity | None:
    """Return the identity that `drop_privileges` would take, `None` where this process keeps its own.

    It may return one later where it returns None now: a missing database has no owner. Raises ConfigError.
    """
    current = (os.getuid(), os.getgid())  # also while `become_owner_of_backups` lasts
    # Only root looks for the owners: a mount that hangs would block other users needlessly.
    asks = current[0] == 0 and PUID in environ
    owners = _owners(config) if asks else ()
    identity = decide_identity(environ, current[0], frozenset({current[1], *os.getgroups()}), owners, _group_of)
    return None if identity and (identity.uid, identity.gid) == current else identity


def _owners(config: Config) -> tuple[Owner, ...]:
    """Return the owners of the databases, of a directory the most frequent one alone, of those that have generations.

    Anybody who can write there could put a database of his own beside them; then that one fails, and no other.
    """
    single = (source.path for name, source in config.sources.items() if config.member(name) is None)
    found = list(owners_of(single))
    members = config.source_sets.members.values() if config.source_sets else ()
    for search in dict.fromkeys(member.search for member in members):
        of_search = [member for member in members if member.search == search]
        known = [member for member in of_search if member.known] or of_search
        owners = owners_of(member.path for member in known)
        (most, _number), *_others = Counter(owner.uid for owner in owners).most_common(1) or [(None, 0)]
        found += [owner for owner in owners if owner.uid == most]
    return tuple(found)


def owners_of(databases: Iterable[Path]) -> tuple[Owner, ...]:
    """Return the owner of each database, without those of which only directories that root alone writes can be seen."""
    found = (_owner_of(path) for path in databases)
    return tuple(owner for owner in found if owner is not None)


def decide_identity(
    environ: Mapping[str, str],
    euid: int,
    groups: frozenset[int],
    owners: Sequence[Owner],
    group_of: Callable[[int], int | None],
) -> Identity | None:
    """Return the identity that a process of `euid` in `groups` should take, `None` to keep its own.

    Without PUID it keeps its own; an empty PUID means "auto", which is what the image sets. `group_of` returns the
    group of a user, if there is such a user. Raises ConfigError where PUID and PGID cannot be followed.
    """
    if PUID not in environ:
        if euid == 0 and environ.get(PGID):
            raise ConfigError("PGID is set, but PUID is not", f"set PUID as well, to a number or to {AUTO}")
        return None
    uid, gid = _number(environ, PUID), _number(environ, PGID)
    if euid != 0:
        _refuse_another(uid, gid, euid, groups)
        return None
    if uid is None:
        return _owner(owners, gid, group_of)
    if uid == 0 and gid is None:
        return None
    if gid is None:
        gid = owners[0].gid if owners and owners[0].gid is not None else group_of(uid)
    return Identity(uid, uid if gid is None else gid, "as PUID says")


def _owner(owners: Sequence[Owner], gid: int | None, group_of: Callable[[int], int | None]) -> Identity | None:
    if doubt := next((owner.doubt for owner in owners if owner.doubt), ""):
        raise ConfigError(f"PUID=auto does not follow the owner of {doubt}", _DOUBT)
    if unmapped := next((owner for owner in owners if owner.uid is None), None):
        what = f"{unmapped.path} belongs to a user that is not mapped in this user namespace"
        hint = f"{NAMESPACE_HINT}; with PUID=0 it stays root, which can back up while the app has its database open"
        raise ConfigError(what, hint)
    if len({owner.uid for owner in owners}) > 1:
        whose = ", ".join(f"{owner.path} to {owner.uid}" for owner in owners)
        raise ConfigError(f"the databases belong to different users: {whose}", _CHOICES)
    if not owners or (owners[0].uid == 0 and gid is None):
        return None
    owner = owners[0]
    uid = owner.uid or 0
    if gid is None:
        gid = group_of(uid) if owner.gid is None else owner.gid
    return Identity(uid, uid if gid is None else gid, f"the owner of {owner.path}")


def _refuse_another(uid: int | None, gid: int | None, euid: int, groups: frozenset[int]) -> None:
    """Raise ConfigError where PUID or PGID differ from the identity of a process without root."""
    hint = "start the container as root (no --user, no user:), or leave PUID and PGID out"
    if uid is not None and uid != euid:
        raise ConfigError(f"PUID={uid} cannot be followed: this process runs as user {euid} already", hint)
    if gid is not None and gid not in groups:
        raise ConfigError(f"PGID={gid} cannot be followed: user {euid} is not in that group", hint)


def _number(environ: Mapping[str, str], name: str) -> int | None:
    """Return the id that `name` holds, `None` for "auto" or nothing. Raises ConfigError."""
    text = environ.get(name, "").strip()
    if text.lower() in ("", AUTO):
        return None
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > _HIGHEST:
        what = "user" if name == PUID else "group"
        hint = f"set it to a number, such as `stat -c %{what[0]} FILE` prints for the database, or to {AUTO}"
        raise ConfigError(f"{name}={text[:60]!r} is not a {what} id", hint)
    return int(text)


def _owner_of(database: Path) -> Owner | None:
    """Return the owner of the database, or of the nearest visible directory, which hides it and has the same owner."""
    for path in (database, *database.parents):
        try:
            found = path.stat()
        except OSError:
            continue
        owner = Owner(path, *known_owner(path, found), _doubt(database, path, found))
        return None if path != database and owner.uid == 0 and not owner.doubt else owner
    return None


def _doubt(database: Path, path: Path, found: os.stat_result) -> str:
    """Return why the owner of `path`, the visible part of the way to `database`, is not to be followed, if so.

    Root is followed only where no other user can have put the database there, or could put one there.
    """
    if foreign := foreign_link(database):
        return f"{database}: {foreign}"
    if found.st_uid != 0:
        return ""
    other = first_not_of_root(path)
    if other is not None and other.state.st_uid != 0:
        return f"{path}, which is root's, since {other.path} belongs to user {other.state.st_uid}"
    if other is not None or (path != database and others_write(found, create=True)):
        return f"{path}, which is root's, since others may write to {other.path if other else path}"
    return ""


def _is_shut_out(directory: Path) -> bool:
    try:
        os.scandir(directory).close()
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def _group_of(uid: int) -> int | None:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return None


def _hand_over(directory: Path, identity: Identity) -> None:
    try:
        transfer_ownership(directory, identity.uid, identity.gid, LOG_NAME)
    except OSError as error:
        owner = f"{host_id('uid', identity.uid)}:{host_id('gid', identity.gid)}"
        command = f"run once on the host: chown -R {owner} on what is mounted there"
        raise ConfigError(
            f"cannot give {directory} to user {identity.uid} ({identity.reason}): {error.strerror}",
            f"let the container have the capability CHOWN (cap_add), or {command}",
        ) from error


def _require_mapped(identity: Identity) -> None:
    """Raise ConfigError for ids that this user namespace does not map: files cannot be given to them."""
    for kind, number in (("uid", identity.uid), ("gid", identity.gid)):
        if host_id(kind, number) is None:
            raise ConfigError(
                f"cannot become user {identity.uid}:{identity.gid} ({identity.reason}): "
                f"{kind} {number} is not mapped in this user namespace",
                f"set PUID and PGID to ids of this container; or {NAMESPACE_HINT}",
            )


def _become(identity: Identity) -> None:
    try:
        os.setgroups([])
        os.setgid(identity.gid)
        os.setuid(identity.uid)
    except OSError as error:
        raise ConfigError(
            f"cannot become user {identity.uid}:{identity.gid} ({identity.reason}): {error.strerror}",
            "let the container have the capabilities SETUID and SETGID (cap_add), "
            f"or start it as that user (--user {identity.uid}:{identity.gid}), or set PUID=0 to stay root",
        ) from error
    if identity.uid != 0:
        os.environ["HOME"] = "/"  # libraries would look for files in /root, which is unreadable now


def give_directories(found: Iterable[tuple[RestoreRequest, Manifest]], config: Config) -> list[RestoreRequest]:
    """Give empty directories that databases are restored to, to the owners of these; then become the owner if possible.

    Missing ones below the directory of an app are made. All of them come first, since only root may do it; the store
    may be unreadable afterwards. A dry run changes nothing and only says what would be given. Raises ConfigError.
    """
    become_root_again()  # opening the store may have changed the user
    found = list(found)
    for request, manifest in found:
        _make_directory(request, manifest, config)
    requests = [_give_directory(request, manifest, config) for request, manifest in found]
    if not any(request.dry_run for request in requests):
        drop_privileges(config, os.environ)  # also where another restore has just given the directory away
        become_owner_of_backups(config, os.environ)
    return requests


def _make_directory(request: RestoreRequest, manifest: Manifest, config: Config) -> None:
    """Make the missing directories between that of an app, `request.below`, and the database. Raises OSError."""
    top, directory = request.below, request.path.parent
    if top is None or request.dry_run or directory == top or directory.exists() or not top.is_dir():
        return
    _give_directory(replace(request, path=top / request.path.name), manifest, config)  # while it is empty
    with ExitStack() as stack:
        at = stack.enter_context(Directory.open(top))
        owner, new = at.owner(), list[Directory]()
        with rights_of_owner(top.stat(), readable=os.access(top, os.W_OK | os.X_OK)):
            for name in directory.relative_to(top).parts:
                is_new = at.stat(name) is None
                at = stack.enter_context(at.make(name, manifest.origin.directory_mode & 0o777))
                new += [at] if is_new else []
        uid, gid = (-1 if one is None else one for one in owner)
        for made in new if os.geteuid() == 0 else ():  # the owner alone could not give its group
            os.fchown(made.descriptor, uid, gid)


def _give_directory(request: RestoreRequest, manifest: Manifest, config: Config) -> RestoreRequest:
    if os.geteuid() != 0 or not (follows_owner(os.environ) or may_override_rights()):
        return request  # without that capability root could not write to the directory of another user
    database = real_path(request.path)
    try:
        rights = plan_permissions(database, manifest.origin, config.backups_dir)
    except PermissionError:  # another restore has just given the directory away
        return request
    if rights is not None and rights.uid is not None and not request.dry_run:
        if follows_owner(os.environ):  # before the directory becomes inaccessible
            gid = rights.uid if rights.gid is None else rights.gid
            hand_over_backups(config, Identity(rights.uid, gid, f"the owner of {database.parent}"))
        if not apply_permissions(database, rights, config.backups_dir):
            return request
    return replace(request, directory=rights)
