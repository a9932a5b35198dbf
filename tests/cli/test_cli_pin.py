"""Manual backups, `pin` and `unpin`: what is kept beside the policy, here and at replicas, and until when."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from keyboard import Keyboard

from backupd.model import ARCHIVE_SUFFIX
from support.bank import spend
from support.command import log_lines
from support.generations import backdated

ONE_A_DAY = {f"BACKUPD_RETENTION__{rule}": count for rule, count in (("WITHIN", "0"), ("DAILY", "1"), ("WEEKLY", "0"))}


@pytest.fixture
def nas(tmp_path: Path) -> Path:
    return tmp_path / "nas"


@pytest.fixture
def replica(nas: Path) -> dict[str, str]:
    """The environment of a replica in a directory."""
    return {"BACKUPD_REPLICAS__NAS__URL": f"file:{nas}"}


def taken(typed: Keyboard, *arguments: str, **environ: str) -> str:
    """Back up with `arguments`, and return the generation that holds the database."""
    answer = typed("backup", "--json", *arguments, **environ)
    assert answer.code == 0, answer.err
    generation: str = answer.json["generation"]
    return generation


def listed(typed: Keyboard, *arguments: str, **environ: str) -> dict[str, dict[str, Any]]:
    return {facts["id"]: facts for facts in typed("list", "--json", *arguments, **environ).json}


def test_good_copy_of_day_is_kept_after_second_backup_of_broken_data_here_and_at_replica(
    typed: Keyboard, database: Path, nas: Path, replica: dict[str, str]
) -> None:
    good = taken(typed, "--no-pin")
    spend(database, 5)
    broken = taken(typed, "--no-pin")
    assert typed("replicate", **replica).code == 0
    for facts in (listed(typed), listed(typed, "--store", "nas", **replica)):
        assert "within 48h" in facts[good]["kept_for"]
        assert "within 48h" in facts[broken]["kept_for"]
    assert (nas / f"{good}{ARCHIVE_SUFFIX}").exists()


def test_manual_backup_is_pinned_for_thirty_days_and_cron_backup_is_not(typed: Keyboard, database: Path) -> None:
    first = taken(typed, "--label", "before v2", **ONE_A_DAY)
    spend(database, 5)
    second = taken(typed, "--no-pin", **ONE_A_DAY)
    spend(database, 5)
    third = taken(typed, **ONE_A_DAY)
    facts = listed(typed)
    assert facts.keys() == {first, third}, f"{second} was pinned"
    pinned_for = datetime.fromisoformat(facts[first]["pinned_until"]) - datetime.fromisoformat(facts[first]["taken_at"])
    assert timedelta(days=30) <= pinned_for < timedelta(days=30, hours=1)
    assert (facts[first]["pinned"], facts[first]["label"], facts[third]["label"]) == (True, "before v2", "")
    assert "made by hand (before v2)" in typed("list").out
    assert "made by hand (before v2)" in typed("show", first).out


def test_manual_backup_of_unchanged_database_pins_generation_and_shortens_no_pin(typed: Keyboard) -> None:
    generation = taken(typed, "--no-pin")
    assert not listed(typed)[generation]["pinned"]
    answer = typed("backup", "--pin", "--label", "release 7", "--json")
    assert (answer.json["outcome"], answer.json["generation"]) == ("unchanged", generation)
    assert taken(typed) == generation
    facts = listed(typed)[generation]
    assert (facts["pinned"], facts["pinned_until"], facts["label"]) == (True, None, "release 7")


def test_pinned_generation_is_kept_beyond_policy_until_released(
    typed: Keyboard, backups: Path, generation: str
) -> None:
    old = backdated(backups, generation, days=400)
    assert typed("pin", old, "--label", "year end").out.startswith(f"{old}: pinned until released")
    assert typed("prune", **ONE_A_DAY).code == 0
    assert listed(typed, **ONE_A_DAY)[old]["kept_for"] == ["pinned until released: by an operator (year end)"]
    assert typed("unpin", old, generation).out.splitlines() == [f"{old}: released", f"{generation}: was not pinned"]
    assert typed("prune", **ONE_A_DAY).code == 0
    assert listed(typed).keys() == {generation}
    actions = [line["event.action"] for line in log_lines(backups)]
    assert [action for action in actions if "pinned" in action] == ["generation.pinned", "generation.unpinned"]


def test_pin_of_several_ids_with_one_unknown_pins_none(typed: Keyboard, generation: str) -> None:
    answer = typed("pin", generation, "tasks-20200101-0400", "--json")
    assert (answer.code, "tasks-20200101-0400" in answer.json["error"]) == (1, True)
    assert not listed(typed)[generation]["pinned"]


def test_pin_holds_at_replica_after_local_removal_and_is_sent_beyond_policy(
    typed: Keyboard, backups: Path, generation: str, replica: dict[str, str]
) -> None:
    old = backdated(backups, generation, days=400)
    typed("pin", old)
    assert typed("replicate", **ONE_A_DAY, **replica).code == 0
    assert typed("remove", old, "--force").code == 0
    for _ in range(2):
        assert typed("replicate", **ONE_A_DAY, **replica).code == 0
        assert listed(typed, "--store", "nas", **replica)[old]["pinned"]
    typed("unpin", old)
    assert typed("replicate", **ONE_A_DAY, **replica).code == 0
    assert listed(typed, "--store", "nas", **replica).keys() == {generation}


def test_generation_at_replica_can_be_pinned_after_loss_of_catalog_and_pins(
    typed: Keyboard, backups: Path, generation: str, replica: dict[str, str]
) -> None:
    old = backdated(backups, generation, days=400)
    typed("replicate", **replica)
    typed("remove", old)
    typed("replicate", BACKUPD_RETENTION__YEARLY="9", **replica)
    for catalog in (backups / ".backupd").glob("catalog*"):
        catalog.unlink()
    assert typed("pin", old, **replica).code == 1
    assert typed("pin", old, "--store", "nas", **replica).code == 0
    assert typed("replicate", **ONE_A_DAY, **replica).code == 0
    assert old in listed(typed, "--store", "nas", **replica)


@pytest.mark.parametrize("label", ["two\nlines", "\x1b[2J", "x" * 201])
def test_unprintable_label_is_refused_before_backup(typed: Keyboard, backups: Path, label: str) -> None:
    answer = typed("backup", "--label", label)
    assert (answer.code, "cannot be shown in a list" in answer.err) == (2, True)
    assert typed("backup", "--no-pin", "--label", "v2").code == 2
    assert not backups.exists()
