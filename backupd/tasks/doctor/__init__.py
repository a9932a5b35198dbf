"""The checks of `backupd doctor`: each part of the set-up yields a finding."""

from collections.abc import Callable
from dataclasses import dataclass

from backupd.errors import BackupdError
from backupd.system.files import noting_limits
from backupd.system.os_errors import remedy, said
from backupd.system.starting import is_refusal, refusal


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `hint` says what to do where it is not `ok`."""

    check: str
    ok: bool
    detail: str
    hint: str = ""


def run_check(check: str, inspect: Callable[[], str]) -> Finding:
    """Return what `inspect` returns as a good finding, and an error that it raises as a bad one.

    Limits of the file system that do not matter are added to a good finding.
    """
    try:
        with noting_limits() as limits:
            detail = inspect()
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
