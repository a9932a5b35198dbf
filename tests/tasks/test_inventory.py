"""The inventory of a whole store is fast, and has no effect on the garbage collector."""

import gc
from pathlib import Path

import pytest

from backupd.tasks.context import TaskContext
from backupd.tasks.inventory import take_inventory


@pytest.mark.parametrize("enabled", [True, False])
def test_failed_inventory_restores_state_of_garbage_collector(
    context: TaskContext, backups: Path, enabled: bool
) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        take_inventory(context.store, context.clock())
        assert gc.isenabled() == enabled
        backups.rename(backups.with_name("away"))
        backups.touch()
        with pytest.raises(NotADirectoryError):
            take_inventory(context.store, context.clock())
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
