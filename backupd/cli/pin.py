"""`backupd pin`, and how pins are shown."""

from pathlib import Path

import click

from backupd.cli.common import (
    config_option,
    json_option,
    open_context,
    opened,
    print_json,
    read_config,
    readable_errors,
    require_store,
    store_option,
)
from backupd.errors import UsageError
from backupd.formatting import printable
from backupd.model import LOCAL_STORE, Pin
from backupd.tasks.prune import pin_all
from backupd.tasks.requests import PinRequest

_MOST_CHARACTERS = 200


@click.command("pin", epilog='Example: backupd pin tasks-20261123-0400 --label "before the migration to v2"')
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--label", metavar="TEXT", help="A short text that list, show and the page show beside it.")
@store_option
@config_option
@json_option
@readable_errors
def command(config_file: Path | None, ids: tuple[str, ...], label: str | None, store: str, *, as_json: bool) -> None:
    """Keep generations, here and at replicas, until they are released: no retention policy removes them.

    A generation that only a replica holds can be pinned as well: --store NAME looks for it there.
    """
    request = PinRequest("by an operator", label=read_label(label))
    config = read_config(config_file)
    require_store(store, config)
    context = open_context(config)
    elsewhere = set(context.copies())
    if store != LOCAL_STORE:
        with opened(store, config, context) as (_, inventory):
            elsewhere |= {generation.id for generation in inventory.generations}
    pins = pin_all(ids, request, elsewhere, context)
    if as_json:
        print_json([{"id": one.generation, **pin_facts(one)} for one in pins])
        return
    for one in pins:
        click.echo(f"{one.generation}: {pin_words(one)}")


def read_label(text: str | None) -> str:
    """Return the label that an operator gave, empty for none. Raises UsageError for one that cannot be shown."""
    label = (text or "").strip()
    if printable(label) != label or len(label) > _MOST_CHARACTERS:
        raise UsageError(
            f"the label {label[:60]!r} cannot be shown in a list", f"one line, {_MOST_CHARACTERS} characters at most"
        )
    return label


def pin_facts(pin: Pin | None) -> dict[str, object]:
    """Return what `--json` prints of the pin on a generation, None where there is none."""
    return {
        "pinned": pin is not None,
        "pinned_until": pin.until if pin else None,
        "pin_reason": pin.reason if pin else "",
        "label": pin.label if pin else "",
    }


def pin_words(pin: Pin) -> str:
    """Tell how long a generation is pinned, and why."""
    until = f"{pin.until:%F %T} UTC" if pin.until else "released"
    return printable(f"pinned until {until}: {pin.reason}{f' ({pin.label})' if pin.label else ''}")
