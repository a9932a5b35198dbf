"""Fixtures for tests that break things."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.register_assert_rewrite("yards")

from workspaces import BIG_ROWS, Workspace, make_yard  # noqa: E402

from support.bank import make_bank  # noqa: E402
from support.faults import BackupdRunner  # noqa: E402


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A yard to be copied, never to be touched."""
    return make_yard(tmp_path_factory.mktemp("template") / "yard")


@pytest.fixture
def yard(template: Workspace, tmp_path: Path) -> Workspace:
    """A yard of one's own."""
    return template.copy_to(tmp_path / "yard")


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> BackupdRunner:
    """Who runs commands."""
    return BackupdRunner(tmp_path_factory.mktemp("crew"))


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of some 30 MB, to be copied, whose backup takes long enough to be met at work."""
    path = tmp_path_factory.mktemp("big") / "big.db"
    make_bank(path, rows=BIG_ROWS)
    return path


@pytest.fixture
def large(template: Workspace, tmp_path: Path, big: Path) -> Workspace:
    """A yard whose database was replaced by a large one, so that its backup can be met at work."""
    yard = replace(template.copy_to(tmp_path / "large"), rows=BIG_ROWS)
    Path(f"{yard.database}-wal").unlink()
    shutil.copy(big, yard.database)
    return yard
