"""`backupd drill`."""

import sys

import click

from backupd.bootstrap.launch import secrets_of_drill
from backupd.bootstrap.replicas import replica_retry, store_opener
from backupd.bootstrap.tasks import drill_request, drill_store, drilled_sources
from backupd.cli import complete
from backupd.cli.common import (
    accept_older_option,
    accepting_older,
    command,
    open_context,
    require_store,
    source_option,
    worst_exit,
)
from backupd.cli.output import echo, print_json, print_notes, print_problems, shown_progress, stages_text
from backupd.config import Config
from backupd.formatting import counted, human_bytes, human_duration, printable
from backupd.report import DrillDetails, RunReport, report_facts
from backupd.tasks.drill import drill


@command(
    "drill",
    "backupd drill --from offsite",
    {0: "the restore works", 1: "it does not", 3: "it works, with warnings", 75: ""},
    secrets=lambda config, arguments: secrets_of_drill(config, arguments["store"] or drill_store(config)),
    pings=True,
)
@click.option(
    *("--from", "store"),
    metavar="STORE",
    shell_complete=complete.stores,
    help="From this store (default: drill.from, else the first replica).",
)
@source_option
@accept_older_option
def drill_command(
    config: Config, store: str | None, names: tuple[str, ...], *, accept_older: bool, as_json: bool
) -> None:
    """Restore the newest restore point in isolation, verify it, and check the app on it.

    Each database is restored, and each content of the files is read; with --source, the newest copy of that source
    alone. The app's data and all stores stay as they are. A newer copy that is damaged is skipped with a
    warning; if one cannot be read at the moment, or was replaced, the drill fails unless --accept-older is given, or
    confirmed on a terminal.
    """
    wanted = drilled_sources(config, names)
    if store is not None:
        require_store(store, config)
    with shown_progress(quiet=as_json) as progress:
        context = open_context(config, progress)
        requests = [drill_request(config, source, store) for source in wanted]
        there = requests[0].store
        reports = drill(
            requests,
            store_opener(config, there, context),
            replica_retry(config, there, context),
            context,
            accepting_older(sure=accept_older, quiet=as_json),
        )
    if as_json:
        print_json([report_facts(report) for report in reports])
    said: set[str] = set()
    for report in reports:
        _print(report, said, as_json=as_json)
    sys.exit(worst_exit(reports))


def _print(report: RunReport[DrillDetails], said: set[str], *, as_json: bool) -> None:
    """Print the facts of a drill; notes that are in `said` were printed below another one."""
    print_problems(report)
    if as_json:
        return
    measured = report.details.drill
    if report.outcome != "failed" and measured.age_s is not None and measured.recovery_s is not None:
        echo(f"{report.subject}: {report.generation} at {measured.store} restores")
        allowed = f"at most {human_duration(measured.max_age_s)} allowed"
        echo(f"  data     {human_duration(measured.age_s)} old, {allowed}")
        echo(f"  time     {human_duration(measured.recovery_s)} ({stages_text(report.stages)})")
        if measured.point:
            echo(f"  point    {measured.point}")
        if measured.files is not None:
            echo(f"  files    {counted(measured.files, 'file')}, {human_bytes(report.details.snapshot_bytes or 0)}")
        echo(f"  proven   {', '.join(measured.proven)}")
    print_notes([note for note in report.notes if note not in said])
    said.update(report.notes)
    for line in measured.output.splitlines():
        echo(f"  command  {printable(line)}")
