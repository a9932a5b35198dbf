"""`backupd pin` and `backupd unpin`, and how pins are shown."""

import click

from backupd.cli import complete
from backupd.cli.common import command, label_option, open_context, opened, require_store, store_option
from backupd.cli.output import echo, minute_text, print_json
from backupd.config import Config
from backupd.formatting import printable
from backupd.model import LOCAL_STORE, Pin
from backupd.tasks.prune import pin_all, unpin_all
from backupd.tasks.requests import PinRequest, read_label


@command("pin", 'backupd pin tasks-20261123-0400 --label "before the migration to v2"', {75: ""})
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete.generations_and_points)
@label_option
@store_option()
def pin_command(config: Config, ids: tuple[str, ...], label: str | None, store: str, *, as_json: bool) -> None:
    """No retention policy removes a pinned generation.

    --store NAME also finds generations that only that replica has.
    """
    request = PinRequest("by an operator", label=read_label(label))
    require_store(store, config)
    context = open_context(config)
    elsewhere = set(context.copies())
    if store != LOCAL_STORE:
        with opened(store, config, context) as (_, inventory):
            elsewhere |= {generation.id for generation in inventory.generations}
    pins = pin_all(ids, request, elsewhere, context)
    if as_json:
        print_json([{"id": pin.generation, **pin_facts(pin)} for pin in pins])
        return
    for pin in pins:
        echo(f"{pin.generation}: {pin_text(pin, config.schedule.timezone)}")


@command("unpin", "backupd unpin tasks-20261123-0400", {75: ""})
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete.generations_and_points)
def unpin_command(config: Config, ids: tuple[str, ...], *, as_json: bool) -> None:
    """From then on the retention policy decides about them."""
    released = unpin_all(ids, open_context(config))
    if as_json:
        print_json([{"id": key, "released": key in released} for key in ids])
        return
    for key in ids:
        echo(f"{printable(key)}: {'released' if key in released else 'was not pinned'}")


def pin_facts(pin: Pin | None) -> dict[str, object]:
    """Return what `--json` prints of the pin of a generation, None where it is not pinned."""
    return {
        "pinned": pin is not None,
        "pinned_until": pin.until if pin else None,
        "pin_reason": pin.reason if pin else "",
        "label": pin.label if pin else "",
    }


def pin_text(pin: Pin, zone: str) -> str:
    """Return how long a generation is pinned, and why."""
    until = minute_text(pin.until, zone) if pin.until else "released"
    return printable(f"pinned until {until}: {pin.reason}{f' ({pin.label})' if pin.label else ''}")
