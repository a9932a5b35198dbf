"""Several requests under way through one channel: asking all of them costs one wait, not one for each."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from paramiko import Message, SFTPAttributes, SFTPClient
from paramiko.sftp import CMD_ATTRS, CMD_HANDLE, CMD_LSTAT, CMD_STATUS

from backupd.stores.sftp.paramiko_internals import (
    ResponseReceiver,
    raise_for_status,
    read_attributes,
    receive_response,
    send_request,
)


class Asking(ResponseReceiver):
    """Asks a server without waiting, and hears its answers whatever order they come in (draft §6.1)."""

    def __init__(self, client: SFTPClient) -> None:
        self._client = client
        self._answers: dict[int, tuple[int, Message]] = {}

    def ask(self, kind: int, *arguments: Any) -> int:  # noqa: ANN401 - what paramiko packs
        """Send a request; returns the number by which `hear` knows its answer. Raises SSHException, OSError."""
        return send_request(self._client, self, kind, *arguments)

    def has(self, number: int) -> bool:
        """Tell whether an answer is there."""
        return number in self._answers

    def hear(self, number: int) -> tuple[int, Message]:
        """Wait for an answer. Raises OSError when it is no, EOFError at the end of a file, SSHException."""
        while number not in self._answers:
            receive_response(self._client)
        kind, message = self._answers.pop(number)
        if kind == CMD_STATUS:
            raise_for_status(self._client, message)
        return kind, message

    def handle(self, number: int) -> bytes:
        """Wait for the handle of what was asked to be opened. Raises as `hear` does."""
        return self._of_kind(CMD_HANDLE, number).get_string()

    def attributes(self, number: int) -> SFTPAttributes:
        """Wait for the attributes that were asked for. Raises as `hear` does."""
        return read_attributes(self._of_kind(CMD_ATTRS, number))

    def _of_kind(self, wanted: int, number: int) -> Message:
        kind, message = self.hear(number)
        if kind != wanted:
            raise OSError(f"the server answered with a packet of kind {kind} instead of {wanted}")
        return message

    def receive(self, kind: int, message: Message, number: int) -> None:
        """Keep an answer until `hear` takes it."""
        self._answers[number] = kind, message


def attributes_of(mode: int | None) -> Any:  # noqa: ANN401 - paramiko's class has no types
    """Return what says that a file shall have this mode, or nothing of it."""
    attributes = SFTPAttributes()
    attributes.st_mode = mode
    return attributes


def looked_up(client: SFTPClient, paths: Sequence[str]) -> tuple[SFTPAttributes | None, ...]:
    """Return what is known of each of `paths`, itself and not what it links to; None of what is not there.

    Raises OSError.
    """
    asking = Asking(client)
    numbers = [asking.ask(CMD_LSTAT, path) for path in paths]
    return tuple(_attributes(asking, number) for number in numbers)


def _attributes(asking: Asking, number: int) -> SFTPAttributes | None:
    with suppress(FileNotFoundError):
        return asking.attributes(number)
    return None
