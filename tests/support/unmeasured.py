"""Code that runs in tests without being measured: following each line takes as long again as running it."""

from collections.abc import Iterator
from contextlib import contextmanager

from coverage import Coverage


@contextmanager
def unmeasured() -> Iterator[None]:
    """Measure no coverage of this process in the block.

    Its measurement is only interrupted: to start it anew would have all children measured from then on.
    """
    measuring = Coverage.current()
    if measuring is None or measuring._collector is None:
        yield
        return
    measuring._collector.pause()
    try:
        yield
    finally:
        measuring._collector.resume()
