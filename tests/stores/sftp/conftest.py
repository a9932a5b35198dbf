"""Fixtures of the tests of trust and login."""

from pathlib import Path

import pytest
from trust_sshd import Starter, starter


@pytest.fixture
def sshd(tmp_path: Path) -> Starter:
    """Starts a real OpenSSH server on loopback."""
    return starter(tmp_path)
