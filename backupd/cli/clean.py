"""`backupd clean`."""

from datetime import timedelta
from pathlib import Path

import click

from backupd.bootstrap.tasks import sources
from backupd.cli.common import (
    config_option,
    json_option,
    open_context,
    print_json,
    read_config,
    readable_errors,
    source_option,
)
from backupd.cli.output import print_table
from backupd.errors import UsageError
from backupd.formatting import SPAN_EXAMPLE, human_age, human_bytes, parse_span, printable, written_span
from backupd.sqlite.history import KEPT_FOR
from backupd.tasks.clean import CleanDecision, clean
from backupd.tasks.context import TaskContext


@click.command("clean", epilog="Example: backupd clean --older-than 7d --dry-run")
@click.option(
    "--older-than",
    "older_than",
    metavar="SPAN",
    default=written_span(KEPT_FOR),
    show_default=True,
    help=f"Remove only what is older: {SPAN_EXAMPLE}.",
)
@click.option("--dry-run", is_flag=True, help="Show each decision with its reason; remove nothing.")
@config_option
@source_option
@json_option
@readable_errors
def command(config_file: Path | None, names: tuple[str, ...], older_than: str, *, dry_run: bool, as_json: bool) -> None:
    """Remove old databases that restores have replaced, and damaged copies in quarantine.

    Databases that `restore` has kept go with their side files. What the next `restore --undo` puts back stays for 30
    days whatever --older-than says. Damaged copies stay while pruning of their source is on hold. No backup is
    removed: prune and remove do that.
    """
    span = _span(older_than)
    config = read_config(config_file)
    databases = {name: config.sources[name].path for name in sources(config, names)}
    context = open_context(config, writing=not dry_run)
    decisions = clean(databases, span, context, everything=not names, dry_run=dry_run)
    if as_json:
        print_json([_facts(decision) for decision in decisions])
    else:
        _print(decisions, context, dry_run=dry_run)


def _span(text: str) -> timedelta:
    try:
        return parse_span(text)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}", f"write it like {SPAN_EXAMPLE}") from None


def _facts(decision: CleanDecision) -> dict[str, object]:
    one = decision.leftover
    return {
        "kind": one.kind,
        "source": one.source,
        "path": str(one.path),
        "since": one.since,
        "size_bytes": one.size_bytes,
        "action": "remove" if decision.removed else "keep",
        "reason": decision.reason,
    }


def _print(decisions: tuple[CleanDecision, ...], context: TaskContext, *, dry_run: bool) -> None:
    if not decisions:
        click.echo("nothing to clean")
        return
    now, word = context.clock(), "would be removed" if dry_run else "removed"
    rows = [
        (
            word if one.removed else "stays",
            human_age((now - one.leftover.since).total_seconds()),
            human_bytes(one.leftover.size_bytes),
            one.reason,
            printable(str(one.leftover.path)),
        )
        for one in decisions
    ]
    print_table(("decision", "age", "size", "reason", "path"), rows, right=frozenset({"age", "size"}))
    freed = sum(one.leftover.size_bytes for one in decisions if one.removed)
    click.echo(f"{human_bytes(freed)} {'would be freed' if dry_run else 'freed'}")
