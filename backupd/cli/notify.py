"""`backupd notify`."""

import sys
from pathlib import Path

import click

from backupd.bootstrap.notifications import channels, try_notifications
from backupd.bootstrap.tasks import monitors
from backupd.catalog import NotificationState, PingRecord
from backupd.cli.common import config_option, json_option, open_context, print_json, read_config, readable_errors
from backupd.config import Config
from backupd.errors import UsageError
from backupd.formatting import printable
from backupd.notifications.outbox import ACCEPTED, REFUSED
from backupd.status.current import read_pings
from backupd.tasks.context import TaskContext
from backupd.tasks.doctor.finding import Finding


@click.command("notify", epilog="Example: backupd notify --test")
@click.option("--test", is_flag=True, help="Try every URL under [notify] and [pings], now.")
@config_option
@json_option
@readable_errors
def command(config_file: Path | None, *, test: bool, as_json: bool) -> None:
    """Tell how messages and pings fare; with --test, send one to every URL and say which services take it.

    Of a test, the monitor of a healthchecks keeps a line in its log; Uptime Kuma hears up or down, whichever is true.
    Exits 0 when all take it, 1 when one does not.
    """
    config = read_config(config_file)
    if not channels(config) and not config.pings:
        raise UsageError(
            "there is nobody to notify",
            "set urls under [notify] (BACKUPD_NOTIFY__URLS), or [pings]: docs/messages.md, docs/monitoring.md",
        )
    context = open_context(config, writing=False)
    findings = list(try_notifications(config, context)) if test else None
    if findings is None:
        _show(config, context, as_json=as_json)
    else:
        _tell(findings, as_json=as_json)
        sys.exit(0 if all(finding.ok for finding in findings) else 1)


def _tell(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json(findings)
        return
    for finding in findings:
        click.echo(printable(finding.detail))
        if finding.hint:
            click.echo(f"  {click.style('what to do', bold=True)}: {finding.hint}", err=True)


def _show(config: Config, context: TaskContext, *, as_json: bool) -> None:
    book = context.ask_catalog(
        lambda catalog: catalog.read_notification_state(next(iter(config.sources))), NotificationState()
    )
    accepted, refused = book.notices.get(ACCEPTED), book.notices.get(REFUSED)
    pings = read_pings(monitors(config), context)
    facts = {
        "channels": [channel.masked for channel in channels(config)],
        "waiting": [{"title": one.title, "made_at": one.made_at, "attempts": one.attempts} for one in book.outbox],
        "accepted_at": accepted.notified_at if accepted else None,
        "refused_at": refused.notified_at if refused else None,
        "refused": refused.value if refused else None,
        "pings": pings,
    }
    if as_json:
        print_json(facts)
        return
    click.echo(f"channels  {', '.join(channel.masked for channel in channels(config)) or 'none'}")
    click.echo(
        f"accepted  {accepted.notified_at:%F %T} UTC" if accepted and accepted.notified_at else "accepted  never"
    )
    if refused and refused.notified_at:
        click.echo(printable(f"refused   {refused.notified_at:%F %T} UTC: {refused.value}"))
    for one in book.outbox:
        click.echo(printable(f"waiting   since {one.made_at:%F %T} UTC, tried {one.attempts} times: {one.title}"))
    for ping in pings:
        click.echo(printable(f"pings     {ping}: {ping.accepted} accepted, {ping.failed} failed{_last_refusal(ping)}"))


def _last_refusal(ping: PingRecord) -> str:
    return f"; last failure {ping.failed_at:%F %T} UTC: {ping.reason}" if ping.failed_at else ""
