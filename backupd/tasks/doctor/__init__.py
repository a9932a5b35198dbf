"""The checks of `backupd doctor`: each part of the set-up yields a finding."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from backupd.errors import CheckFailed
from backupd.formatting import human_age, human_bytes
from backupd.sqlite.history import KEPT_FOR
from backupd.system.fs import collect_limits
from backupd.system.os_errors import foreseen_error
from backupd.tasks.context import TaskContext


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `hint` says what to do where it is not `ok`, or a `warning`."""

    check: str
    ok: bool
    detail: str
    hint: str = ""
    warning: bool = False  # it works, and an operator should look at it all the same


def run_check(check: str, inspect: Callable[[], str]) -> Finding:
    """Return what `inspect` returns as a good finding, and an error that it raises as a bad one.

    Limits of the file system that do not matter are added to a good finding.
    """
    try:
        with collect_limits() as limits:
            detail = inspect()
        return Finding(check, ok=True, detail="; ".join((detail, *limits)))
    except Exception as error:
        foreseen = foreseen_error(error)
        if foreseen is None:
            raise
        return Finding(check, ok=False, detail=foreseen.message, hint=foreseen.hint)


def kept_by_restore(what: object, kept_at: datetime, size_bytes: int, context: TaskContext) -> Finding:
    """Return a finding for what a restore has kept at `kept_at` (aware)."""
    age = context.clock() - kept_at
    text = human_age(age.total_seconds())
    when = text if age < timedelta() else f"{text} ago"
    hint = "backupd clean removes it" + ("" if age >= KEPT_FOR else f" after {KEPT_FOR.days} days")
    detail = f"{what} is what a restore replaced {when}, {human_bytes(size_bytes)}"
    return Finding("restore", ok=True, detail=detail, hint=hint)


def check_program(program: str, key: str) -> str:
    """Return that this user may run `program`, which is configured as `key`. Raises CheckFailed."""
    found = shutil.which(program)
    if found is None:
        what = f"{program} was not found, or uid {os.geteuid()} may not execute it"
        raise CheckFailed(what, f"check {key} and PATH")
    return f"{found} is executable"
