"""Whom to run as: decided from PUID, PGID, and the owners of the databases."""

import os
from pathlib import Path

import pytest

from backupd.errors import ConfigError
from backupd.privileges import Identity, Owner, decide_identity, owners_of

ROOT = 0
TASKS = Owner(Path("/app/data/tasks.db"), 1000, 2000)
NOTES = Owner(Path("/app/data/notes.db"), 1000, 2001)
FOREIGN = Owner(Path("/other/app.db"), 1001, 1001)
UNMAPPED = Owner(Path("/other/app.db"), None, None)
OF_ROOT = Owner(Path("/root.db"), 0, 0)


def decide(
    *owners: Owner, euid: int = ROOT, groups: frozenset[int] = frozenset({0}), **environ: str
) -> tuple[int, int] | None:
    users = {1000: 3000}
    identity = decide_identity(environ, euid, groups, owners, users.get)
    return None if identity is None else (identity.uid, identity.gid)


def refusal(*owners: Owner, euid: int = ROOT, groups: frozenset[int] = frozenset({0}), **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        decide(*owners, euid=euid, groups=groups, **environ)
    assert caught.value.exit_code == 78
    assert caught.value.hint
    return caught.value


def test_without_puid_root_stays_root_as_on_any_machine() -> None:
    assert decide(TASKS) is None


@pytest.mark.parametrize("puid", ["auto", "AUTO", "", " "])
def test_auto_is_the_owner_of_the_database_and_so_is_an_empty_value(puid: str) -> None:
    assert decide(TASKS, PUID=puid) == (1000, 2000)
    assert decide(TASKS, PUID=puid, PGID="") == (1000, 2000)


def test_the_reason_names_the_database() -> None:
    assert decide_identity({"PUID": "auto"}, ROOT, frozenset(), [TASKS], lambda _uid: None) == Identity(
        1000, 2000, "the owner of /app/data/tasks.db"
    )


def test_pgid_goes_before_the_group_of_the_database() -> None:
    assert decide(TASKS, PUID="auto", PGID="100") == (1000, 100)


def test_several_databases_of_one_user_need_no_help() -> None:
    assert decide(TASKS, NOTES, PUID="auto") == (1000, 2000)


def test_databases_of_several_users_need_a_decision() -> None:
    error = refusal(TASKS, FOREIGN, PUID="auto")
    assert "/app/data/tasks.db to 1000, /other/app.db to 1001" in error.message
    assert "PUID and PGID" in error.hint
    assert decide(TASKS, FOREIGN, PUID="1001") == (1001, 2000)
    assert decide(TASKS, FOREIGN, PUID="0") is None


def test_a_database_of_root_beside_one_of_a_user_needs_a_decision_too() -> None:
    assert "to 0" in refusal(TASKS, OF_ROOT, PUID="auto").message


def test_root_stays_what_it_is_where_the_database_is_its_own_or_nobody_is_known() -> None:
    assert decide(OF_ROOT, PUID="auto") is None
    assert decide(PUID="auto") is None


def test_an_owner_that_is_not_mapped_here_is_refused_with_the_way_out_and_nobody_is_named_in_its_place() -> None:
    error = refusal(TASKS, UNMAPPED, PUID="auto")
    assert error.message.startswith("/other/app.db belongs to a user that is not mapped in this user namespace")
    assert "user namespace of the app" in error.hint
    assert decide(UNMAPPED, PUID="1000") == (1000, 3000)
    assert decide(UNMAPPED, PUID="0") is None


def test_a_group_that_is_not_mapped_here_is_that_of_the_user() -> None:
    assert decide(Owner(Path("/app/data/tasks.db"), 1000, None), PUID="auto") == (1000, 3000)
    assert decide(Owner(Path("/app/data/tasks.db"), 4242, None), PUID="auto") == (4242, 4242)


def test_zero_stays_root_on_purpose_in_any_group() -> None:
    assert decide(TASKS, PUID="0") is None
    assert decide(TASKS, PUID="0", PGID="100") == (0, 100)


def test_a_number_takes_its_group_from_the_database_then_from_the_user_then_from_itself() -> None:
    assert decide(TASKS, PUID="1000") == (1000, 2000)
    assert decide(PUID="1000") == (1000, 3000)
    assert decide(PUID="4242") == (4242, 4242)
    assert decide(TASKS, PUID="4242", PGID="0") == (4242, 0)


@pytest.mark.parametrize("value", ["app", "-1", "1000:1000", "4294967295", "1e3", "٣", "0x10", "99999999999"])
@pytest.mark.parametrize("name", ["PUID", "PGID"])
def test_what_is_no_id_is_named_with_what_to_do(name: str, value: str) -> None:
    error = refusal(TASKS, **{"PUID": "auto", name: value})
    assert error.message.startswith(f"{name}={value!r} is not a")
    assert "stat -c %" in error.hint


def test_a_group_without_a_user_is_refused_rather_than_ignored() -> None:
    assert "PUID is not" in refusal(TASKS, PGID="100").message
    assert decide(TASKS, PGID="") is None


def test_without_root_nothing_is_done_where_nothing_else_is_asked_for() -> None:
    for environ in ({}, {"PUID": "auto"}, {"PUID": ""}, {"PUID": "1000"}, {"PUID": "1000", "PGID": "50"}):
        assert decide(TASKS, FOREIGN, euid=1000, groups=frozenset({1000, 50}), **environ) is None


def test_without_root_another_user_or_group_is_refused() -> None:
    groups = frozenset({1000})
    assert "runs as user 1000 already" in refusal(TASKS, euid=1000, groups=groups, PUID="1001").message
    assert "start the container as root" in refusal(TASKS, euid=1000, groups=groups, PUID="0").hint
    assert "not in that group" in refusal(TASKS, euid=1000, groups=groups, PUID="1000", PGID="7").message


@pytest.mark.root
def test_a_missing_database_speaks_by_the_directory_that_would_hold_it_unless_that_is_roots(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    assert owners_of([directory / "deep" / "tasks.db"]) == ()
    os.chown(directory, 1000, 2000)
    assert owners_of([directory / "deep" / "tasks.db"]) == (Owner(directory, 1000, 2000),)


@pytest.mark.root
def test_a_database_speaks_for_itself_also_behind_a_link(tmp_path: Path) -> None:
    database = tmp_path / "tasks.db"
    database.touch()
    (tmp_path / "link.db").symlink_to(database)
    assert owners_of([database]) == (Owner(database, 0, 0),)
    os.chown(database, 1000, 2000)
    assert owners_of([tmp_path / "link.db"]) == (Owner(tmp_path / "link.db", 1000, 2000),)
