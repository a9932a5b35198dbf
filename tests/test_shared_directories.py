"""Only system/ opens, removes or changes the owner of files by path where other users may write."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "backupd"
# Calls that resolve a path; `system.directory`, `system.held_file` and `system.small_file` do it once, and look first.
_OF_OS = {
    "open",
    "unlink",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "mkdir",
    "chown",
    "chmod",
    "link",
    "symlink",
    "truncate",
}
_OF_PATHS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "rename", "mkdir", "rmdir"}
_OF_PATHS |= {"chmod", "hardlink_to", "symlink_to", "touch"}
_OF_FS = {
    "fsync_directory",
    "overwrite_in_place",
}
# The rooms that work in the directory of a store, and nowhere by a path.
_STORE_ROOMS = ["stores/local.py", "stores/state.py", "stores/ownership.py", "stores/directory_replica.py"]
_STORE_ROOMS += [
    "stores/names.py",
    "tasks/capture.py",
    "tasks/copying.py",
    "tasks/publication.py",
    "tasks/backup.py",
    "tasks/clean.py",
]
_STORE_ROOMS += ["tasks/doctor/local.py", "sqlite/snapshot.py", "sqlite/inspection.py", "archive/archive.py", "log.py"]
_KNOWN = {
    ("archive/archive.py", "os.open"),  # the target of a restore
    ("log.py", "open"),  # by `open_regular`
}


def calls(path: Path) -> set[str]:
    """Return the calls in a module that act on a path: `os.open`, `shutil.rmtree`, `.read_text`, `open`, and so on."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in _OF_OS:
                found.add(f"os.{name}")
            case ast.Attribute(value=ast.Name(id="shutil"), attr=name) if name != "disk_usage":
                found.add(f"shutil.{name}")
            case ast.Attribute(value=value, attr=name) if name in _OF_PATHS and is_a_path(value):
                found.add(f".{name}")
            case ast.Name(id=name) if name in _OF_FS or (name == "open" and not opens_a_descriptor(node)):
                found.add(name)
    return found


def is_a_path(value: ast.expr) -> bool:
    """Tell whether a method is one of a path, and not of an open directory, a store or a stream."""
    text = ast.unparse(value)
    return "path" in text.lower() or "/" in text


def opens_a_descriptor(call: ast.Call) -> bool:
    return any(word in ast.unparse(call.args[0]) for word in ("descriptor", "open_regular", "open_file", "memfd"))


@pytest.mark.parametrize("name", _STORE_ROOMS)
def test_files_of_store_are_reached_only_through_open_directory(name: str) -> None:
    assert {(name, call) for call in calls(ROOT / name)} <= _KNOWN


def test_rooms_except_system_remove_no_trees_and_change_no_owners_by_path() -> None:
    found = {
        (str(path.relative_to(ROOT)), call)
        for path in ROOT.rglob("*.py")
        if path.relative_to(ROOT).parts[0] != "system"
        for call in calls(path) & {"shutil.rmtree", "os.chown", "os.chmod", "shutil.chown", "shutil.move"}
    }
    assert not found, "use backupd.system.directory.Directory"
