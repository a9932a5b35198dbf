"""A store has one permanent identity, also when several processes create it and one is killed."""

import os
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from backupd.stores.state import Identities

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
_OF_IDENTITIES = re.compile("identity|adopted")
ONE, OTHER = "1" * 16, "2" * 16


def found_nothing() -> None:
    return None


def test_identity_is_created_once_and_kept(tmp_path: Path) -> None:
    identities = Identities(tmp_path)

    assert identities.own() is None
    made = identities.ensure(found_nothing)

    assert Identities(tmp_path).ensure(lambda: OTHER) == made == identities.own()


def test_lost_or_damaged_identity_is_recovered(tmp_path: Path) -> None:
    (tmp_path / "identity").write_text("")

    assert Identities(tmp_path).ensure(lambda: OTHER) == OTHER
    assert Identities(tmp_path).own() == OTHER


def test_concurrent_processes_get_one_identity(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: Identities(tmp_path).ensure(found_nothing), range(64)))

    assert made == {Identities(tmp_path).own()}


def test_adopted_identities_are_kept_once_each_with_latest_time(tmp_path: Path) -> None:
    later = NOON + timedelta(hours=1)
    Identities(tmp_path).adopt({OTHER: later})
    Identities(tmp_path).adopt({ONE: NOON, OTHER: NOON})
    with (tmp_path / "adopted").open("a") as damaged:
        damaged.write("3333333333333333 today\nno line of ours\n")

    assert Identities(tmp_path).adopted() == {ONE: NOON, OTHER: later}


def _killed_after(steps: int, directory: Path) -> bool:
    """Make an identity and adopt another in a child that is killed before its file operation number `steps`."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = iter(range(steps))

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event in {"open", "os.rename", "os.remove"} and _OF_IDENTITIES.search(repr(arguments)):
            next(left, None) is not None or os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)  # noqa: TID251 - in the child
    Identities(directory).ensure(lambda: ONE)
    Identities(directory).adopt({OTHER: NOON})
    os._exit(0)


def test_kill_at_any_operation_leaves_one_identity_and_complete_adoptions(tmp_path: Path) -> None:
    for steps in count():
        directory = tmp_path / str(steps)
        directory.mkdir()
        killed = _killed_after(steps, directory)
        own, adopted = Identities(directory).own(), Identities(directory).adopted()
        assert own in ({None, ONE} if killed else {ONE})
        assert set(adopted) in ([set(), {OTHER}] if killed else [{OTHER}])
        assert Identities(directory).ensure(lambda own=own: own or ONE) == ONE
        Identities(directory).adopt({OTHER: NOON})
        assert Identities(directory).adopted() == {OTHER: NOON}
        if not killed:
            break
    assert steps > 6, "it was never killed: this test tested nothing"
