"""Try again what may pass: a lost connection, a host that is not there just now; nothing else, and not for ever."""

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from backupd.errors import ReplicaUnreachable

T = TypeVar("T")

_FIRST_S: Final = 2.0
_LONGEST_S: Final = 120.0


class Retry(Protocol):
    """Calls a function until it returns, and returns its value."""

    def __call__(self, do: Callable[[], T], /) -> T:
        """Return what `do` returns, as soon as it does. Raises its last error."""


def once(do: Callable[[], T], /) -> T:
    """Call `do` once."""
    return do()


def until(deadline_s: float, on_retry: Callable[[str, float], None]) -> Retry:
    """Return what does a thing, and does it again after ReplicaUnreachable, waiting longer each time, with jitter.

    `on_retry` hears why, and for how many seconds it waits. After `deadline_s` the last error is raised. SIGTERM, which
    raises in the main thread, ends a wait at once.
    """

    def tell(state: RetryCallState) -> None:
        if state.outcome is not None and state.next_action is not None:
            on_retry(str(state.outcome.exception()), state.next_action.sleep)

    return Retrying(
        retry=retry_if_exception_type(ReplicaUnreachable),
        wait=wait_random_exponential(multiplier=_FIRST_S, max=_LONGEST_S),
        stop=stop_after_delay(deadline_s),
        before_sleep=tell,
        reraise=True,
    )
