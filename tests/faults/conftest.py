"""Fixtures for tests that break things."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("yards", "support.faults")

from yards import Yard, make_yard  # noqa: E402

from support.faults import Crew, crew  # noqa: E402


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """A yard to be copied, never to be touched."""
    return make_yard(tmp_path_factory.mktemp("template") / "yard")


@pytest.fixture
def yard(template: Yard, tmp_path: Path) -> Yard:
    """A yard of one's own."""
    return template.copy_to(tmp_path / "yard")


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """Two template processes to fork runs from."""
    with crew(tmp_path_factory.mktemp("crew")) as members:
        yield members
