"""Two stores and one replica: neither counts the copies of the other, and none of them are removed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.log import null_log
from backupd.model import LOCAL_STORE
from backupd.report import AnyReport
from backupd.retention import RetentionPolicy
from backupd.stores.contract import Replica
from backupd.stores.directory_replica import DirectoryReplica
from backupd.stores.local import DirectoryStore
from backupd.tasks.backup import backup
from backupd.tasks.context import TaskContext, rebuild_catalog
from backupd.tasks.doctor.replica import check_replica
from backupd.tasks.drill import drill
from backupd.tasks.replica import Connect, once, replica_inventory
from backupd.tasks.requests import BackupRequest, DrillRequest, RetentionRule
from support.bank import make_bank
from support.replicas import REPLICATE_ALL, assert_checksums, complete_generations, over_sftp, replicate_to

MONDAY = datetime(2026, 11, 23, 4, tzinfo=UTC)
LAST = replace(REPLICATE_ALL, retention=RetentionRule(RetentionPolicy(last=1, within=timedelta(), daily=0, weekly=0)))


@dataclass
class Machine:
    """A machine of its own: an app with its database, a local store, and a clock that stands still."""

    home: Path
    now: datetime

    @property
    def context(self) -> TaskContext:
        return TaskContext(DirectoryStore(LOCAL_STORE, self.home / "backups"), null_log(), 5, clock=lambda: self.now)

    def backs_up(self, *sources: str, days: float = 0) -> list[str]:
        """Let `days` pass, and take a generation of each source; returns their ids."""
        self.now += timedelta(days=days)
        orders = [
            BackupRequest(source, self.home / f"{source}.db", reserve_bytes=0, retention=None) for source in sources
        ]
        reports = [backup(order, self.context) for order in orders]
        assert {report.outcome for report in reports} <= {"published", "unchanged"}, reports
        return [str(report.generation) for report in reports]


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Machine]:
    def make(name: str, *sources: str) -> Machine:
        home = tmp_path / name
        home.mkdir()
        for source in sources or ("tasks",):
            make_bank(home / f"{source}.db", rows=10 + len(name))
        made = Machine(home, MONDAY)
        made.context.store.prepare()
        return made

    return make


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The directory at the replica; not made yet."""
    return tmp_path / "there"


@pytest.fixture(params=["sftp", "directory"])
def connect(request: pytest.FixtureRequest, files: Path) -> Callable[[Machine], Connect]:
    """What connects a machine to a replica of each kind."""

    def to_directory() -> AbstractContextManager[Replica]:
        return nullcontext(DirectoryReplica("there", files))

    def connecting(machine: Machine) -> Connect:
        if request.param == "sftp":
            return over_sftp(request.getfixturevalue("sshd"), files, machine.context)
        return to_directory

    return connecting


def contents(files: Path) -> dict[str, bytes]:
    """Return all that an operator sees there."""
    return {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()}


def foreign(report: AnyReport, other: Machine) -> bool:
    """Tell whether a run failed because of the copies of another machine, and says so with the ways out."""
    said = f"{report.error} {report.hint}"
    expected = (other.context.identity(), str(other.home / "tasks.db"), "a directory of its own", "--adopt")
    return (report.outcome, report.exit_code) == ("failed", 1) and all(part in said for part in expected)


def test_second_store_is_refused_before_sending_or_removing(
    machine: Callable[..., Machine], connect: Callable[[Machine], Connect], files: Path
) -> None:
    first, second = machine("first"), machine("second")
    first.backs_up("tasks")
    assert replicate_to(connect(first), first.context).outcome == "done"
    before = contents(files)
    second.backs_up("tasks", days=1)
    report = replicate_to(connect(second), second.context, order=LAST)
    assert foreign(report, first)
    assert "24 h old): nothing of that source was sent or removed" in str(report.error)
    assert contents(files) == before
    assert replicate_to(connect(first), first.context).outcome == "done"
    found = list(check_replica(LAST, connect(second), second.context))[-1]
    assert (found.check, found.ok, "another store" in found.detail) == ("copies at there", False, True)
    assert list(check_replica(LAST, connect(first), first.context))[-1].detail == "1 generation of this store"
    with connect(second)() as there:
        inventory = replica_inventory("there", there, second.context)
        order = DrillRequest("tasks", "there", 1e6, 1, 0)
        (drilled,) = drill([order], lambda: nullcontext((there, inventory)), once, second.context)
    assert foreign(drilled, first)


def test_two_stores_in_one_replica_both_send_with_warning_and_remove_nothing(
    machine: Callable[..., Machine], connect: Callable[[Machine], Connect], files: Path
) -> None:
    first, second = machine("first"), machine("second")
    first.backs_up("tasks")
    second.backs_up("tasks", days=1)
    left = [lambda: replicate_to(connect(second), second.context)]

    @contextmanager
    def raced() -> AbstractContextManager[Replica]:  # the other sends after we have seen that there is nothing
        with connect(first)() as replica:
            sweep = replica.sweep
            replica.sweep = lambda wanted: (left.pop()() if left else None, sweep(wanted))[1]  # type: ignore[method-assign]
            yield replica

    assert foreign(replicate_to(raced, first.context, order=LAST), second)
    for turn in range(2, 4):
        for one, other in ((first, second), (second, first)):
            one.backs_up("tasks", days=turn)
            (one.home / "tasks.db").unlink()
            make_bank(one.home / "tasks.db", rows=turn * 10 + len(str(one.home)))
            taken = one.backs_up("tasks", days=0.1)
            before = complete_generations(files)
            report = replicate_to(connect(one), one.context, order=LAST)
            assert foreign(report, other)
            assert (
                report.details.removed,
                taken[0] in complete_generations(files),
                before <= complete_generations(files),
            ) == (
                (),
                True,
                True,
            )
    assert_checksums(files)
    with connect(first)() as there:
        inventory = replica_inventory("there", there, first.context)
        order = DrillRequest("tasks", "there", 1e8, 1, 0)
        (drilled,) = drill([order], lambda: nullcontext((there, inventory)), once, first.context)
    newest = next(
        m for g in inventory.generations if (m := inventory.manifests[g.id]).store == first.context.identity()
    )
    assert (drilled.outcome, drilled.generation) == ("done", newest.id)


def test_foreign_source_at_replica_does_not_block_other_sources(
    machine: Callable[..., Machine], connect: Callable[[Machine], Connect], files: Path
) -> None:
    first, second = machine("first"), machine("second", "tasks", "notes")
    (mine,) = first.backs_up("tasks")
    assert replicate_to(connect(first), first.context).outcome == "done"
    _, notes = second.backs_up("tasks", "notes", days=1)
    order = replace(REPLICATE_ALL, sources=("tasks", "notes"))
    report = replicate_to(connect(second), second.context, order=order)
    assert foreign(report, first)
    assert (report.details.sent, complete_generations(files)) == ((notes,), {mine, notes})
    assert_checksums(files)


def test_generations_of_lost_machine_are_adopted_and_counted_with_new_ones(
    machine: Callable[..., Machine], connect: Callable[[Machine], Connect], files: Path
) -> None:
    lost, new = machine("lost"), machine("new")
    (old,) = lost.backs_up("tasks")
    assert replicate_to(connect(lost), lost.context).outcome == "done"
    (taken,) = new.backs_up("tasks", days=3)
    report = replicate_to(connect(new), new.context, order=replace(LAST, adopt=True))
    assert (report.outcome, report.details.sent, report.details.removed) == ("done", (taken,), ())
    (note,) = report.notes
    assert all(part in note for part in ("adopted", lost.context.identity(), str(lost.home), old, "3 d old"))
    assert complete_generations(files) == {old, taken}, "a run that adopts removes nothing yet"
    assert replicate_to(connect(new), new.context, order=LAST).details.removed == (), "what is adopted is pinned"
    assert new.context.pins.release(old)
    assert replicate_to(connect(new), new.context, order=LAST).details.removed == (old,)


def test_living_store_is_adopted_only_by_force_and_only_up_to_now(
    machine: Callable[..., Machine], connect: Callable[[Machine], Connect], files: Path
) -> None:
    first, second = machine("first"), machine("second")
    second.backs_up("tasks")
    first.backs_up("tasks", days=1)
    assert replicate_to(connect(first), first.context).outcome == "done"
    second.now += timedelta(days=2)
    report = replicate_to(connect(second), second.context, order=replace(REPLICATE_ALL, adopt=True))
    assert (report.outcome, "seems to be in use" in str(report.error)) == ("failed", True)
    assert "--force" in str(report.hint)
    assert second.context.identities.adopted() == {}
    assert (
        replicate_to(connect(second), second.context, order=replace(REPLICATE_ALL, adopt=True, force=True)).outcome
        == "done"
    )
    make_bank(first.home / "other.db", rows=5)
    (first.home / "other.db").replace(first.home / "tasks.db")
    first.backs_up("tasks", days=5)
    assert foreign(replicate_to(connect(first), first.context), second)
    assert foreign(replicate_to(connect(second), second.context, order=LAST), first)
    assert len(complete_generations(files)) == 3


def test_generations_copied_into_local_store_belong_to_it(
    machine: Callable[..., Machine], connect: Callable[[Machine], Connect], files: Path
) -> None:
    lost, new = machine("lost"), machine("new")
    (old,) = lost.backs_up("tasks")
    new.backs_up("tasks", days=-3)
    for path in lost.context.store.directory.glob("tasks-*"):
        path.replace(new.context.store.directory / path.name)
    new.now += timedelta(days=9)
    assert replicate_to(connect(new), new.context).outcome == "done"
    for path in new.context.store.directory.glob(f"{old}*"):
        path.unlink()
    assert (replicate_to(connect(new), new.context).outcome, len(complete_generations(files))) == ("done", 2)


def test_identity_survives_loss_of_catalog_and_is_recovered_from_generations(
    machine: Callable[..., Machine],
) -> None:
    one = machine("one")
    one.backs_up("tasks")
    known = one.context.identity()
    assert rebuild_catalog(one.context) == 1
    one.context.catalog_path.unlink()
    one.backs_up("tasks", days=1)
    assert one.context.identity() == known
    for path in (one.home / "backups" / ".backupd").glob("identity*"):
        path.unlink()
    assert one.context.identity() == known
    for path in (one.home / "backups").glob("tasks-*"):
        path.unlink()
    (one.home / "backups" / ".backupd" / "identity").write_text("damaged")
    assert one.context.identity() != known


def test_older_copies_of_store_adopted_by_local_generation_are_pinned_at_replica(
    machine: Callable[..., Machine], connect: Callable[[Machine], Connect]
) -> None:
    lost, new = machine("lost"), machine("new")
    new.backs_up("tasks", days=-3)
    (oldest,) = lost.backs_up("tasks")
    make_bank(lost.home / "other.db", rows=5)
    (lost.home / "other.db").replace(lost.home / "tasks.db")
    (old,) = lost.backs_up("tasks", days=1)
    assert replicate_to(connect(lost), lost.context).details.sent == (old, oldest)
    for path in lost.context.store.directory.glob(f"{old}*"):
        path.replace(new.context.store.directory / path.name)
    new.now += timedelta(days=9)
    assert replicate_to(connect(new), new.context, order=LAST).details.removed == ()
    assert new.context.pins.all().keys() == {old, oldest}
    assert new.context.pins.release(oldest)
    assert replicate_to(connect(new), new.context, order=LAST).details.removed == (oldest,)
