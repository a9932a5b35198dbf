"""`backupd doctor`."""

import os
from collections.abc import Iterator

import click

from backupd.bootstrap.notifications import app_to_check, try_notifications
from backupd.bootstrap.replicas import diagnose
from backupd.bootstrap.tasks import refuse_shared_databases
from backupd.cli.common import all_secrets, command, open_context
from backupd.cli.output import end_with_findings
from backupd.config import Config
from backupd.notifications.delivery import examine_app
from backupd.privileges import ROOT_HINT, runs_as_root
from backupd.tasks.doctor import Finding


@command("doctor", "backupd doctor --json", {0: "no problems", 1: "at least one problem"}, secrets=all_secrets)
@click.option("--notify", is_flag=True, help="Also test every URL under [notify] and [pings].")
def doctor_command(config: Config, *, notify: bool, as_json: bool) -> None:
    """Run it before the first night, and when something does not work.

    Checks paths, permissions, free space, clock, time zone and SQLite; host key, login, writing, free space and clock
    of each replica; what a restore drill needs; notifications that wait, pings that were not accepted; health and
    version of the app.
    """
    context = open_context(config, writing=False)
    refuse_shared_databases(config)  # as the owner of the databases, who can follow links in a private directory
    findings = [*_user(), *diagnose(config, context)]
    app = app_to_check(config)
    if app is not None:
        findings += examine_app(app)
    if notify:
        findings += try_notifications(config, context)
    end_with_findings(findings, as_json=as_json)


def _user() -> Iterator[Finding]:
    """Yield that a container runs as root; that is well where it was asked for."""
    if as_root := runs_as_root(os.environ):
        yield Finding("user", ok=True, detail=f"backupd runs as root, {as_root}", hint=ROOT_HINT)
