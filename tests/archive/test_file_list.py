"""A list of files is read back as written, and nothing in one from another host leads out of its directory."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupd.archive.file_list import FileEntry, decode_entries, encode_entry
from backupd.errors import CopyCorrupt

ID = "uploads-20261130-0400"
DIGEST = "0123456789abcdef" * 4
NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: name not in (b".", b"..") and not set(name) & {0, 0x2F})


def file_at(path: bytes) -> FileEntry:
    return FileEntry(path, "f", 0o644, 1000, 1000, 1, 3, DIGEST)


def directory_at(path: bytes) -> FileEntry:
    return FileEntry(path, "d", 0o755, 1000, 1000, 1)


def link_at(path: bytes, target: bytes = b"..") -> FileEntry:
    return FileEntry(path, "l", 0o777, 1000, 1000, 1, target=target)


def read_back(entries: list[FileEntry]) -> list[FileEntry]:
    return list(decode_entries([encode_entry(entry) for entry in entries], ID))


@settings(deadline=None)
@given(
    st.dictionaries(NAMES, st.sets(NAMES, max_size=3), max_size=5),
    st.integers(0, 0o7777),
    st.integers(-(10**20), 10**20),
    st.binary(min_size=1, max_size=30).filter(lambda target: b"\0" not in target),
)
def test_list_of_any_names_is_read_back_unchanged(
    tree: dict[bytes, set[bytes]], mode: int, mtime_ns: int, target: bytes
) -> None:
    entries = [directory_at(name)._replace(mode=mode, mtime_ns=mtime_ns) for name in tree]
    for directory, names in tree.items():
        entries += [file_at(directory + b"/" + name) for name in names]
        entries.append(link_at(directory + b"/" + b"l" * 30, target))
    entries.sort(key=lambda entry: entry.path.split(b"/"))
    lines = [encode_entry(entry) for entry in entries]
    assert all(line.endswith(b"\n") and line.decode().count("\t") == 7 and line.count(b"\n") == 1 for line in lines)
    assert list(decode_entries(lines, ID)) == entries


@pytest.mark.parametrize(
    "entries",
    [
        [file_at(b"../a")],
        [file_at(b"/etc/passwd")],
        [file_at(b"a//b")],
        [file_at(b".")],
        [file_at(b"a/b")],
        [file_at(b"a"), file_at(b"a/b")],
        [link_at(b"a"), file_at(b"a/b")],
        [directory_at(b"a"), link_at(b"a/b"), file_at(b"a/b/c")],
        [file_at(b"b"), file_at(b"a")],
        [file_at(b"a"), file_at(b"a")],
        [file_at(b"a" * 256)],
        [directory_at(b"a")._replace(uid=2**32 - 1)],
    ],
)
def test_entry_that_leads_out_or_contradicts_another_is_refused(entries: list[FileEntry]) -> None:
    with pytest.raises(CopyCorrupt) as caught:
        read_back(entries)
    assert ID in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("change", ["\t", " ", "\n", "f", "\\", "\\0777", "\0"])
def test_line_with_an_additional_character_is_refused(change: str) -> None:
    line = encode_entry(directory_at(b"a")).decode()
    for position in range(len(line) - 2):  # behind that it is part of the name
        with pytest.raises(CopyCorrupt):
            list(decode_entries([f"{line[:position]}{change}{line[position:]}".encode()], ID))


def test_printf_of_shell_reads_escaped_name() -> None:
    name = b"a\nb\t\\ \xff\xc3\xa9"
    field = encode_entry(file_at(name)).rstrip(b"\n").split(b"\t")[-1]
    for shell in (["dash"], ["bash"], ["busybox", "sh"]):
        done = subprocess.run([*shell, "-c", 'printf %b "$1"', "sh", field], capture_output=True, check=True)
        assert done.stdout == name, shell
