"""Fixtures for tests that break things."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.register_assert_rewrite("workspaces")

from workspaces import BIG_ROWS, Workspace, make_workspace  # noqa: E402

from support.bank import make_bank  # noqa: E402
from support.faults import BackupdRunner  # noqa: E402


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace to copy; tests do not change it."""
    return make_workspace(tmp_path_factory.mktemp("template") / "workspace")


@pytest.fixture
def workspace(template: Workspace, tmp_path: Path) -> Workspace:
    """A workspace for one test."""
    return template.copy_to(tmp_path / "workspace")


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> BackupdRunner:
    """Runs commands."""
    return BackupdRunner(tmp_path_factory.mktemp("runner"))


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of some 30 MB to copy; its backup takes long enough to be interrupted."""
    path = tmp_path_factory.mktemp("big") / "big.db"
    make_bank(path, rows=BIG_ROWS)
    return path


@pytest.fixture
def large(template: Workspace, tmp_path: Path, big: Path) -> Workspace:
    """A workspace with a large database, whose backup can be interrupted."""
    workspace = replace(template.copy_to(tmp_path / "large"), rows=BIG_ROWS)
    Path(f"{workspace.database}-wal").unlink()
    shutil.copy(big, workspace.database)
    return workspace
