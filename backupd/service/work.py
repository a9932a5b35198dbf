"""One run by schedule, in a process of its own: `python -m backupd.service.work TASK SOURCE [CONFIG]`.

The daemon stays small and alive whatever a run needs or does; stopping a run is stopping a process, which unwinds as a
command in a terminal does. When standard input closes the daemon is gone: the run ends too.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from backupd.config import Config, load_config
from backupd.errors import BackupdError
from backupd.identity import settle
from backupd.jobs.site import Site
from backupd.log import Event
from backupd.model import RunReport
from backupd.priority import give_way
from backupd.signals import unwind_on_signals
from backupd.wiring import backup_order, build_site, expiry, priority

DOCTOR, REBUILD = "doctor", "rebuild"


def main(task: str, source: str, config_file: str) -> int:
    """Do `task` and return its exit code; what happens goes to `backup.log` and, as plain lines, to standard output."""
    config = load_config(Path(config_file) if config_file else None, os.environ)
    try:
        settle(config, os.environ)  # a database that was not there when the daemon started may have an owner by now
        site = build_site(config, console=sys.stdout)
    except BackupdError as error:
        print(f"{task} of {source} cannot begin: {error.message} | what to do: {error.hint}", flush=True)  # noqa: T201 - there is no log to write to
        return error.exit_code
    if task == DOCTOR:
        return _doctor(config, site)
    if task == REBUILD:
        return _rebuild(site)
    return _run(task, source, config, site).exit_code


def _run(task: str, source: str, config: Config, site: Site) -> RunReport:
    if task == "backup":
        from backupd.jobs.backup import backup

        return backup(backup_order(config, source), site)
    give_way(priority(config))  # a backup steps aside by itself, once it no longer holds the app's snapshot
    if task == "prune":
        from backupd.jobs.expire import prune

        return prune(source, expiry(config), site)[0]
    from backupd.jobs.scrub import scrub

    return scrub(source, site)


def _doctor(config: Config, site: Site) -> int:
    """Log what `backupd doctor` finds; returns 1 when something is wrong."""
    from backupd.jobs.doctor import examine

    wrong = False
    for finding in examine(tuple(backup_order(config, name) for name in config.sources), site):
        wrong |= not finding.ok
        tell = site.log.info if finding.ok else site.log.warning
        tell(Event.DOCTOR_FOUND, f"{finding.check}: {finding.detail}", ok=finding.ok, hint=finding.hint or None)
    return int(wrong)


def _rebuild(site: Site) -> int:
    from backupd.jobs.rebuild import rebuild_catalog

    try:
        rebuild_catalog(site)
    except BackupdError as error:
        site.log.warning(Event.CATALOG_UNAVAILABLE, error.message, hint=error.hint)
        return error.exit_code
    return 0


def _end_with_daemon() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    unwind_on_signals()
    threading.Thread(target=_end_with_daemon, daemon=True).start()
    sys.exit(main(*sys.argv[1:]))
