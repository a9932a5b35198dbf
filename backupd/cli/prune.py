"""`backupd prune`."""

import sys
from pathlib import Path

import click

from backupd.cli.common import (
    config_option,
    json_option,
    open_site,
    print_error,
    print_json,
    read_config,
    source_option,
    told_plainly,
)
from backupd.cli.tables import print_table
from backupd.errors import UsageError
from backupd.jobs import expire
from backupd.jobs.generations import local_inventory
from backupd.model import RetentionPlan, RunReport
from backupd.wiring import expiry, sources


@click.command("prune", epilog="Example: backupd prune --dry-run")
@click.option("--dry-run", is_flag=True, help="Show each decision with its reason; remove nothing.")
@click.option("--unfreeze", is_flag=True, help="Accept a source that shrank or was corrupt: pruning goes on.")
@config_option
@source_option
@json_option
@told_plainly
def command(config_file: Path | None, names: tuple[str, ...], *, dry_run: bool, unfreeze: bool, as_json: bool) -> None:
    """Apply the retention policy, each generation with its reason.

    Nothing goes while a source is frozen, and never its last verified generation.
    """
    if dry_run and unfreeze:
        raise UsageError("--dry-run and --unfreeze do not go together", "give one of the two")
    config = read_config(config_file)
    wanted = sources(config, names)
    site = open_site(config, writing=not dry_run)
    if unfreeze:
        for name in wanted:
            released = expire.unfreeze(name, site)
            click.echo(f"{name}: {'pruning goes on' if released else 'was not frozen'}", err=True)
    inventory = local_inventory(site)
    plans = {name: expire.plan_for(name, expiry(config), inventory, site) for name in wanted}
    reports = [] if dry_run else [expire.prune(name, expiry(config), site) for name in wanted]
    if as_json:
        print_json([fact for plan in plans.values() for fact in _facts(plan)])
    else:
        _print(plans, {generation for report in reports for generation in report.removed})
    _exit(reports)


def _facts(plan: RetentionPlan) -> list[dict[str, object]]:
    kept: list[dict[str, object]] = [
        {"id": k.generation.id, "source": k.generation.source, "action": "keep", "reasons": list(k.reasons)}
        for k in plan.keep
    ]
    removed: list[dict[str, object]] = [
        {"id": r.generation.id, "source": r.generation.source, "action": "remove", "reasons": [r.reason]}
        for r in plan.remove
    ]
    return kept + removed


def _print(plans: dict[str, RetentionPlan], gone: set[str]) -> None:
    rows = [
        row
        for plan in plans.values()
        for row in (
            *((k.generation.id, "stays", ", ".join(k.reasons)) for k in plan.keep),
            *((r.generation.id, "removed" if r.generation.id in gone else "would go", r.reason) for r in plan.remove),
        )
    ]
    if rows:
        print_table(("generation", "decision", "reason"), rows)
    else:
        click.echo("no generations")


def _exit(reports: list[RunReport]) -> None:
    for report in reports:
        if report.outcome == "failed":
            print_error(f"prune of {report.source}: {report.error}", report.hint)
    sys.exit(max((report.exit_code for report in reports), default=0))
