"""The deploys of a gate on disk: durable, bounded, and which push is new, known or too old."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backupd.errors import StoreUnusable
from backupd.gate.delivery import Ignored
from backupd.gate.history import KEPT, History, Received
from backupd.gate.model import Deploy, Push, Step
from support.pushes import ZEROS, commit

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def push(after: int, before: int | None = None, *, ref: str = "refs/heads/main", delivery: str = "") -> Push:
    old = ZEROS if before is None else commit(before)
    return Push(delivery or f"d-{after}-{before}", "me/tasks", ref, commit(after), old, "ana")


def digest(one: Push) -> str:
    return f"{one.ref} {one.before} {one.commit}"


def receive(history: History, one: Push, after_s: float = 0.0) -> Received | Ignored:
    return history.receive("tasks", one, digest(one), NOW + timedelta(seconds=after_s))


def received(history: History, one: Push, after_s: float = 0.0) -> Deploy:
    found = receive(history, one, after_s)
    assert isinstance(found, Received)
    assert found.new
    return found.deploy


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History.open(tmp_path, "tasks")


def test_deploy_is_as_it_was_after_restart(history: History, tmp_path: Path) -> None:
    deploy = received(history, replace(push(2, 1), body=b'{"\xff": 1}', headers={"x-gitea-event": "push"}))
    step = Step("backup", "failed", NOW, NOW + timedelta(seconds=1.5), "it failed", "do this")
    deploy = replace(deploy, state="running", steps=(step,), generations=("tasks-1",), version_before="v1")
    history.save(deploy)
    again = History.open(tmp_path, "tasks")
    assert (again.deploys(), again.unreadable) == ((deploy,), ())


def test_body_is_kept_until_deploy_has_ended(history: History, tmp_path: Path) -> None:
    deploy = received(history, replace(push(2, 1), body=b"signed"))
    history.save(replace(deploy, state="deployed", ended_at=NOW))
    assert [one.push.body for one in History.open(tmp_path, "tasks").deploys()] == [b""]
    assert not list(tmp_path.rglob("*.body"))


def test_files_are_private(history: History, tmp_path: Path) -> None:
    received(history, push(2, 1))
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "deploys").rglob("*")}
    assert modes == {0o700, 0o600}


# --- Which push is new ---


def test_same_delivery_has_same_deploy(history: History) -> None:
    deploy = received(history, push(2, 1))
    history.save(replace(deploy, state="stopped", ended_at=NOW))
    found = receive(history, push(2, 1))
    assert isinstance(found, Received)
    assert (found.deploy.id, found.new) == (deploy.id, False)


def test_delivery_id_of_another_body_is_no_excuse(history: History) -> None:
    received(history, push(2, 1, delivery="taken"))
    assert received(history, push(3, 2, delivery="taken")).push.commit == commit(3)


def test_newest_push_is_deployed_again_when_redelivered(history: History) -> None:
    deploy = received(history, push(2, 1))
    running = receive(history, push(2, 1, delivery="again"))
    assert isinstance(running, Received)
    assert (running.deploy.id, running.new) == (deploy.id, False)  # it is still on its way
    history.save(replace(deploy, state="stopped", ended_at=NOW))
    assert received(history, push(2, 1, delivery="again-2")).id != deploy.id


@pytest.mark.parametrize("ref", ["refs/heads/main", "refs/tags/v2"])
def test_old_push_under_new_delivery_id_is_not_deployed(history: History, tmp_path: Path, ref: str) -> None:
    old = received(history, push(2, 1))
    received(history, push(3, 2 if ref == "refs/heads/main" else None, ref=ref))
    history.save(replace(old, state="deployed", ended_at=NOW))
    for place in (history, History.open(tmp_path, "tasks")):
        assert isinstance(receive(place, push(2, 1, delivery="forged")), Ignored)


def test_old_push_is_known_when_its_deploy_is_forgotten(history: History, tmp_path: Path) -> None:
    for number in range(2, KEPT + 10):
        deploy = received(history, push(number, number - 1), after_s=number * 3600)
        history.save(replace(deploy, state="deployed", ended_at=NOW))
    assert len(history.deploys()) == KEPT
    assert isinstance(receive(History.open(tmp_path, "tasks"), push(2, 1, delivery="forged")), Ignored)


def test_swapped_pushes_leave_the_newer_one(history: History) -> None:
    newer = received(history, push(3, 2))
    older = received(history, push(2, 1), after_s=0.5)
    assert (history.get(newer.id).state, older.state) == ("waiting", "superseded")
    assert isinstance(receive(history, push(3, 2, delivery="again")), Received)  # it is still the newest
    assert isinstance(receive(history, push(2, 1, delivery="again")), Ignored)


def test_three_swapped_pushes_leave_the_newest(history: History) -> None:
    received(history, push(4, 3))
    states = [received(history, push(number, number - 1), after_s=0.1).state for number in (3, 2)]
    assert states == ["superseded", "superseded"]


def test_branch_that_is_set_back_is_deployed(history: History) -> None:
    received(history, push(2, 1))
    assert received(history, push(1, 2), after_s=1).state == "waiting"
    assert received(history, push(2, 1, ref="refs/heads/other"), after_s=2).state == "waiting"


def test_old_commit_long_after_is_a_new_push(history: History) -> None:
    received(history, push(3, 2))
    assert received(history, push(2, 9), after_s=3600).state == "waiting"


def test_order_holds_when_clock_is_set_back(history: History) -> None:
    first = received(history, push(2, 1))
    second = received(history, push(3, 2), after_s=-3600)
    assert history.deploys() == (second, first)


# --- What others left ---


def test_only_last_deploys_that_ended_are_kept(history: History, tmp_path: Path) -> None:
    waiting = received(history, push(1, 0))
    for number in range(2, KEPT + 4):
        deploy = received(history, push(number, number - 1), after_s=number * 3600)
        history.new_output(deploy.id).write_text("passed")
        history.save(replace(deploy, state="deployed", ended_at=NOW))
    received(history, push(999, 998), after_s=10**6)
    kept = History.open(tmp_path, "tasks").deploys()
    assert len(kept) == KEPT + 1
    assert waiting in kept
    assert len(list(tmp_path.rglob("*.txt"))) == KEPT - 1


def test_damaged_file_is_named_and_left(history: History, tmp_path: Path) -> None:
    deploy = received(history, push(2, 1))
    directory = tmp_path / "deploys" / "tasks"
    text = (directory / f"{deploy.id}.json").read_text()
    naive = text.replace("2026-11-30T12:00:00Z", "2026-11-30T12:00:00")
    assert naive != text
    odd = {"a": b"", "b": b"[]", "c": b"[" * 100_000, "d": b'{"format": 1}', "e": text.encode(), "f": naive.encode()}
    for name, content in odd.items():
        (directory / f"{name}.json").write_bytes(content)
    (directory / "g.json").symlink_to("/etc/passwd")
    again = History.open(tmp_path, "tasks")
    assert [one.id for one in again.deploys()] == [deploy.id]
    assert len(again.unreadable) == len(odd) + 1
    assert all((directory / f"{name}.json").read_bytes() == content for name, content in odd.items())


def test_file_of_newer_version_is_left(history: History, tmp_path: Path) -> None:
    path = history.new_output("20260101t000000000000-abcdef").with_suffix(".json")
    path.write_text('{"format": 2, "deploy": {}}')
    again = History.open(tmp_path, "tasks")
    assert "a newer version" in again.unreadable[0]
    for number in range(2, KEPT + 4):
        deploy = received(again, push(number, number - 1), after_s=number * 3600)
        again.save(replace(deploy, state="deployed", ended_at=NOW))
    assert json.loads(path.read_text())["format"] == 2


def test_list_of_newer_version_is_not_replaced(history: History, tmp_path: Path) -> None:
    received(history, push(2, 1))
    path = tmp_path / "deploys" / "tasks" / "received.json"
    path.write_text('{"format": 2}')
    with pytest.raises(StoreUnusable, match="a newer version"):
        History.open(tmp_path, "tasks")
    assert path.read_text() == '{"format": 2}'


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1}', b'{"format": 1, "digests": 5}'])
def test_damaged_list_is_made_again_from_deploys(history: History, tmp_path: Path, content: bytes) -> None:
    history.save(replace(received(history, push(2, 1)), state="deployed", ended_at=NOW))
    received(history, push(3, 2))
    (tmp_path / "deploys" / "tasks" / "received.json").write_bytes(content)
    again = History.open(tmp_path, "tasks")
    assert len(again.unreadable) == 1
    assert isinstance(receive(again, push(2, 1, delivery="forged")), Ignored)


def test_leftovers_are_removed(history: History, tmp_path: Path) -> None:
    deploy = received(history, push(2, 1))
    directory = tmp_path / "deploys" / "tasks"
    for name in ("x.txt", "x.body", f"{deploy.id}.json.new"):
        (directory / name).write_text("left")
    history.new_output(deploy.id).write_text("passed")
    (history.make_work() / "copy.sqlite3").write_text("data of the app")
    History.open(tmp_path, "tasks")
    assert sorted(path.name for path in directory.iterdir()) == [
        f"{deploy.id}.json",
        f"{deploy.id}.txt",
        "received.json",
    ]


def test_end_of_long_output_is_read(history: History) -> None:
    deploy = received(history, push(2, 1))
    assert history.output(deploy.id) == ""
    history.new_output(deploy.id).write_bytes(b"\xff" + b"a" * (1 << 20) + b"the end")
    assert history.output(deploy.id).endswith("the end")
    assert len(history.output(deploy.id)) <= 100 << 10


def test_push_that_cannot_be_written_is_not_deployed(history: History, tmp_path: Path) -> None:
    (tmp_path / "deploys" / "tasks").rename(tmp_path / "gone")
    with pytest.raises(OSError, match="No such file"):
        receive(history, push(2, 1))
    assert history.deploys() == ()
    (tmp_path / "gone").rename(tmp_path / "deploys" / "tasks")
    assert received(history, push(2, 1)).state == "waiting"
