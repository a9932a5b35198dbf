"""`backupd doctor`."""

import sys

import click

from backupd.bootstrap.notifications import app_to_check, try_notifications
from backupd.bootstrap.replicas import diagnose
from backupd.bootstrap.tasks import refuse_shared_databases
from backupd.cli.common import command, open_context
from backupd.cli.output import echo, print_json
from backupd.config import Config
from backupd.formatting import printable
from backupd.notifications.delivery import examine_app
from backupd.tasks.doctor import Finding


@command("doctor", "backupd doctor --json", {0: "no problems", 1: "at least one problem"})
@click.option("--notify", is_flag=True, help="Also test every URL under [notify] and [pings].")
def doctor_command(config: Config, *, notify: bool, as_json: bool) -> None:
    """Run it before the first night, and when something does not work.

    Checks paths, permissions, free space, clock, time zone and SQLite; host key, login, writing, free space and clock
    of each replica; what a restore drill needs; notifications that wait, pings that were not accepted; health and
    version of the app.
    """
    context = open_context(config, writing=False)
    refuse_shared_databases(config)  # as the owner of the databases, who can follow links in a private directory
    findings = [*diagnose(config, context)]
    app = app_to_check(config)
    if app is not None:
        findings += examine_app(app)
    if notify:
        findings += try_notifications(config, context)
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            _print(finding)
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def _print(finding: Finding) -> None:
    mark = click.style("ok   ", fg="green") if finding.ok else click.style("wrong", fg="red", bold=True)
    if finding.warning:
        mark = click.style("warn ", fg="yellow", bold=True)
    echo(f"{mark}  {finding.check}: {printable(finding.detail)}")
    if finding.hint:
        echo(f"         {finding.hint}")
