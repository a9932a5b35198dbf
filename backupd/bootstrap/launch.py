"""The configuration of this process: read once, and then without the secrets that it does not need.

Secrets are in the environment that a command starts with, in files, and then in memory. Before it opens anything that
an app can write, it restarts without them (`system.relaunch`), except those that its work needs.
"""

import os
import pickle
from collections.abc import Iterable, Mapping
from typing import NoReturn

from backupd.bootstrap.tasks import drill_store, monitors
from backupd.config import ALL_SECRETS, REPLICAS, Config, KeyPath, mask_of, secrets_of, withhold_secrets
from backupd.pings import DAILY, Monitor, start_ping_helper
from backupd.system.process import environment_without
from backupd.system.relaunch import is_first_process, relaunch, take_handed_over


def handed_config() -> Config | None:
    """Return the configuration that this command handed over to itself, once; `None` where it has not been read yet."""
    data = take_handed_over()
    if data is None:
        return None
    config: Config = pickle.loads(data)  # noqa: S301 - from this very process, through a file that no other one has
    return config


def launch(config: Config, needed: Iterable[KeyPath], *, pings: bool) -> Config:
    """Return `config` where it has no secrets; else start this command again, with those at the paths `needed` alone.

    With `pings` it runs tasks, whose pings another process sends. Raises OSError, ProcessRefused.
    """
    if secrets_of(config) or is_first_process():
        _relaunch(config, needed, pings=pings)
    return config


def _relaunch(config: Config, needed: Iterable[KeyPath], *, pings: bool) -> NoReturn:
    environ = clean_environment(os.environ, config)
    narrowed = withhold_secrets(config, needed)
    of_runs = monitors_of_runs(config) if pings else {}
    if not of_runs:
        relaunch_with(narrowed, environ)
    # The process that pings stays a child of this one, and ends with it.
    helper, _process = start_ping_helper(of_runs, mask_of(config), environ)
    relaunch_with(narrowed.with_ping_helper(helper), environ, (helper.to, helper.back))


def relaunch_with(config: Config, environ: Mapping[str, str], descriptors: Iterable[int] = ()) -> NoReturn:
    """Start this command again with `config`. Raises OSError."""
    relaunch(pickle.dumps(config), environ, descriptors)


def secrets_of_task(config: Config, task: str, subject: str) -> Iterable[KeyPath]:
    """Return the paths of the secrets that a run of `task` needs."""
    if task == "doctor":
        return ALL_SECRETS
    if task == "replicate":
        return ((REPLICAS, subject),)
    return secrets_of_drill(config, drill_store(config)) if task == "drill" else ()


def secrets_of_drill(config: Config, store: str) -> Iterable[KeyPath]:
    """Return the paths of the secrets of `store`; of all, to mask them, where the drill repeats what the app says."""
    return ALL_SECRETS if config.drill.checks_app else ((REPLICAS, store),)


def monitors_of_runs(config: Config) -> Mapping[str, Monitor]:
    """Return the monitors that runs ping."""
    return {name: monitor for name, monitor in monitors(config).items() if name != DAILY}


def clean_environment(environ: Mapping[str, str], config: Config) -> dict[str, str]:
    """Return `environ` without variables of backupd, and without any that has one of its secrets as its value."""
    return environment_without(frozenset(secret.strip() for secret in secrets_of(config)), environ)
