"""The deploys of one gate on disk: a file for each, beside it what its tests printed; and what has been received.

Each change is durable before the next step is taken. A file that cannot be read, or that a newer version wrote, is left
as it is, and named.
"""

import json
import os
import secrets
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from pydantic import TypeAdapter, ValidationError

from backupd.errors import StoreUnusable
from backupd.gate.delivery import MAX_BODY_BYTES, Ignored
from backupd.gate.model import Deploy, Push
from backupd.system.directory import Directory

DEPLOYS: Final = "deploys"
KEPT: Final = 50
_WORK: Final = "work"
_RECEIVED: Final = "received.json"
_RECORD, _OUTPUT, _BODY, _NEW = ".json", ".txt", ".body", ".new"
_FORMAT: Final = 1
_DAMAGED: Final = "it is damaged"
_MAX_RECORD: Final = 1 << 20
_MAX_OUTPUT: Final = 100 << 10
_MOST_RECEIVED: Final = 10_000
_SWAPPED_WITHIN: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Record:
    """A deploy, and the digest of the body that reported its push."""

    deploy: Deploy
    digest: str
    format: int = _FORMAT


@dataclass(frozen=True, slots=True)
class Received:
    """The deploy of a push; `new` unless the same delivery has made it before."""

    deploy: Deploy
    new: bool = True


class _Newer(ValueError):
    """A newer version of backupd wrote a file."""


_CODEC: Final = TypeAdapter(Record)


def judge(
    push: Push, digest: str, records: tuple[Record, ...], received: tuple[str, ...], now: datetime
) -> Deploy | Ignored | str:
    """Return what a push is: one that has a deploy already, one that is too old, or a new one; pure.

    A new one is "newest", or "older" where it was overtaken on the way: by the push that began at its commit.
    `records` are newest first, `received` the digests of all bodies, oldest first. The id of a delivery is not signed:
    a body that was received before is accepted again only while none has come after it.
    """
    for record in records:
        if record.digest == digest and (record.deploy.push.delivery == push.delivery or not record.deploy.ended):
            return record.deploy
    if digest in received:
        if received[-1] != digest:
            return Ignored("this push was received before, and newer ones since: push again to deploy that commit")
        return "newest"
    return "older" if _is_overtaken(push, records, now) else "newest"


def _is_overtaken(push: Push, records: Iterable[Record], now: datetime) -> bool:
    """Return whether a push that was received in the last minutes began at the commit of this one, or after it."""
    of_ref = [one.deploy for one in records if one.deploy.push.ref == push.ref]
    latest = [one.push for one in of_ref if now - one.received_at < _SWAPPED_WITHIN]
    if not latest or push.before == latest[0].commit:  # it follows: a branch may also be set back to where it was
        return False
    begins, commits = {latest[0].before}, {one.commit: one.before for one in latest}
    for _ in latest:
        begins |= {commits[one] for one in begins if one in commits}
    return push.commit in begins


class History:
    """The deploys of one gate, in `directory` below that of the gate; safe for several threads.

    A change that cannot be written is in memory all the same. All methods that write raise OSError.
    """

    def __init__(self, directory: Path, records: tuple[Record, ...], received: tuple[str, ...]) -> None:
        self._directory = directory
        self._records = {one.deploy.id: one for one in records}
        self._received = received
        self._lock = threading.Lock()
        self.unreadable: tuple[str, ...] = ()

    @classmethod
    def open(cls, gate_dir: Path, gate: str) -> Self:
        """Open the history of `gate`, which is made where it is missing.

        Raises OSError; StoreUnusable where a newer version has noted what was received, which tells old pushes.
        """
        with Directory.open(gate_dir) as above, above.make(DEPLOYS) as deploys, deploys.make(gate) as directory:
            names = set(directory.names())
            records, unreadable = _read_records(directory, names)
            received, problem = _read_received(directory)
            _sweep(directory, names)
            received = received or tuple(one.digest for one in sorted(records, key=_order))
            history = cls(gate_dir / DEPLOYS / gate, records, received)
            history.unreadable = (*unreadable, *problem)
            return history

    def deploys(self) -> tuple[Deploy, ...]:
        """Return all deploys, newest first."""
        return tuple(one.deploy for one in self._newest_first())

    def get(self, deploy_id: str) -> Deploy:
        """Return one deploy as it is now."""
        return self._records[deploy_id].deploy

    def receive(self, gate: str, push: Push, digest: str, now: datetime) -> Received | Ignored:
        """Return the deploy of `push`, durable; one that was overtaken on the way has ended already."""
        with self._lock:
            records = self._newest_first()
            found = judge(push, digest, records, self._received, now)
            if isinstance(found, Ignored):
                return found
            if isinstance(found, Deploy):
                return Received(found, new=False)
            if records:  # times are in the order of reception, also where the clock is set back
                now = max(now, records[0].deploy.received_at + timedelta(microseconds=1))
            deploy = Deploy(f"{now:%Y%m%dt%H%M%S%f}-{secrets.token_hex(3)}", gate, push, now)
            if found == "older":
                deploy = replace(deploy, state="superseded", ended_at=now)
            self._note_received(digest, older=found == "older")
            try:
                self._write(Record(deploy, digest), body=push.body)
            except OSError:
                self._records = {key: one for key, one in self._records.items() if key != deploy.id}
                raise
            with suppress(OSError):  # the next push tries again
                self._prune()
            return Received(deploy)

    def save(self, deploy: Deploy) -> None:
        """Replace the deploy of that id."""
        with self._lock:
            self._write(replace(self._records[deploy.id], deploy=deploy))

    def new_output(self, deploy_id: str) -> Path:
        """Return where what the tests print is to be kept, in a new file. Raises OSError."""
        with Directory.open(self._directory) as directory:
            directory.unlink(f"{deploy_id}{_OUTPUT}")  # of tests that were cut off
        return self._directory / f"{deploy_id}{_OUTPUT}"

    def output(self, deploy_id: str) -> str:
        """Return the end of what the tests printed; empty where there is nothing."""
        with (
            suppress(OSError),
            Directory.open(self._directory) as directory,
            open(directory.open_file(f"{deploy_id}{_OUTPUT}"), "rb") as stream,
        ):
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _MAX_OUTPUT))
            return stream.read(_MAX_OUTPUT).decode(errors="replace")
        return ""

    def make_work(self) -> Path:
        """Return an empty directory for one deploy, private to this user."""
        with Directory.open(self._directory) as directory:
            directory.remove(_WORK)
            directory.make(_WORK, new=True, durable=False).close()
        return self._directory / _WORK

    def remove_work(self) -> None:
        """Remove that directory with all that is in it."""
        with Directory.open(self._directory) as directory:
            directory.remove(_WORK)

    def _newest_first(self) -> tuple[Record, ...]:
        return tuple(sorted(self._records.values(), key=_order, reverse=True))

    def _write(self, record: Record, *, body: bytes = b"") -> None:
        deploy = record.deploy
        self._records = {**self._records, deploy.id: record}  # others may be reading the one before
        name = f"{deploy.id}{_RECORD}"
        with Directory.open(self._directory) as directory:
            if body and not deploy.ended:
                _replace(directory, f"{deploy.id}{_BODY}", body)
            _replace(directory, name, _CODEC.dump_json(record, indent=1, exclude={"deploy": {"push": {"body"}}}))
            if deploy.ended:
                directory.unlink(f"{deploy.id}{_BODY}")

    def _note_received(self, digest: str, *, older: bool) -> None:
        """Note it as the newest, or, where it was overtaken, before the one that overtook it."""
        before = tuple(one for one in self._received if one != digest)
        later = before[-1:] if older else ()
        digests = (*before[: len(before) - len(later)], digest, *later)[-_MOST_RECEIVED:]
        with Directory.open(self._directory) as directory:
            _replace(directory, _RECEIVED, json.dumps({"format": _FORMAT, "digests": digests}).encode())
        self._received = digests

    def _prune(self) -> None:
        """Remove the oldest deploys that have ended, but for the last ones."""
        for deploy_id in [one.deploy.id for one in self._newest_first()[KEPT:] if one.deploy.ended]:
            with Directory.open(self._directory) as directory:
                for suffix in (_OUTPUT, _BODY, _RECORD):
                    directory.unlink(f"{deploy_id}{suffix}")
            self._records = {key: one for key, one in self._records.items() if key != deploy_id}


def _order(record: Record) -> tuple[datetime, str]:
    return record.deploy.received_at, record.deploy.id


def _replace(directory: Directory, name: str, data: bytes) -> None:
    directory.replace(name, data, temporary=f"{name}{_NEW}")


def _read_records(directory: Directory, names: Iterable[str]) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """Return the deploys, and why some of their files cannot be used."""
    records, problems = [], []
    for name in sorted(names):
        if not name.endswith(_RECORD) or name == _RECEIVED:
            continue
        try:
            records.append(_read_record(directory, name))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            problems.append(f"{directory.path_of(name)}: {why}")
    return tuple(records), tuple(problems)


def _read_record(directory: Directory, name: str) -> Record:
    """Return the deploy in the file `name`. Raises OSError, ValueError."""
    raw = directory.read(name, _MAX_RECORD)
    try:
        _require_format(raw)
        record = _CODEC.validate_json(raw)
    except (ValidationError, RecursionError):
        raise ValueError(_DAMAGED) from None
    deploy = record.deploy
    times = (deploy.received_at, *(one.began_at for one in deploy.steps), *(one.ended_at for one in deploy.steps))
    if any(at is not None and at.tzinfo is None for at in times):
        raise ValueError(_DAMAGED)
    if f"{record.deploy.id}{_RECORD}" != name:
        raise ValueError("it is the file of another deploy")
    if record.deploy.ended:
        return record
    body = b""
    with suppress(FileNotFoundError):
        body = directory.read(f"{record.deploy.id}{_BODY}", MAX_BODY_BYTES)
    return replace(record, deploy=replace(record.deploy, push=replace(record.deploy.push, body=body)))


def _read_received(directory: Directory) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the digests of the bodies that were received, and why they cannot be used."""
    try:
        raw = directory.read(_RECEIVED)
        _require_format(raw)
        return tuple(map(str, json.loads(raw)["digests"])), ()
    except FileNotFoundError:
        return (), ()
    except _Newer as error:
        hint = "use that version; or move the directory away, after which old pushes could be deployed again"
        raise StoreUnusable(f"{directory.path_of(_RECEIVED)}: {error}", hint) from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return (), (f"{directory.path_of(_RECEIVED)}: {_DAMAGED}",)


def _require_format(raw: bytes) -> None:
    """Raise ValueError for what a newer version of backupd wrote, or nobody of backupd."""
    found = json.loads(raw)
    if not isinstance(found, Mapping) or not isinstance(found.get("format"), int):
        raise ValueError(_DAMAGED)  # noqa: TRY004 - as for any other damage
    if found["format"] > _FORMAT:
        raise _Newer(f"a newer version of backupd wrote it (format {found['format']})")


def _sweep(directory: Directory, names: set[str]) -> None:
    """Remove what a killed gate left: half-written files, parts without a record, and the copy of data."""
    directory.remove(_WORK)
    for name in names:
        stem, dot, suffix = name.partition(".")
        is_part = f"{dot}{suffix}" in (_OUTPUT, _BODY) and f"{stem}{_RECORD}" not in names
        if is_part or name.endswith(_NEW):
            directory.unlink(name)
