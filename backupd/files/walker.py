"""The parent's end of a walk: the edits that make an index one of what is there, with the new contents held open."""

import json
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self

from backupd.errors import SourceMissing, SourceUnusable, WorkerFailed, WorkerHung
from backupd.files.selection import path_below
from backupd.files.worker.edits import END, FILES_OF_A_MESSAGE, MESSAGE_BYTES
from backupd.files.worker.walk import WalkReply, WalkRequest
from backupd.model import DirectoryFacts
from backupd.system.fs import OPEN_FILES, opened
from backupd.system.links import LINK_HINT, foreign_link
from backupd.system.mounts import current_mounts
from backupd.system.owners import known_owner, ownership_hint
from backupd.system.worker_process import WorkerProcess

_MODULE: Final = "backupd.files.worker.walk"
_NEXT: Final = b"n"
_POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class FilesDirectory:
    """The directory of a set of files: where it really is, its identity and its owner."""

    path: Path
    facts: DirectoryFacts
    device: int
    inode: int

    @classmethod
    def inspect(cls, path: Path) -> Self:
        """Look at the directory at `path`, whose links are followed. Raises SourceMissing, SourceUnusable."""
        if foreign := foreign_link(path):
            raise SourceUnusable(str(foreign), LINK_HINT)
        real = Path(os.path.realpath(path))
        try:
            descriptor = os.open(real, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY)
        except FileNotFoundError:
            raise SourceMissing(
                f"no directory at {path}",
                "check path, and that the right volume is mounted; an app that has no files yet: make it empty",
            ) from None
        except NotADirectoryError:
            raise SourceUnusable(
                f"{path} is not a directory", "a set of files is a directory; name it in path"
            ) from None
        except PermissionError as error:
            hint = ownership_hint(real, "run backupd as the user of the app (PUID), or as root")
            raise SourceUnusable(f"uid {os.geteuid()} may not access {real}", hint) from error
        try:
            state = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        uid, gid = known_owner(real, state)
        if os.geteuid() not in (0, uid) and not os.access(real, os.R_OK | os.X_OK, effective_ids=True):
            owner = "a user that is not mapped here" if uid is None else f"uid {uid}"
            raise SourceUnusable(
                f"uid {os.geteuid()} may not read {real}, which belongs to {owner}",
                "let one user own the databases and sets of files, or its group read them (PGID); or set PUID=0: as "
                "root backupd reads each as its owner",
            )
        return cls(real, DirectoryFacts(str(real), uid, gid, state.st_mode & 0o7777), state.st_dev, state.st_ino)

    def may_be_read_by(self, uid: int | None) -> bool:
        """Tell whether the user `uid` may read all that is in it: it is his."""
        return uid == self.facts.uid

    def below(self, path: Path | str) -> str | None:
        """Return `path`, whose links are followed, relative to this directory; None where it is not below it."""
        return path_below(self.path, path)


class Edit(NamedTuple):
    """Of an index, keep or drop lines, or add one; `descriptor` is open where it is that of a file, else -1."""

    keep: int = 0
    drop: int = 0
    line: bytes = b""
    descriptor: int = -1


class Walk:
    """A walk that a child process does; ask for `edits` first, and then for the `news` since."""

    def __init__(self, process: WorkerProcess[None], peer: socket.socket, deadline: float) -> None:
        self._process, self._peer, self._deadline = process, peer, deadline
        self.reply: WalkReply | None = None

    def edits(self) -> Iterator[Edit]:
        """Yield the edits of the index; then `reply` is what the walk has seen.

        The caller closes each descriptor. Raises the error of the child, WorkerFailed, WorkerHung.
        """
        return self._received()

    def news(self, most_open: int) -> Iterator[Edit]:
        """Yield a line to add for what is new or changed since the walk, or the last call, in no order.

        With them come `most_open` files at most.
        """
        self._send(b"%d" % most_open)
        return self._received()

    def _received(self) -> Iterator[Edit]:
        while True:
            self._send(_NEXT)
            message, descriptors = self._receive()
            left = list(reversed(descriptors))
            try:
                if message.startswith(END):
                    self.reply = json.loads(message[len(END) :])
                    return
                for line in message.split(b"\n")[:-1]:
                    yield _edit(line, left)
            finally:
                for descriptor in left:
                    os.close(descriptor)

    def _receive(self) -> tuple[bytes, Sequence[int]]:
        poll = select.poll()
        poll.register(self._peer, select.POLLIN)
        while not poll.poll(1000 * _POLL_S):
            if time.monotonic() > self._deadline:
                raise WorkerHung(
                    "the files could not be looked at in time",
                    "check that the disk or server of their mount responds (dmesg); if it is slow, raise timeout_s",
                )
        try:
            message, descriptors, flags, _ = socket.recv_fds(self._peer, MESSAGE_BYTES, FILES_OF_A_MESSAGE)
        except ConnectionResetError:  # it ended before it had read all that it was asked
            message, descriptors, flags = b"", [], 0
        if flags & socket.MSG_CTRUNC:
            for descriptor in descriptors:
                os.close(descriptor)
            raise SourceUnusable(
                "too many open files: not all files of a message of the walk could be received",
                "allow more open files (ulimit -n; docker run --ulimit nofile=20000)",
            )
        if not message:
            self._process.result()  # raises why it ended
            raise WorkerFailed("the process that walks the files ended in the middle", "report this with backup.log")
        return message, descriptors

    def _send(self, command: bytes) -> None:
        try:
            self._peer.send(command)
        except BrokenPipeError:
            self._process.result()
            raise


@contextmanager
def walking(
    directory: FilesDirectory,
    index: int,
    *,
    exclude: Sequence[str],
    left_out: Sequence[str],
    most_open: int,
    most_held: int,
    deadline: float,
) -> Iterator[Walk]:
    """Walk `directory` in a child process that lives during the block, and compare it with the open `index`.

    `left_out` are paths below it, `most_open` how many descriptors the walk may send, and `most_held` how many this
    process can have open.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, opened(f"{OPEN_FILES}{index}") as own_index:  # with a position of its own
        points = [mount.point for mount in current_mounts()]
        request = WalkRequest(
            path=str(directory.path),
            device=directory.device,
            inode=directory.inode,
            uid=directory.facts.uid,
            gid=directory.facts.gid,
            socket=theirs.fileno(),
            index=own_index,
            exclude=list(exclude),
            left_out=list(left_out),
            mounts=[below for point in points if (below := directory.below(point))],
            now_ns=time.time_ns(),
            most_open=most_open,
            most_together=max(1, min(FILES_OF_A_MESSAGE, most_held // 4)),
        )
        files = (theirs.fileno(), own_index)
        with WorkerProcess[None](_MODULE, request, "/", deadline, files) as process:
            theirs.close()
            yield Walk(process, ours, deadline)


def _edit(line: bytes, descriptors: list[int]) -> Edit:
    sign, rest = line[:1], line[1:]
    if sign == b"=":
        return Edit(keep=int(rest))
    if sign == b"-":
        return Edit(drop=int(rest))
    return Edit(line=rest, descriptor=descriptors.pop() if rest.endswith(b"\t?") else -1)
