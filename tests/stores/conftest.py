"""A store of each kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_kinds import KINDS, StoreFixture


@pytest.fixture(params=KINDS)
def fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreFixture]:
    files = tmp_path / "files"
    files.mkdir()
    with KINDS[request.param](files, request) as store:
        yield StoreFixture(store, files, tmp_path / "work")
