"""What the doctor says about one part of the set-up."""

from collections.abc import Callable
from dataclasses import dataclass

from backupd.system.fs import collect_limits
from backupd.system.os_errors import foreseen_error


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of the set-up said."""

    check: str
    ok: bool
    detail: str
    hint: str = ""


def finding(check: str, look: Callable[[], str]) -> Finding:
    """Return what `look` says as a good finding, and the foreseen trouble that it raises as a bad one.

    What a file system cannot do, and is done without, is added to a good one.
    """
    try:
        with collect_limits() as limits:
            detail = look()
        return Finding(check, ok=True, detail="; ".join((detail, *limits)))
    except Exception as error:
        foreseen = foreseen_error(error)
        if foreseen is None:
            raise
        return Finding(check, ok=False, detail=foreseen.message, hint=foreseen.hint)
