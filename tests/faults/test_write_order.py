"""The order of writes on disk, which a power cut must not reverse."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from workspaces import Workspace

from support.bank import make_bank
from support.command import Backupd
from support.faults import traced

CALLS = "fdatasync,fsync,link,linkat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat"
_TEMPORARY = re.compile(r"run-\w{8}|[0-9a-f]{8}(?=\.part)|(?<=/fd/)\d+")


def happened(workspace: Workspace, *arguments: str | Path) -> list[str]:
    """Run `backupd ARGUMENTS`; return what was synced, renamed and removed, by names below the workspace."""
    environ = Backupd(workspace.environ, workspace.root).environment()
    ended, calls = traced(environ, workspace.root.parent, CALLS, arguments=arguments)
    assert ended.code == 0, ended.err
    told = []
    for call in calls:
        paths = [_TEMPORARY.sub("*", path.removeprefix(f"{workspace.root}")) for path in call.paths]
        if "ENOENT" not in call.text and paths:
            told.append(" ".join([call.name.removesuffix("2").removesuffix("at"), *paths]))
    return told


def assert_in_order(told: Sequence[str], *wanted: str) -> None:
    """Assert that `wanted` happened in this order, whatever else happened in between."""
    rest = iter(told)
    for step in wanted:
        assert step in rest, f"{step!r} did not happen, or not after what has to come before it: {told}"


def test_generation_is_durable_before_it_is_visible_and_before_pruning(template: Workspace, tmp_path: Path) -> None:
    workspace = replace(template.copy_to(tmp_path / "workspace"), kept=3)
    old = min(workspace.generations())
    told = happened(workspace, "backup")
    new = max(workspace.generations())
    staging, removing = "/backups/.backupd/staging/*/copy", "/backups/.backupd/removing"
    assert_in_order(
        told,
        f"fsync {staging}/archive.part",
        f"fsync {staging}/{new}.manifest.json",
        f"fsync {staging}",
        f"rename {staging}/archive.part /backups/{new}.sqlite3.gz",
        "fsync /backups",
        f"rename {staging}/{new}.manifest.json /backups/{new}.manifest.json",
        "fsync /backups",
        "fsync /backups/.backupd/SHA256SUMS.new",
        "rename /backups/.backupd/SHA256SUMS.new /backups/SHA256SUMS",
        "fsync /backups",
        f"rename /backups/{old}.manifest.json {removing}/{old}.manifest.json",
        f"fsync {removing}",
        "fsync /backups",
        f"unlink /backups/{old}.sqlite3.gz",
        "fsync /backups",
        f"unlink {removing}/{old}.manifest.json",
    )
    assert [step for step in told if step.startswith("unlink") and "sqlite3.gz" in step] == [
        f"unlink /backups/{old}.sqlite3.gz"
    ]


def test_directories_of_first_backup_are_durable_before_files_in_them(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    workspace.database.parent.mkdir(parents=True)
    make_bank(workspace.database)
    assert_in_order(
        happened(workspace, "backup"),
        "mkdir /backups",
        "fsync ",
        "mkdir /backups/.backupd",
        "fsync /backups",
        "mkdir /backups/.backupd/staging",
        "fsync /backups/.backupd",
        "fsync /backups/.backupd/staging/*/copy/archive.part",
    )


def test_restored_file_is_durable_before_it_gets_its_name(template: Workspace, tmp_path: Path) -> None:
    workspace = template.copy_to(tmp_path / "workspace")
    assert_in_order(
        happened(workspace, "restore", "--to", workspace.root / "restored.db"),
        "fsync /.restored.db.*.part",
        "link /proc/self/fd/* /restored.db",
        "fsync ",
    )
