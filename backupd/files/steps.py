"""What a restore changes in a directory of files: steps, each of which can be repeated and taken back.

A plan holds them as lines, whose paths are written as in lists. It lies where the user of the app may be able to write,
so that it is untrusted: no path in it leads out of the directory.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from backupd.archive.file_list import MAX_LINE_BYTES, FileEntry, decode_path, escaped
from backupd.errors import TargetRefused

MAX_STEP_BYTES: Final = MAX_LINE_BYTES
FILE_MODE: Final = 0o777  # what is restored of the mode of a file: nobody gets a setuid program from a copy
DIRECTORY_MODE: Final = 0o3777
_NUMBER: Final = rb"(-?\d{1,22})"
_MOVE: Final = re.compile(rb"(put|away)\t([^\t\n]+)\n")
_SET: Final = re.compile(rb"set\t" + rb"\t".join([_NUMBER] * 9) + rb"\t([^\t\n]+)\n")


class Attributes(NamedTuple):
    """Owner, mode and time of a directory."""

    uid: int
    gid: int
    mode: int
    mtime_ns: int

    @classmethod
    def of(cls, entry: FileEntry) -> "Attributes":
        """Return what the directory of an entry gets."""
        return cls(entry.uid, entry.gid, entry.mode & DIRECTORY_MODE, entry.mtime_ns)


class Move(NamedTuple):
    """`put`: what was prepared gets its place at `path`; `away`: it is not in the copy. What is there, is kept."""

    kind: Literal["put", "away"]
    path: bytes


class SetAttributes(NamedTuple):
    """The directory at `path`, which stays, gets other attributes."""

    path: bytes
    inode: int
    was: Attributes
    now: Attributes


Step = Move | SetAttributes


def encode_step(step: Step) -> bytes:
    """Return the line of a step, with its newline."""
    if isinstance(step, Move):
        return b"%s\t%s\n" % (step.kind.encode(), escaped(step.path))
    numbers = b"\t".join(str(number).encode() for number in (step.inode, *step.was, *step.now))
    return b"set\t%s\t%s\n" % (numbers, escaped(step.path))


def decode_steps(lines: Iterable[bytes], found_in: str) -> Iterator[Step]:
    """Yield the steps in a plan, given its lines. Raises TargetRefused for what `encode_step` does not write."""
    for line in lines:
        step = _decode(line)
        if step is None:
            raise TargetRefused(
                f"{found_in} is damaged: {line[:100]!r} is not a step of a restore",
                f"what the restore replaced lies beside it, in old: put back what is missed, and remove {found_in}",
            )
        yield step


def _decode(line: bytes) -> Step | None:
    try:
        if (move := _MOVE.fullmatch(line)) is not None:
            return Move("put" if move[1] == b"put" else "away", decode_path(move[2]))
        if (found := _SET.fullmatch(line)) is not None:
            inode, *numbers = (int(text) for text in found.groups()[:9])
            return SetAttributes(decode_path(found[10]), inode, Attributes(*numbers[:4]), Attributes(*numbers[4:]))
    except ValueError:
        pass
    return None
