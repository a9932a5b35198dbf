"""Several requests under way through one channel: asking all of them costs one wait, not one for each."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from paramiko import Message, SFTPAttributes, SFTPClient
from paramiko.sftp import CMD_ATTRS, CMD_HANDLE, CMD_LSTAT, CMD_STATUS


class Asking:
    """Asks a server without waiting, and hears its answers whatever order they come in (draft §6.1)."""

    def __init__(self, client: SFTPClient) -> None:
        self._client: Any = client  # what is used of it has no public name, and so no types
        self._answers: dict[int, tuple[int, Message]] = {}

    def ask(self, kind: int, *arguments: Any) -> int:  # noqa: ANN401 - what paramiko packs
        """Send a request; returns the number by which `hear` knows its answer. Raises SSHException, OSError."""
        number: int = self._client._async_request(self, kind, *arguments)  # noqa: SLF001 - no other way to see the answer
        return number

    def has(self, number: int) -> bool:
        """Tell whether an answer is there."""
        return number in self._answers

    def hear(self, number: int) -> tuple[int, Message]:
        """Wait for an answer. Raises OSError when it is no, EOFError at the end of a file, SSHException."""
        while number not in self._answers:
            self._client._read_response()  # noqa: SLF001 - as above
        kind, message = self._answers.pop(number)
        if kind == CMD_STATUS:
            self._client._convert_status(message)  # noqa: SLF001 - as above
        return kind, message

    def handle(self, number: int) -> bytes:
        """Wait for the handle of what was asked to be opened. Raises as `hear` does."""
        return self._of_kind(CMD_HANDLE, number).get_string()

    def attributes(self, number: int) -> SFTPAttributes:
        """Wait for the attributes that were asked for. Raises as `hear` does."""
        kind_of_attributes: Any = SFTPAttributes  # as above
        found: SFTPAttributes = kind_of_attributes._from_msg(self._of_kind(CMD_ATTRS, number))  # noqa: SLF001 - as above
        return found

    def _of_kind(self, wanted: int, number: int) -> Message:
        kind, message = self.hear(number)
        if kind != wanted:
            raise OSError(f"the server answered with a packet of kind {kind} instead of {wanted}")
        return message

    def _async_response(self, kind: int, message: Message, number: int) -> None:
        """Take an answer; paramiko calls this."""
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
