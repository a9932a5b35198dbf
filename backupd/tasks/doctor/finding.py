"""What the doctor says about one part of the set-up."""

from collections.abc import Callable
from dataclasses import dataclass

from backupd.errors import BackupdError
from backupd.system.files import noting_limits
from backupd.system.os_errors import remedy, said
from backupd.system.starting import is_refusal, refusal


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
        with noting_limits() as limits:
            detail = look()
        return Finding(check, ok=True, detail="; ".join((detail, *limits)))
    except BackupdError as error:
        return Finding(check, ok=False, detail=error.message, hint=error.hint)
    except RuntimeError as error:
        if not is_refusal(error):
            raise
        refused = refusal(error)
        return Finding(check, ok=False, detail=refused.message, hint=refused.hint)
    except OSError as error:
        return Finding(check, ok=False, detail=said(error), hint=remedy(error))
