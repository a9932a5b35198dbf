"""`backupd restore --undo` undoes the newest restore first, in place or online, and names it."""

import json
from pathlib import Path

import pytest
from keyboard import Keyboard

from support.app import App, running_app
from support.bank import spend, transfers
from support.directories import beside

UNDO = ("restore", "--undo")


def ledger(app: App) -> int:
    """Return how many transfers the running app finds."""
    ((count,),) = app.sql("SELECT count(*) FROM ledger")
    return int(count)


def pinned(typed: Keyboard) -> dict[str, bool]:
    """Return of each generation whether it is pinned, as the store has it."""
    return {each["id"]: any("pinned" in reason for reason in each["kept_for"]) for each in typed("list", "--json").json}


@pytest.fixture
def both(typed: Keyboard, database: Path, generation: str) -> tuple[str, str]:
    """A database of 5 transfers replaced in place by one of none, on which 2 more were made, and then online again.

    Returns the generation of none, and the one that was backed up before the online restore.
    """
    spend(database, 5)
    assert typed("restore", generation).code == 0
    spend(database, 2)
    with running_app(database) as app:
        assert ledger(app) == 2
        answer = typed("restore", generation, "--online", "--json")
        assert (answer.code, ledger(app)) == (0, 0), answer
    return generation, typed("list", "--json").json[0]["id"]


def test_online_restore_is_undone_online_before_earlier_restore_in_place(
    typed: Keyboard, database: Path, both: tuple[str, str]
) -> None:
    generation, safety = both
    with running_app(database) as app:
        assert ledger(app) == 0
        planned = typed(*UNDO, "--dry-run")
        assert planned.code == 0, planned
        assert f"would take back the restore online of {generation} at " in planned.out
        assert f": restoring {safety} online" in planned.out
        assert ledger(app) == 0
        done = typed(*UNDO)
        assert (done.code, ledger(app)) == (0, 2), done
        refused = typed(*UNDO)
        assert (refused.code, ledger(app)) == (75, 2)
        assert "--online" not in refused.err
        assert typed(*UNDO, "--online").code == 1
    done = typed(*UNDO)
    assert (done.code, transfers(database)) == (0, 5), done
    assert f"taking back the restore in place of {generation} at " in done.out


def test_online_restore_is_undone_in_place_with_app_stopped_and_redone(
    typed: Keyboard, database: Path, both: tuple[str, str]
) -> None:
    generation, safety = both
    spend(database)  # on what was restored online
    answer = typed(*UNDO, "--json")
    assert (answer.code, transfers(database)) == (0, 2), answer
    told = answer.json["takes_back"]
    assert (told["kind"], told["generation"], told["puts_back"]) == ("restore", generation, safety)
    again = typed(*answer.json["undo"].split()[1:], "--json")
    assert (again.code, transfers(database)) == (0, 1), again
    assert again.json["undo"] == "backupd restore --undo --source tasks"
    assert typed(*UNDO).code == 0
    assert transfers(database) == 2


def test_restores_in_place_are_undone_and_redone_in_order(typed: Keyboard, database: Path, generation: str) -> None:
    for count in (3, 4):
        spend(database, count)
        assert typed("restore", generation).code == 0
    assert transfers(database) == 0
    found = []
    for step in ("--undo", "--undo", "--redo", "--redo", "--undo", "--undo", "--undo"):
        answer = typed("restore", step)
        assert answer.code == 0, answer
        found.append(transfers(database))
    assert found == [4, 3, 4, 0, 4, 3, 4], "with nothing left, an undo takes the last undo back"
    spend(database)
    assert typed("restore", generation).code == 0
    assert typed("restore", "--redo").code == 1, "what was undone before another restore is over"


def test_restored_generation_and_safety_backup_are_pinned(typed: Keyboard, both: tuple[str, str]) -> None:
    assert pinned(typed) == dict.fromkeys(both, True)


def test_undo_of_restore_with_deleted_old_database_is_refused(typed: Keyboard, database: Path, generation: str) -> None:
    for count in (3, 4):
        spend(database, count)
        kept = Path(typed("restore", generation, "--json").json["kept"])
    kept.unlink()
    refused = typed(*UNDO)
    assert (refused.code, transfers(database)) == (1, 0)
    record = Path(f"{kept}.json")
    assert f"remove {record}" in refused.err
    record.unlink()
    assert typed(*UNDO).code == 0
    assert transfers(database) == 3


def test_restore_of_missing_database_is_recorded_only_if_it_hides_an_earlier_restore(
    typed: Keyboard, database: Path, generation: str
) -> None:
    database.unlink()
    assert typed("restore", generation).code == 0
    assert not [name for name in beside(database) if name.endswith(".json")]
    spend(database)
    assert typed("restore", generation).code == 0
    database.unlink()
    assert typed("restore", generation).code == 0
    refused = typed(*UNDO)
    assert (refused.code, transfers(database)) == (1, 0)
    assert "undoing it would leave none" in refused.err


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{}",
        json.dumps({"kind": "restore", "generation": "../../etc/passwd", "before": "file", "safety": None}).encode(),
        json.dumps({"kind": "restore", "generation": None, "before": "generation", "safety": None}).encode(),
    ],
    ids=["empty", "no fields", "a path for a name", "no generation"],
)
def test_forged_restore_record_is_refused(typed: Keyboard, database: Path, newer: str, record: bytes) -> None:
    assert newer
    path = Path(f"{typed('restore', '--json').json['kept']}.json")
    path.write_bytes(record)
    answer = typed(*UNDO)
    assert (answer.code, transfers(database)) == (1, 0)
    assert f"{path} is damaged" in answer.err
    assert typed("restore").code == 0, "it stands in the way of no other restore"


def test_hints_offer_only_accepted_options(typed: Keyboard, database: Path, newer: str) -> None:
    assert newer
    with running_app(database) as app:
        app.sql("SELECT 1 FROM ledger")
        assert "--online" in typed("restore").err
        database.rename(f"{database}.away")
        assert "--online" not in typed("restore").err, "there is nothing to restore into"
        Path(f"{database}.away").rename(database)
