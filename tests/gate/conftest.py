"""What the tests of several steps share."""

import os

import pytest


@pytest.fixture
def uid() -> int:
    """Return a uid that belongs to this process of tests: every process of it is killed."""
    return 1_500_000_000 + os.getpid()
