"""`backupd restore` over a database in a transaction over two databases: its journal is never lost."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from keyboard import Keyboard

from support.attached_databases import balances, die_in_a_commit, make_accounts
from support.command import CommandResult, log_lines
from support.directories import beside, contents, hidden

pytestmark = pytest.mark.root


@dataclass(frozen=True)
class Half:
    """The attached database of a dead app, with a generation from before; and backupd for it."""

    main: Path
    attached: Path
    typed: Keyboard

    def __call__(self, *arguments: str) -> CommandResult:
        """Run `backupd ARGUMENTS` for the attached database."""
        environ = {"BACKUPD_DATABASE": str(self.attached), "BACKUPD_SOURCES__TASKS__HOT_JOURNAL_WAIT_S": "0.1"}
        return self.typed(*arguments, **environ)


@pytest.fixture
def half(tmp_path: Path, typed: Keyboard) -> Half:
    """Both databases are changed by half."""
    main, attached = tmp_path / "main" / "main.db", tmp_path / "attached" / "tasks.db"
    for path in (main, attached):
        path.parent.mkdir()
        make_accounts(path)
    made = Half(main, attached, typed)
    assert made("backup").code == 0
    die_in_a_commit(main, attached, attached)
    return made


def test_old_database_with_visible_super_journal_is_rolled_back_and_its_partner_at_app_start(half: Half) -> None:
    facts = half("restore", "--json").json
    assert (facts["old_damage"], facts["old_undecided"]) == ("", "")
    assert balances(Path(facts["kept"])) == balances(half.main) == balances(half.attached) == (100, 100)
    assert beside(half.attached) == {(kept := Path(facts["kept"]).name), f"{kept}.json"}


def test_old_database_without_visible_super_journal_is_kept_with_journal_and_undone_with_it(
    half: Half, backups: Path
) -> None:
    before = contents(half.attached.parent)
    with hidden(half.main.parent):
        said = half("restore")
        assert said.code == 0, said
        assert "undo before the app starts again" in said.out
        journal = next(name for name in beside(half.attached) if name.endswith("-journal"))
        assert (half.attached.parent / journal).read_bytes() == before["tasks.db-journal"]
        assert "kept with its journal" in log_lines(backups)[-2]["message"]
        undone = half("restore", "--undo")
        assert undone.code == 3, undone
        assert "put back with its journal" in undone.err
    left = contents(half.attached.parent)
    assert {name: left[name] for name in before} == before
    assert balances(half.attached) == balances(half.main) == (100, 100)


def test_online_restore_without_visible_super_journal_is_refused_unchanged(half: Half) -> None:
    with hidden(half.main.parent):
        before = contents(half.attached.parent)
        answer = half("restore", "--online")
        assert answer.code == 1
        assert "does not exist here" in answer.err
        assert contents(half.attached.parent) == before
    assert balances(half.attached) == balances(half.main) == (100, 100)


def test_doctor_explains_missing_super_journal(half: Half) -> None:
    with hidden(half.main.parent):
        assert f"whose super-journal {half.main}-mj" in half("doctor").out
