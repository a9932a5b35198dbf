"""`backupd clean` and `backupd catalog rebuild`."""

from dataclasses import asdict

import click

from backupd.bootstrap.tasks import subjects_of_backups
from backupd.cli import COMMANDS
from backupd.cli.common import command, dry_run_option, open_context, require_mounted, source_option
from backupd.cli.output import echo, print_json, print_table
from backupd.config import Config
from backupd.errors import UsageError
from backupd.formatting import SPAN_EXAMPLE, human_age, human_bytes, parse_span, printable, written_span
from backupd.sqlite.history import KEPT_FOR
from backupd.tasks.clean import CleanDecision, clean
from backupd.tasks.context import TaskContext, rebuild_catalog


@command("clean", "backupd clean --older-than 7d --dry-run", {75: ""})
@click.option(
    "--older-than",
    metavar="SPAN",
    default=written_span(KEPT_FOR),
    show_default=True,
    help=f"Remove only what is older: {SPAN_EXAMPLE}.",
)
@dry_run_option
@source_option
def clean_command(config: Config, names: tuple[str, ...], older_than: str, *, dry_run: bool, as_json: bool) -> None:
    """Databases and files that restores kept are removed, databases with their side files.

    What the next restore --undo needs stays for 30 days, whatever --older-than says. Copies in quarantine stay while
    pruning of their source is on hold. Contents of files that no generation names go after a day, unless --source is
    given. No generation is removed: prune and remove do that.
    """
    try:
        span = parse_span(older_than)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}", f"write it like {SPAN_EXAMPLE}") from None
    chosen = subjects_of_backups(config, names)
    databases = {name: config.sources[name].path for name in chosen if name in config.sources}
    files = {name: config.files[name].path for name in chosen if name in config.files}
    context = open_context(config, writing=not dry_run)
    require_mounted(context)
    decisions = clean(databases, span, context, files=files, everything=not names, dry_run=dry_run)
    if as_json:
        print_json([_facts(decision) for decision in decisions])
    else:
        _print(decisions, context, dry_run=dry_run)


def _facts(decision: CleanDecision) -> dict[str, object]:
    leftover, action = decision.leftover, "remove" if decision.removed else "keep"
    return {**asdict(leftover), "path": str(leftover.path), "action": action, "reason": decision.reason}


def _print(decisions: tuple[CleanDecision, ...], context: TaskContext, *, dry_run: bool) -> None:
    if not decisions:
        echo("nothing to clean")
        return
    now, removed = context.clock(), "would be removed" if dry_run else "removed"
    rows = [
        (
            removed if one.removed else "stays",
            human_age((now - one.leftover.since).total_seconds()),
            human_bytes(one.leftover.size_bytes),
            one.reason,
            printable(str(one.leftover.path)),
        )
        for one in decisions
    ]
    print_table(("decision", "age", "size", "reason", "path"), rows)
    freed = sum(one.leftover.size_bytes for one in decisions if one.removed)
    echo(f"{human_bytes(freed)} {'would be freed' if dry_run else 'freed'}")


catalog_command = click.Group(
    "catalog", help=COMMANDS["catalog"].summary, epilog="Example: backupd catalog rebuild --json"
)


@command("rebuild", "backupd catalog rebuild", {75: ""}, group=catalog_command)
def rebuild_command(config: Config, *, as_json: bool) -> None:
    """Rebuild the catalog from the manifests; readable history of the old catalog is kept."""
    count = rebuild_catalog(open_context(config))
    if as_json:
        print_json({"generations": count})
    else:
        echo(f"catalog rebuilt: {count} generations")
