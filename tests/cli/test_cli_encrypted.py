"""An encrypted database from backup to restore: each command reports its checks, and none writes to a copy."""

from pathlib import Path

import pytest

from support.app import running_app
from support.cipher import PLAIN_HEADER, WHOLE, encrypted, read
from support.command import Backupd
from support.directories import sha256


@pytest.mark.parametrize("cipher", [WHOLE, PLAIN_HEADER], ids=["whole file", "plain header"])
def test_encrypted_database_is_reported_as_encrypted_by_list_verify_drill_and_restore(
    backupd: Backupd, database: Path, tmp_path: Path, cipher: tuple[str, ...]
) -> None:
    database.unlink()
    with encrypted(database, cipher, "wal"):
        pass
    assert "encrypted: copied as it is" in backupd("doctor").out
    queried = backupd("doctor", "--json", BACKUPD_DRILL__USER_VERSION="1").json
    (finding,) = [one for one in queried if one["check"] == "drill query"]
    assert (finding["ok"], "drill.user_version cannot read a copy of it" in finding["detail"]) == (False, True)
    assert backupd("backup").code == 3
    assert backupd("backup").code == 0
    (listed,) = backupd("list", "--json").json
    assert listed["verification"] == "opaque"
    assert "it is encrypted" in backupd("show", "latest").out
    assert backupd("verify").code == 0
    (drill,) = backupd("drill", "--from", "local", "--json").json
    assert (drill["outcome"], drill["verification"]) == ("done", "opaque")
    assert "contents" not in drill["drill"]["proven"]
    asked = backupd("drill", "--from", "local", BACKUPD_DRILL__USER_VERSION="1")
    assert asked.code == 1
    assert "only its app can read it" in asked.err
    restored = backupd("restore", "--to", tmp_path / "copy.db")
    assert (restored.code, "integrity checked" in restored.out) == (0, False)
    assert "only digest and size could be checked" in restored.out
    assert read(tmp_path / "copy.db", "SELECT count(*) FROM long", cipher) == [[2000]]


@pytest.mark.parametrize("cipher", [WHOLE, PLAIN_HEADER], ids=["whole file", "plain header"])
def test_encrypted_database_is_restored_in_place_byte_for_byte_and_refused_online(
    backupd: Backupd, database: Path, cipher: tuple[str, ...]
) -> None:
    database.unlink()
    with encrypted(database, cipher, "wal") as app:
        assert backupd("backup").code == 3
        app.sql("UPDATE account SET balance = 0")
        online = backupd("restore", "latest", "--online")
        assert online.code == 1
        assert "is encrypted: SQLite cannot write" in online.err
        assert app.sql("SELECT sum(balance) FROM account") == [[0]]
        app.kill()  # its WAL lies there
    restored = backupd("restore", "latest", "--json")
    assert restored.code == 0, restored.err
    assert sha256(database) == restored.json["snapshot_sha256"]
    assert read(database, "SELECT sum(balance) FROM account", cipher) == [[100]]
    assert backupd("restore", "--undo").code == 0
    with running_app(database, cipher=cipher) as app:
        assert app.sql("SELECT sum(balance) FROM account") == [[0]]
