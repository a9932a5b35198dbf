"""Which user to run as, decided from PUID, PGID and the owners of the databases."""

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


def test_root_without_puid_stays_root() -> None:
    assert decide(TASKS) is None


@pytest.mark.parametrize("puid", ["auto", "AUTO", "", " "])
def test_auto_or_empty_puid_is_owner_of_database(puid: str) -> None:
    assert decide(TASKS, PUID=puid) == (1000, 2000)
    assert decide(TASKS, PUID=puid, PGID="") == (1000, 2000)


def test_reason_names_database() -> None:
    assert decide_identity({"PUID": "auto"}, ROOT, frozenset(), [TASKS], lambda _uid: None) == Identity(
        1000, 2000, "the owner of /app/data/tasks.db"
    )


def test_pgid_precedes_group_of_database() -> None:
    assert decide(TASKS, PUID="auto", PGID="100") == (1000, 100)


def test_databases_of_one_user_give_that_user() -> None:
    assert decide(TASKS, NOTES, PUID="auto") == (1000, 2000)


def test_databases_of_several_users_are_refused() -> None:
    error = refusal(TASKS, FOREIGN, PUID="auto")
    assert "/app/data/tasks.db to 1000, /other/app.db to 1001" in error.message
    assert "PUID and PGID" in error.hint
    assert decide(TASKS, FOREIGN, PUID="1001") == (1001, 2000)
    assert decide(TASKS, FOREIGN, PUID="0") is None


def test_databases_of_root_and_user_are_refused() -> None:
    assert "to 0" in refusal(TASKS, OF_ROOT, PUID="auto").message


def test_auto_stays_root_for_database_of_root_or_unknown_owner() -> None:
    assert decide(OF_ROOT, PUID="auto") is None
    assert decide(PUID="auto") is None


def test_unmapped_owner_is_refused_with_hint_and_without_substitute() -> None:
    error = refusal(TASKS, UNMAPPED, PUID="auto")
    assert error.message.startswith("/other/app.db belongs to a user that is not mapped in this user namespace")
    assert "user namespace of the app" in error.hint
    assert decide(UNMAPPED, PUID="1000") == (1000, 3000)
    assert decide(UNMAPPED, PUID="0") is None


def test_unmapped_group_becomes_group_of_user() -> None:
    assert decide(Owner(Path("/app/data/tasks.db"), 1000, None), PUID="auto") == (1000, 3000)
    assert decide(Owner(Path("/app/data/tasks.db"), 4242, None), PUID="auto") == (4242, 4242)


def test_puid_zero_stays_root_in_any_group() -> None:
    assert decide(TASKS, PUID="0") is None
    assert decide(TASKS, PUID="0", PGID="100") == (0, 100)


def test_numeric_puid_takes_group_of_database_then_of_user_then_same_number() -> None:
    assert decide(TASKS, PUID="1000") == (1000, 2000)
    assert decide(PUID="1000") == (1000, 3000)
    assert decide(PUID="4242") == (4242, 4242)
    assert decide(TASKS, PUID="4242", PGID="0") == (4242, 0)


@pytest.mark.parametrize("value", ["app", "-1", "1000:1000", "4294967295", "1e3", "٣", "0x10", "99999999999"])
@pytest.mark.parametrize("name", ["PUID", "PGID"])
def test_invalid_id_is_named_with_hint(name: str, value: str) -> None:
    error = refusal(TASKS, **{"PUID": "auto", name: value})
    assert error.message.startswith(f"{name}={value!r} is not a")
    assert "stat -c %" in error.hint


def test_pgid_without_puid_is_refused() -> None:
    assert "PUID is not" in refusal(TASKS, PGID="100").message
    assert decide(TASKS, PGID="") is None


def test_non_root_without_conflicting_ids_changes_nothing() -> None:
    for environ in ({}, {"PUID": "auto"}, {"PUID": ""}, {"PUID": "1000"}, {"PUID": "1000", "PGID": "50"}):
        assert decide(TASKS, FOREIGN, euid=1000, groups=frozenset({1000, 50}), **environ) is None


def test_non_root_with_other_user_or_group_is_refused() -> None:
    groups = frozenset({1000})
    assert "runs as user 1000 already" in refusal(TASKS, euid=1000, groups=groups, PUID="1001").message
    assert "start the container as root" in refusal(TASKS, euid=1000, groups=groups, PUID="0").hint
    assert "not in that group" in refusal(TASKS, euid=1000, groups=groups, PUID="1000", PGID="7").message


@pytest.mark.root
def test_missing_database_has_owner_of_directory_unless_root(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    assert owners_of([directory / "deep" / "tasks.db"]) == ()
    os.chown(directory, 1000, 2000)
    assert owners_of([directory / "deep" / "tasks.db"]) == (Owner(directory, 1000, 2000),)


@pytest.mark.root
def test_linked_database_has_own_owner(tmp_path: Path) -> None:
    database = tmp_path / "tasks.db"
    database.touch()
    (tmp_path / "link.db").symlink_to(database)
    assert owners_of([database]) == (Owner(database, 0, 0),)
    os.chown(database, 1000, 2000)
    assert owners_of([tmp_path / "link.db"]) == (Owner(tmp_path / "link.db", 1000, 2000),)


def doubt_about(database: Path) -> str:
    (owner,) = owners_of([database])
    return owner.doubt


@pytest.mark.root
def test_root_is_not_followed_where_others_could_put_a_database(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    (data / "tasks.db").touch()
    assert doubt_about(data / "tasks.db") == ""
    assert owners_of([data / "missing.db"]) == ()
    data.chmod(0o1777)
    assert doubt_about(data / "tasks.db") == ""
    assert f"others may write to {data}" in doubt_about(data / "missing.db")
    data.chmod(0o777)
    assert f"others may write to {data}" in doubt_about(data / "tasks.db")
    os.chown(data, 1000, 1000)
    assert f"{data} belongs to user 1000" in doubt_about(data / "tasks.db")
    message = refusal(*owners_of([data / "tasks.db"]), PUID="auto").message
    assert message.startswith(f"PUID=auto does not follow the owner of {data / 'tasks.db'}, which is root's")


@pytest.mark.root
def test_link_of_one_user_to_database_of_another_is_not_followed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 1000, 1000)
    (tmp_path / "other.db").touch()
    (data / "tasks.db").symlink_to(tmp_path / "other.db")
    os.chown(data / "tasks.db", 1000, 1000, follow_symlinks=False)
    assert doubt_about(data / "tasks.db").startswith(f"{data / 'tasks.db'}: ")
    assert str(tmp_path / "other.db") in doubt_about(data / "tasks.db")
