"""`backupd drill`."""

import sys
from pathlib import Path

import click

from backupd.bootstrap.replicas import replica_retry, store_opener
from backupd.bootstrap.tasks import drill_request, sources
from backupd.cli.common import (
    config_option,
    json_option,
    open_context,
    print_json,
    print_trouble,
    read_config,
    readable_errors,
    require_store,
    source_option,
    worst_exit,
)
from backupd.cli.output import shown_progress
from backupd.config import Config
from backupd.formatting import human_duration, printable
from backupd.report import DrillDetails, RunReport, report_facts
from backupd.tasks.context import TaskContext
from backupd.tasks.drill.drill import drill


@click.command("drill", epilog="Example: backupd drill --from offsite")
@click.option("--from", "store", metavar="STORE", help="From this store (drill.from, else the first replica).")
@config_option
@source_option
@json_option
@readable_errors
def command(config_file: Path | None, store: str | None, names: tuple[str, ...], *, as_json: bool) -> None:
    """Rehearse a restore: fetch the newest copy, restore it in isolation, prove it, and prove the app on it.

    Changes nothing of the app's, and nothing in any store. Exits 0 proven, 1 not, 3 proven with warnings, 75 when the
    store could not be reached.
    """
    config = read_config(config_file)
    wanted = sources(config, names)
    if store is not None:
        require_store(store, config)
    with shown_progress(quiet=as_json) as progress:
        context = open_context(config, progress)
        reports = [_drill(config, source, store, context) for source in wanted]
    if as_json:
        print_json([report_facts(report) for report in reports])
    for report in reports:
        _print(report, as_json=as_json)
    sys.exit(worst_exit(reports))


def _drill(config: Config, source: str, store: str | None, context: TaskContext) -> RunReport[DrillDetails]:
    request = drill_request(config, source, store)
    return drill(
        request, store_opener(config, request.store, context), replica_retry(config, request.store, context), context
    )


def _print(report: RunReport[DrillDetails], *, as_json: bool) -> None:
    print_trouble(report)
    done = report.details.drill
    if as_json:
        return
    if report.outcome != "failed" and done.age_s is not None and done.recovery_s is not None:
        click.echo(f"{report.subject}: {report.generation} at {done.store} restores")
        click.echo(f"  data     {human_duration(done.age_s)} old, at most {human_duration(done.max_age_s)} allowed")
        click.echo(f"  time     {human_duration(done.recovery_s)} ({', '.join(_stages(report))})")
        click.echo(f"  proven   {', '.join(done.proven)}")
    for note in report.notes:
        click.echo(f"  note     {printable(note)}")
    for line in done.output.splitlines():
        click.echo(f"  command  {printable(line)}")


def _stages(report: RunReport[DrillDetails]) -> list[str]:
    return [f"{name} {seconds:.1f}" for name, seconds in report.stages.items()]
