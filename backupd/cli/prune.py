"""`backupd prune`."""

import sys
from pathlib import Path

import click

from backupd.bootstrap.tasks import retention_rule, sources
from backupd.cli.common import (
    config_option,
    error_facts,
    json_option,
    open_context,
    print_json,
    print_trouble,
    read_config,
    readable_errors,
    source_option,
    worst_exit,
)
from backupd.cli.output import print_table
from backupd.errors import UsageError
from backupd.model import RetentionPlan
from backupd.report import AnyReport
from backupd.tasks import prune
from backupd.tasks.context import local_inventory


@click.command("prune", epilog="Example: backupd prune --dry-run")
@click.option("--dry-run", is_flag=True, help="Show each decision with its reason; remove nothing.")
@click.option("--unfreeze", is_flag=True, help="Accept a source that shrank or was corrupt: pruning goes on.")
@config_option
@source_option
@json_option
@readable_errors
def command(config_file: Path | None, names: tuple[str, ...], *, dry_run: bool, unfreeze: bool, as_json: bool) -> None:
    """Apply the retention policy, each generation with its reason.

    Nothing goes while a source is frozen, and never its last verified generation.
    """
    if dry_run and unfreeze:
        raise UsageError("--dry-run and --unfreeze do not go together", "give one of the two")
    config = read_config(config_file)
    wanted = sources(config, names)
    context = open_context(config, writing=not dry_run)
    if unfreeze:
        for name in wanted:
            released = prune.release_hold(name, context)
            click.echo(f"{name}: {'pruning goes on' if released else 'was not frozen'}", err=True)
    if dry_run:
        inventory = local_inventory(context)
        plans, reports = [prune.plan_pruning(name, retention_rule(config), inventory, context) for name in wanted], []
    else:
        done = [prune.prune(name, retention_rule(config), context) for name in wanted]
        plans = [plan for report, plan in done if report.outcome != "failed"]
        reports = [report for report, _ in done]
    failed = [report for report in reports if report.outcome == "failed"]
    if as_json:
        facts = [fact for plan in plans for fact in _facts(plan)]
        print_json([*facts, *map(_failure, failed)] if plans else _failure(failed[0]))
    elif plans:
        _print(plans, word="would go" if dry_run else "removed")
    for report in reports:
        print_trouble(report)
    sys.exit(worst_exit(reports))


def _failure(report: AnyReport) -> dict[str, object]:
    """Tell a run that removed nothing, with its source, as any command tells an error."""
    return {"source": report.subject, **error_facts(report.error or "", report.hint or "", report.exit_code)}


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


def _print(plans: list[RetentionPlan], word: str) -> None:
    rows = [
        row
        for plan in plans
        for row in (
            *((k.generation.id, "stays", ", ".join(k.reasons)) for k in plan.keep),
            *((r.generation.id, word, r.reason) for r in plan.remove),
        )
    ]
    if rows:
        print_table(("generation", "decision", "reason"), rows)
    else:
        click.echo("no generations")
