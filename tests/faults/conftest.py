"""Fixtures for tests that break things."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.register_assert_rewrite("yards")

from workspaces import BIG_ROWS, Yard, make_yard  # noqa: E402

from support.bank import make_bank  # noqa: E402
from support.faults import Crew  # noqa: E402


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """A yard to be copied, never to be touched."""
    return make_yard(tmp_path_factory.mktemp("template") / "yard")


@pytest.fixture
def yard(template: Yard, tmp_path: Path) -> Yard:
    """A yard of one's own."""
    return template.copy_to(tmp_path / "yard")


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Crew:
    """Who runs commands."""
    return Crew(tmp_path_factory.mktemp("crew"))


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of some 30 MB, to be copied, whose backup takes long enough to be met at work."""
    path = tmp_path_factory.mktemp("big") / "big.db"
    make_bank(path, rows=BIG_ROWS)
    return path


@pytest.fixture
def large(template: Yard, tmp_path: Path, big: Path) -> Yard:
    """A yard whose database was replaced by a large one, so that its backup can be met at work."""
    yard = replace(template.copy_to(tmp_path / "large"), rows=BIG_ROWS)
    Path(f"{yard.database}-wal").unlink()
    shutil.copy(big, yard.database)
    return yard
