"""`backupd remove`."""

from pathlib import Path

import click

from backupd.cli.common import (
    config_option,
    json_option,
    open_context,
    print_json,
    print_warning,
    read_config,
    readable_errors,
    require_store,
)
from backupd.model import LOCAL_STORE
from backupd.tasks.remove import Removal, remove_at_replica, remove_local


@click.command("remove", epilog="Example: backupd remove tasks-20261123-0400")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also pinned ones, the last verified one, and while pruning is on hold.")
@click.option("--store", "store", metavar="NAME", default=LOCAL_STORE, help="Store to remove them from (local).")
@config_option
@json_option
@readable_errors
def command(config_file: Path | None, ids: tuple[str, ...], store: str, *, force: bool, as_json: bool) -> None:
    """Remove generations from one store now, whatever the retention policy says.

    A pinned generation, and the last verified one of its source in that store, stay unless --force is given. Copies
    in other stores stay: to remove a generation everywhere, remove it here first, then at each replica.
    """
    config = read_config(config_file)
    require_store(store, config)
    context = open_context(config)
    if store == LOCAL_STORE:
        done = remove_local(ids, context, force=force)
    else:
        from backupd.bootstrap.replicas import replica_connector, replication_request  # brings paramiko

        done = remove_at_replica(
            ids, replication_request(config, store), replica_connector(config, store, context), context, force=force
        )
    if as_json:
        print_json([_facts(removal) for removal in done])
        return
    for removal in done:
        click.echo(f"{removal.generation}: removed from {removal.store}")
        if removal.still_in:
            print_warning(_still_there(removal))


def _facts(removal: Removal) -> dict[str, object]:
    return {"id": removal.generation, "store": removal.store, "still_in": list(removal.still_in)}


def _still_there(removal: Removal) -> str:
    others = ", ".join(removal.still_in)
    again = "" if removal.store == LOCAL_STORE else "; the next replication may send it again"
    return f"{removal.generation} is still in {others}{again if LOCAL_STORE in removal.still_in else ''}"
