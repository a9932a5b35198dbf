"""Code that runs in tests without being measured: following each line takes as long again as running it."""

from collections.abc import Iterator
from contextlib import contextmanager

from coverage import Coverage


@contextmanager
def unmeasured() -> Iterator[None]:
    """Measure no coverage of this process in the block."""
    measuring = Coverage.current()
    if measuring is None:
        yield
        return
    measuring.stop()
    try:
        yield
    finally:
        if Coverage.current() is not measuring:  # pytest-cov starts it again after each test that is not measured
            measuring.start()
