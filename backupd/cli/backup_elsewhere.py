"""`backupd backup --remote`: the same backup, requested from a daemon over HTTP."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backupd.cli.output import echo, mask_output, print_error, print_json, print_warning
from backupd.config.environment import REMOTE_TOKEN, secret_of
from backupd.errors import TemporaryError, UsageError
from backupd.formatting import human_bytes, printable
from backupd.masking import Mask
from backupd.tasks.requests import requested_pin
from backupd.tasks.run import DEGRADED_EXIT

if TYPE_CHECKING:
    from backupd.remote.run import RemoteSource

REMOTE_TIMEOUT_S: Final = 3600.0
_WORST_FIRST: Final = (1, TemporaryError.exit_code, DEGRADED_EXIT, 0)


def back_up_elsewhere(
    config_file: Path | None,
    names: tuple[str, ...],
    label: str | None,
    remote: str | None,
    timeout_s: float | None,
    *,
    pinned: bool | None,
    as_json: bool,
) -> bool:
    """Back up at the daemon `remote`, print the result, and exit; return False where none is named.

    A hold on the pruning of a source is a failure, though the copy is verified: a deploy should not go on.
    """
    if remote is None:
        return False
    from backupd.remote.sidecar import Sidecar, require_address, sends_token_in_clear  # slow to import

    require_address(remote)
    requested_pin("", label or "", pinned)  # refuses what the daemon would
    token = secret_of(REMOTE_TOKEN, os.environ, Path.cwd())
    if config_file is not None or not token:
        raise UsageError(
            "--remote works without a configuration" if token else f"--remote needs {REMOTE_TOKEN}",
            "leave out --config" if token else f"set it, or {REMOTE_TOKEN}_FILE, to http.backup_token of the daemon",
        )
    mask_output(Mask([token]))
    if sends_token_in_clear(remote):
        print_warning("the token travels unencrypted over http: use https, or a private network")
    run = Sidecar(remote, token, timeout_s or REMOTE_TIMEOUT_S).back_up(names, label or "", pinned)
    if as_json:
        facts = [asdict(source) for source in run.sources]
        print_json(facts[0] if len(facts) == 1 else facts)
    else:
        for source in run.sources:
            _print(source)
    sys.exit(min(map(_exit_code, run.sources), key=_WORST_FIRST.index))


def _print(source: "RemoteSource") -> None:
    for warning in source.warnings:
        print_warning(warning)
    if not source.succeeded:
        print_error(f"backup of {source.source}: {source.failure}", source.hint or "see backup.log there")
        return
    echo(printable(f"{source.source}: {source.outcome} {source.generation}, verified {source.verification}"))
    echo(f"  size     {human_bytes(source.snapshot_bytes or 0)} as {human_bytes(source.archive_bytes or 0)}")
    echo(printable(f"  sha256   {source.archive_sha256} (archive)"))
    if source.hold:
        print_error(
            f"pruning of {source.source} is on hold: {source.hold}",
            "find out why before you deploy; backupd prune --unfreeze there accepts the loss",
        )


def _exit_code(source: "RemoteSource") -> int:
    """Return the exit code that `backupd backup` has for this source; 1 also for a hold."""
    if source.succeeded and not source.hold:
        return DEGRADED_EXIT if source.exit_code == DEGRADED_EXIT else 0
    return TemporaryError.exit_code if source.exit_code == TemporaryError.exit_code and not source.hold else 1
