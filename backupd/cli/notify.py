"""`backupd notify`."""

import sys
from zoneinfo import ZoneInfo

import click

from backupd.bootstrap.notifications import channels, try_notifications
from backupd.catalog import NotificationState
from backupd.cli.common import all_secrets, command, open_context
from backupd.cli.output import echo, print_hint, print_json
from backupd.config import Config
from backupd.errors import UsageError
from backupd.formatting import local_time, printable
from backupd.notifications.delivery import read_pings
from backupd.notifications.outbox import ACCEPTED, REFUSED
from backupd.tasks.context import TaskContext


@command(
    "notify",
    "backupd notify --test",
    {0: "success; with --test: all accepted it", 1: "with --test: one did not"},
    secrets=all_secrets,
    without_sources=True,
)
@click.option("--test", is_flag=True, help="Send to every URL under [notify] and [pings] now.")
def notify_command(config: Config, *, test: bool, as_json: bool) -> None:
    """Show when a channel last accepted a notification, which ones wait, and how many pings failed.

    A test leaves a line in the log of a healthchecks monitor; Uptime Kuma gets the current state, up or down.
    """
    if not channels(config) and not config.pings:
        raise UsageError(
            "no channel and no monitor is configured",
            "set urls under [notify] (BACKUPD_NOTIFY__URLS), or [pings]: docs/messages.md, docs/monitoring.md",
        )
    if not test and not config.sources:
        raise UsageError("a gate keeps no record of notifications", "add --test; backupd log shows what was sent")
    context = open_context(config, writing=False)
    if not test:
        _print_delivery(config, context, as_json=as_json)
        return
    findings = list(try_notifications(config, context))
    if as_json:
        print_json(findings)
    for finding in () if as_json else findings:
        echo(printable(finding.detail))
        print_hint(finding.hint)
    sys.exit(0 if all(finding.ok for finding in findings) else 1)


def _print_delivery(config: Config, context: TaskContext, *, as_json: bool) -> None:
    scope = next(iter(config.sources))
    state = context.ask_catalog(lambda catalog: catalog.read_notification_state(scope), NotificationState())
    accepted, refused = state.notices.get(ACCEPTED), state.notices.get(REFUSED)
    last_at = accepted.notified_at if accepted else None
    pings = read_pings(config.pings, context)
    names = [channel.masked for channel in channels(config)]
    if as_json:
        print_json(
            {
                "channels": names,
                "waiting": [{"title": m.title, "made_at": m.made_at, "attempts": m.attempts} for m in state.outbox],
                "taken_at": last_at,
                "refused_at": refused.notified_at if refused else None,
                "refused": refused.value if refused else None,
                "pings": pings,
            }
        )
        return
    zone = ZoneInfo(config.schedule.timezone)
    echo(f"channels  {', '.join(names) or 'none'}")
    echo(f"accepted  {local_time(last_at, zone) if last_at else 'never'}")
    if refused and refused.notified_at:
        echo(printable(f"refused   {local_time(refused.notified_at, zone)}: {refused.value}"))
    for message in state.outbox:
        waiting = f"since {local_time(message.made_at, zone)}, {message.attempts} attempts: {message.title}"
        echo(printable(f"waiting   {waiting}"))
    for ping in pings:
        last = f"; last failure {local_time(ping.failed_at, zone)}: {ping.reason}" if ping.failed_at else ""
        echo(printable(f"pings     {ping}: {ping.accepted} accepted, {ping.failed} failed{last}"))
