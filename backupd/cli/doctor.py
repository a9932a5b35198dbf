"""`backupd doctor`."""

import sys
from pathlib import Path

import click

from backupd.bootstrap.notifications import app_to_check, try_notifications
from backupd.bootstrap.replicas import diagnose
from backupd.bootstrap.tasks import refuse_shared_databases
from backupd.cli.common import config_option, json_option, open_context, print_json, read_config, readable_errors
from backupd.formatting import printable
from backupd.notifications.delivery import examine_app
from backupd.tasks.doctor.finding import Finding


@click.command("doctor", epilog="Example: backupd doctor --json")
@click.option("--notify", is_flag=True, help="Also try every URL under [notify] and [pings].")
@config_option
@json_option
@readable_errors
def command(config_file: Path | None, *, notify: bool, as_json: bool) -> None:
    """Prove the whole set-up before the first night; exits 1 on any trouble.

    Paths, rights, space, clock, SQLite; of each replica host key, login, writing, room and clock; messages that
    wait, and pings that were not taken; of the app beside its health and version.
    """
    config = read_config(config_file)
    context = open_context(config, writing=False)
    refuse_shared_databases(config)  # as their owner, because links in private directories are readable to it only
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
    click.echo(f"{mark}  {finding.check}: {printable(finding.detail)}")
    if finding.hint:
        click.echo(f"         {finding.hint}")
