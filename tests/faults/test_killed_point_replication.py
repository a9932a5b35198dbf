"""A replication of a restore point that is killed before any of its changes: nothing that is named there is missing.

The replica has a point already, which goes once the new one is there.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from forks import BY_CTYPES, CHANGES, hit

from backupd.log import null_log
from backupd.masking import Mask
from backupd.report import ReplicationDetails, RunReport
from backupd.retention import RetentionPolicy
from backupd.stores.contract import Replica
from backupd.stores.directory_replica import DirectoryReplica
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext
from backupd.tasks.requests import BackupRequest, ReplicationRequest, RetentionRule
from support.bank import spend
from support.file_sets import FileSet
from support.points import assert_complete_points, publish_point
from support.replicas import assert_checksums, over_sftp, replicate_to
from support.sshd import Sshd

LAST = RetentionRule(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0))
REQUEST = ReplicationRequest("there", LAST, ("tasks", "uploads"))
HERE = (CHANGES | {BY_CTYPES}) - {"write"}  # what is staged is swept, however much of it there is
THERE = frozenset({"send"})  # over the connection
_RUN = re.compile("run-[^/]+")
FIRST_SEND, EACH_SEND = 20, 60


@dataclass
class Site:
    """A store below `root` and its replica, in a directory or behind `sshd`."""

    root: Path
    now: datetime
    sshd: Sshd | None
    context: TaskContext = field(init=False)

    def __post_init__(self) -> None:
        self.context = TaskContext(
            DirectoryStore("local", self.root / "backups"), null_log(Mask([])), clock=lambda: self.now
        )

    @property
    def there(self) -> Path:
        return self.root / "there"

    @contextmanager
    def directory(self) -> Iterator[Replica]:
        yield DirectoryReplica("there", self.there)

    def replicate(self) -> RunReport[ReplicationDetails]:
        connect = over_sftp(self.sshd, self.there, self.context) if self.sshd else self.directory
        return replicate_to(connect, self.context, order=REQUEST)

    def copy(self) -> "Site":
        """Return a fresh copy, which takes the place of the last one."""
        root = self.root.with_name("copy")
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.root, root)
        return replace(self, root=root)

    def files(self, name: str) -> dict[str, bytes]:
        """Return all files in `backups` or `there`, but for what a store keeps for itself."""
        found = ((path.relative_to(self.root / name), path) for path in (self.root / name).rglob("*"))
        return {str(name): path.read_bytes() for name, path in found if path.is_file() and name.parts[0] != ".backupd"}

    def state(self) -> frozenset[str]:
        """Return the names of all files, without what differs between runs."""
        return frozenset(_RUN.sub("run", str(path.relative_to(self.root))) for path in self.root.rglob("*"))

    def leftovers(self) -> list[Path]:
        """Return what is staged or in transfer."""
        hidden = self.there / ".backupd"
        return [
            path for path in hidden.rglob("*") if path.suffix == ".part" or path.parent.name in ("staging", "removing")
        ]


@pytest.fixture(params=["directory", "sftp"])
def site(request: pytest.FixtureRequest, tmp_path: Path, order: BackupRequest) -> Site:
    """A replica with a restore point, and a store with a newer one."""
    over = request.getfixturevalue("sshd") if request.param == "sftp" else None
    made = Site(tmp_path / "site", datetime.now(UTC) - timedelta(days=3), over)
    made.root.mkdir()
    made.context.store.prepare()
    uploads = FileSet(tmp_path / "app")
    uploads.context = made.context

    def point() -> str:
        keys = [
            backup(replace(order, retention=None), made.context).generation,
            uploads.back_up(retention=None).generation,
        ]
        return publish_point(made.context.store.directory, [key for key in keys if key])

    for name in ("both", "old"):
        uploads.write(name, f"what {name} contains")
    first = point()
    assert made.replicate().details.points == (first,)
    for path in made.there.glob("files/*/*"):
        os.utime(path, (0, 0))
    (uploads.path / "old").unlink()
    uploads.write("new", "what new contains" * 50)
    uploads.write("large", os.urandom(300_000))
    spend(order.path)
    made.now += timedelta(days=3)
    point()
    return made


def test_replication_of_point_killed_at_any_step_leaves_whole_points_and_next_run_ends_it(site: Site) -> None:
    changes, steps = (THERE, count(FIRST_SEND, EACH_SEND)) if site.sshd else (HERE, count(1, 3))
    whole = site.copy()
    report = whole.replicate()
    assert (report.outcome, len(report.details.points), report.details.contents) == ("done", 1, 2)
    expected, here = whole.files("there"), site.files("backups")
    kills, seen = 0, set[frozenset[str]]()
    for at in steps:
        copy = site.copy()
        is_killed = hit(copy.replicate, at, 0, changes)
        kills, state = kills + is_killed, copy.state()
        if is_killed and state in seen:
            continue  # the next run would find what it has found before
        seen.add(state)
        assert assert_complete_points(copy.there), f"no point is left by a kill before change {at}"
        report = copy.replicate()
        assert (report.outcome, report.warnings) == ("done", ()), f"after a kill before change {at}"
        assert copy.files("there") == expected, f"after a kill before change {at}"
        assert copy.files("backups") == here
        assert copy.leftovers() == []
        if not is_killed:
            break
    assert_checksums(copy.there)
    assert kills > (3 if site.sshd else 10)
