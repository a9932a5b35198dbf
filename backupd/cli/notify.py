"""`backupd notify`."""

import sys
from pathlib import Path

import click

from backupd.catalog import Book
from backupd.cli.common import config_option, json_option, open_site, print_json, read_config, told_plainly
from backupd.config import Config
from backupd.errors import UsageError
from backupd.jobs.finding import Finding
from backupd.jobs.site import Site
from backupd.telling import channels, message_name
from backupd.text import printable
from backupd.told.doctor import examine_channels
from backupd.told.queue import REFUSED, TAKEN


@click.command("notify", epilog="Example: backupd notify --test")
@click.option("--test", is_flag=True, help="Send a test message to every URL under [notify], now.")
@config_option
@json_option
@told_plainly
def command(config_file: Path | None, *, test: bool, as_json: bool) -> None:
    """Tell how messages fare; with --test, send one to every URL and say which services take it.

    Exits 0 when all do, 1 when one does not.
    """
    config = read_config(config_file)
    if not channels(config):
        raise UsageError(
            "there is nobody to notify", "set urls under [notify], or BACKUPD_NOTIFY__URLS: docs/messages.md"
        )
    site = open_site(config, writing=False)
    findings = list(examine_channels(channels(config), message_name(config), site.clock())) if test else None
    if findings is None:
        _show(config, site, as_json=as_json)
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


def _show(config: Config, site: Site, *, as_json: bool) -> None:
    book = site.ask_catalog(lambda catalog: catalog.read_book(next(iter(config.sources))), Book())
    taken, refused = book.told.get(TAKEN), book.told.get(REFUSED)
    facts = {
        "channels": [channel.masked for channel in channels(config)],
        "waiting": [{"title": one.title, "made_at": one.made_at, "attempts": one.attempts} for one in book.queue],
        "taken_at": taken.told_at if taken else None,
        "refused_at": refused.told_at if refused else None,
        "refused": refused.value if refused else None,
    }
    if as_json:
        print_json(facts)
        return
    click.echo(f"channels  {', '.join(channel.masked for channel in channels(config))}")
    click.echo(f"taken     {taken.told_at:%F %T} UTC" if taken and taken.told_at else "taken     never")
    if refused and refused.told_at:
        click.echo(printable(f"refused   {refused.told_at:%F %T} UTC: {refused.value}"))
    for one in book.queue:
        click.echo(printable(f"waiting   since {one.made_at:%F %T} UTC, tried {one.attempts} times: {one.title}"))
