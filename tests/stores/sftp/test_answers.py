"""Answers of an SFTP server that no request has, that are cut, or that claim more than there is."""

import struct
from collections.abc import Callable

import pytest
from paramiko import Message, sftp

from backupd.stores.sftp.batch import Entry, data_in, entries_in, handle_in, require_ok
from backupd.stores.sftp.paramiko_internals import ProtocolViolated, read_attributes, read_count

OK = struct.pack(">I", sftp.SFTP_OK) + struct.pack(">I", 0) * 2
DENIED = struct.pack(">I", sftp.SFTP_PERMISSION_DENIED) + struct.pack(">I", 0) * 2


def text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def name(flags: int, attributes: bytes = b"") -> bytes:
    """Return an answer with one name, whose long form is empty."""
    return struct.pack(">I", 1) + text(b"tasks.db") + text(b"") + struct.pack(">I", flags) + attributes


@pytest.mark.parametrize("kind", [sftp.CMD_DATA, sftp.CMD_NAME, 255])
def test_answer_of_another_kind_is_named(kind: int) -> None:
    with pytest.raises(OSError, match=f"cannot close it: the server answers with a packet of kind {kind}"):
        require_ok(kind, b"", "close it")


@pytest.mark.parametrize(
    "read",
    [
        lambda body: handle_in(sftp.CMD_STATUS, body, "open it"),
        lambda body: data_in(sftp.CMD_STATUS, body, 4, "read it"),
    ],
)
def test_status_without_what_was_requested_is_refused(read: Callable[[bytes], bytes]) -> None:
    with pytest.raises(OSError, match="packet of kind 101"):
        read(OK)
    with pytest.raises(PermissionError):
        read(DENIED)


def test_more_data_than_requested_is_refused() -> None:
    assert data_in(sftp.CMD_DATA, text(b"1234"), 4, "read it") == b"1234"
    with pytest.raises(OSError, match="more bytes than requested"):
        data_in(sftp.CMD_DATA, text(b"12345"), 4, "read it")


@pytest.mark.parametrize("body", [text(b"x" * 257), text(b"abc")[:-1], b"", struct.pack(">I", 9) + b"abc"])
def test_handle_of_another_length_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolated, match=f"it sends a handle of {len(body)} bytes"):
        handle_in(sftp.CMD_HANDLE, body, "open it")


def test_entry_has_attributes_that_server_sends_and_none_that_it_does_not() -> None:
    assert [*entries_in(name(0))] == [Entry(b"tasks.db", None, None, None)]
    flags = 0x8000_000F  # all of them, and two pairs of an extension
    body = struct.pack(">QIIIII", 7, 1000, 1000, 0o100640, 1, 2) + struct.pack(">I", 2) + text(b"a@b") * 4
    assert [*entries_in(name(flags, body))] == [Entry(b"tasks.db", 7, 0o100640, 2)]


@pytest.mark.parametrize("cut", range(1, 60))
def test_entry_that_is_cut_is_refused(cut: int) -> None:
    whole = name(0x8000_000F, struct.pack(">QIIIII", 7, 0, 0, 0, 1, 2) + struct.pack(">I", 1) + text(b"a") * 2)
    with pytest.raises(ProtocolViolated, match="a packet that ends before them"):
        list(entries_in(whole[:-cut]))


def test_count_of_more_entries_than_packet_has_is_refused() -> None:
    assert read_count(Message(struct.pack(">I", 2) + b"12345678"), 4) == 2
    with pytest.raises(ProtocolViolated, match="it claims 3 entries"):
        read_count(Message(struct.pack(">I", 3) + b"12345678"), 4)


def test_attributes_with_more_extensions_than_packet_has_are_refused() -> None:
    packed = struct.pack(">IQ", 0x8000_0001, 7)
    assert read_attributes(Message(packed + struct.pack(">I", 1) + text(b"a") * 2)).st_size == 7
    with pytest.raises(ProtocolViolated, match="it claims 4000000000 entries"):
        read_attributes(Message(packed + struct.pack(">I", 4_000_000_000)))
