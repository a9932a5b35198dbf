"""`backupd restore --undo` puts the old database back."""

from pathlib import Path

from keyboard import Keyboard

from support.app import running_app
from support.bank import transfers
from support.directories import beside, sha256


def test_undo_with_old_database_in_use_is_refused(typed: Keyboard, database: Path, newer: str) -> None:
    assert newer
    kept = Path(typed("restore", "--json").json["kept"])
    restored = sha256(database)
    with running_app(kept) as looker:
        looker.sql("INSERT INTO ledger(payer, payee, amount) VALUES (1, 2, 0)")
        answer = typed("restore", "--undo")
        assert (answer.code, sha256(database)) == (75, restored)
        assert f"{kept.name} is in use" in answer.err
        looker.kill()
    assert typed("restore", "--undo").code == 0
    assert transfers(database) == 6
    assert not [name for name in beside(database) if name.endswith(("-wal", "-shm"))]


def test_undo_with_link_in_place_of_old_database_is_refused(typed: Keyboard, database: Path, newer: str) -> None:
    database.with_name(f"{database.name}.pre-restore-99991231T235959Z").symlink_to("/etc/passwd")
    answer = typed("restore", "--undo")
    assert (answer.code, sha256(database), database.is_symlink()) == (1, newer, False)
    assert "no restore created it" in answer.err


def test_undo_without_restore_is_refused(typed: Keyboard, newer: str, database: Path) -> None:
    answer = typed("restore", "--undo")
    assert (answer.code, sha256(database)) == (1, newer)
    assert "nothing can be undone" in answer.err
