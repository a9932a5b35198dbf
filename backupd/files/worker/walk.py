"""Walk a directory as its owner, and tell how it differs from an index; then tell what has changed since the walk.

Run as `python -m backupd.files.worker.walk`. What differs goes to the parent as edits of the index (`edits.py`). A
second command tells what has changed since, as new lines alone, in no order. Names are looked up in directories that
are held open, and no link is followed, whatever is exchanged meanwhile.
"""

import errno
import os
import socket
import stat
from array import array
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO, Final, NamedTuple, TypedDict
from zlib import crc32

from backupd.archive.file_list import escaped
from backupd.errors import SourceReplaced
from backupd.files.index import DAY_DIGITS, GRAIN_NS, day_of, key_of, order_of
from backupd.files.selection import LOST_AND_FOUND
from backupd.files.worker.edits import Edits
from backupd.system.owners import become_owner
from backupd.system.path_patterns import excluded
from backupd.system.worker import ParentPipe, serve

_COMMAND_BYTES: Final = 32
_MAX_DEPTH: Final = 256
_MAX_PATH_BYTES: Final = 4000
_MAX_NAME_BYTES: Final = 255
_PLAIN: Final = bytes(byte for byte in range(32, 127) if byte != ord("\\")) + b"/"
_MOST_NAMED: Final = 3
_REREAD_DAYS: Final = 30
_NOW_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK
_NOW_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
# An app replaces a name by one of another kind, or by none.
_REPLACED: Final = frozenset((errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO))
_DENIED: Final = frozenset((errno.EACCES, errno.EPERM, errno.EIO, errno.EWOULDBLOCK, errno.ENAMETOOLONG))


class WalkRequest(TypedDict):
    """Walk the directory at `path`, which is inode `inode` of `device`, as its owner."""

    path: str
    device: int
    inode: int
    uid: int | None
    gid: int | None
    socket: int  # descriptors: where edits go
    index: int  # of an index, or of an empty file
    exclude: list[str]
    left_out: list[str]  # paths below `path`
    mounts: list[str]  # that are not entered
    now_ns: int
    most_open: int  # files that the parent takes from the walk
    most_together: int  # files that it can receive with one message


class WalkReply(TypedDict):
    """What a walk has seen."""

    new: int
    changed: int
    gone: int
    late: int  # files that differ, and that the parent could not hold as well
    vanished: int  # while they were looked at
    special: int  # sockets, pipes and devices
    unreadable: int
    unreadable_names: list[str]
    mounts: list[str]


class _Known(NamedTuple):
    """A directory as the walk has seen it: enough to tell what is new in it."""

    path: bytes  # with a slash at its end, but for the first
    inode: int
    mtime_ns: int  # -1: so recent that a later change may not show
    lines: "array[int]"  # a hash of the key and the path of each entry


class Walk:
    """One walk, and what it remembers of it."""

    def __init__(self, request: WalkRequest, out: Edits) -> None:
        self._request, self._out = request, out
        self._files = excluded(request["exclude"], directories=False)
        self._directories = excluded(request["exclude"], directories=True)
        self._left_out = frozenset(os.fsencode(path) for path in request["left_out"])
        self._mounts = frozenset(os.fsencode(path) for path in request["mounts"])
        self._has_rules = bool(request["exclude"] or request["left_out"] or request["mounts"])
        self._known = list[_Known]()
        self._now_ns, self._most_open = request["now_ns"], request["most_open"]
        self._oldest = day_of(self._now_ns - _REREAD_DAYS * 86_400 * 10**9)
        self.reply = WalkReply(
            new=0,
            changed=0,
            gone=0,
            late=0,
            vanished=0,
            special=0,
            unreadable=0,
            unreadable_names=[],
            mounts=[],
        )
        self._opened = 0
        self._root = os.open(request["path"], _NOW_DIRECTORY)
        state = os.fstat(self._root)
        if (state.st_dev, state.st_ino) != (request["device"], request["inode"]):
            raise SourceReplaced(f"{request['path']} was replaced just now", "run the backup again")
        self._index = _Lines(request["index"])

    def walk(self) -> None:
        """Send the edits that make the index one of what is there now."""
        self._directory(self._root, b"", b"", 0)
        self._drop_before(None)
        self._out.end(self.reply)

    def rescan(self, most_open: int) -> None:
        """Send a line for each entry that is new or changed since the walk, or the last call; forget what is gone.

        With it come `most_open` files at most.
        """
        self._most_open = self._opened + most_open
        known = {one.path: one.inode for one in self._known}
        for one in list(self._known):
            with suppress(OSError):
                state = os.stat(
                    one.path or b".", dir_fd=self._root
                )  # may follow a link: then it differs, or is the same
                if one.mtime_ns == state.st_mtime_ns and one.inode == state.st_ino:
                    continue
            descriptor = self._reopened(one.path)
            if descriptor is not None:
                try:
                    self._news(descriptor, one, known)
                finally:
                    os.close(descriptor)
        self._out.end(self.reply)

    def _directory(self, descriptor: int, above: bytes, shown: bytes, depth: int) -> None:
        """Compare what is in an open directory with the index; `above` is its path, and `shown` as lines have it."""
        remember = self._remember(descriptor, above).append
        index, out, kept = self._index, self._out, 0
        for name, text, key in self._entries(descriptor, above):
            start = b"%s\t%s%s\t" % (key, shown, text)
            remember(hash(start))
            line = index.line
            if line.startswith(start) and line[-1 - DAY_DIGITS : -1] >= self._oldest:
                kept += 1
                index.line = next(index.rest, b"")
            else:
                out.keep(kept)
                kept = 0
                self._differs(descriptor, name, key, above, shown + text)
            if key.startswith(b"d"):
                out.keep(kept)
                kept = 0
                self._enter(descriptor, name, above, shown + text, depth)
        out.keep(kept)

    def _enter(self, parent: int, name: bytes, above: bytes, shown: bytes, depth: int) -> None:
        path = above + name
        if path in self._mounts:
            return
        if depth >= _MAX_DEPTH:
            self._unreadable(path)
            return
        descriptor = self._open(parent, name, _NOW_DIRECTORY, path)
        if descriptor is None:
            return
        try:
            if os.fstat(descriptor).st_dev == self._request["device"]:
                self._directory(descriptor, path + b"/", shown + b"/", depth + 1)
            else:
                self._mount(path)
        finally:
            os.close(descriptor)

    def _entries(self, descriptor: int, above: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield what is in a directory, in the order of lists: the name, as lines have it as well, and the key."""
        names = sorted(map(os.fsencode, os.listdir(descriptor)))
        all_names = b"/".join(names)
        is_plain = not all_names.translate(None, _PLAIN)
        if b".backupd" in all_names or b".pre-restore-" in all_names:
            names = [name for name in names if not (name.startswith(b".backupd") or b".pre-restore-" in name)]
        if not above and LOST_AND_FOUND in names and _is_of_file_system(descriptor):
            names.remove(LOST_AND_FOUND)
        has_rules = self._has_rules or len(above) + _MAX_NAME_BYTES > _MAX_PATH_BYTES
        for name in names:
            try:
                key = key_of(os.stat(name, dir_fd=descriptor, follow_symlinks=False))
            except OSError as error:
                self._failed(above + name, error)
                continue
            if not key:
                self.reply["special"] += 1
            elif not has_rules or self._is_wanted(above + name, key):
                yield name, name if is_plain else escaped(name), key

    def _is_wanted(self, path: bytes, key: bytes) -> bool:
        is_directory = key.startswith(b"d")
        excludes = self._directories if is_directory else self._files
        if path in self._left_out or (excludes and excludes(path)):
            return False
        if len(path) > _MAX_PATH_BYTES:
            self._unreadable(path)
            return False
        if path in self._mounts:
            self._mount(path)
            return is_directory
        return True

    def _holds_still(self, key: bytes, shown: bytes) -> bool:
        """Tell whether the next line of the index is that of a path, and need not be read again.

        A file is read again after 30 to 60 days although it looks unchanged, spread by the paths.
        """
        if not self._index.line.startswith(b"%s\t%s\t" % (key, shown)):
            return False
        days = _REREAD_DAYS + crc32(shown) % (_REREAD_DAYS + 1)
        day = self._index.line[-1 - DAY_DIGITS : -1]
        return not key.startswith(b"f") or day >= day_of(self._now_ns - days * 86_400 * 10**9)

    def _differs(self, parent: int, name: bytes, key: bytes, above: bytes, shown: bytes) -> None:
        """Replace the line of a path by one of what is there now, or add it."""
        path = above + name
        self._drop_before(path.replace(b"/", b"\0"))
        if self._holds_still(key, shown):
            self._out.keep(1)
            self._index.next()
            return
        was = self._index.holds(path)
        made = self._line(parent, name, key, path, shown)
        if made is None:
            if was and key[:1] == b"f" and self._opened >= self._most_open:
                self._out.keep(1)  # as it was read before, until it is read by its name
                self._index.next()
            return
        if was:
            self._out.drop()
            self._index.next()
        if key[:1] == b"f":
            self.reply["changed" if was else "new"] += 1
        self._out.add(*made)

    def _line(self, parent: int, name: bytes, key: bytes, path: bytes, shown: bytes) -> tuple[bytes, int] | None:
        """Return the line of a path, with the descriptor of a file (-1: none); None where there is none to be had."""
        if key[:1] == b"d":
            return b"%s\t%s\t-" % (key, shown), -1
        if key[:1] == b"l":
            try:
                target = os.readlink(name, dir_fd=parent)
            except OSError as error:
                self._failed(path, error)
                return None
            return b"%s\t%s\t%s" % (key, shown, escaped(target)), -1
        return self._file_line(parent, name, path, shown)

    def _file_line(self, parent: int, name: bytes, path: bytes, shown: bytes) -> tuple[bytes, int] | None:
        if self._opened >= self._most_open:
            self.reply["late"] += 1
            return None
        descriptor = self._open(parent, name, _NOW_FILE, path)
        if descriptor is None:
            return None
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_dev != self._request["device"]:
            os.close(descriptor)
            self.reply["vanished"] += 1
            return None
        self._opened += 1
        return b"%s\t%s\t?" % (key_of(state), shown), descriptor

    def _drop_before(self, order: bytes | None) -> None:
        """Drop the lines of the index that come before a path: nothing is there any more. None: all that are left."""
        index = self._index
        while index.comes_before(order):
            self.reply["gone"] += index.line.startswith(b"f")
            self._out.drop()
            index.next()

    def _remember(self, descriptor: int, path: bytes) -> "array[int]":
        state = os.fstat(descriptor)
        is_old = abs(self._now_ns - state.st_mtime_ns) > GRAIN_NS
        lines = array("q")
        self._known.append(_Known(path, state.st_ino, state.st_mtime_ns if is_old else -1, lines))
        return lines

    def _reopened(self, path: bytes) -> int | None:
        """Open a directory again, part by part; None where it is gone."""
        descriptor = os.dup(self._root)
        for part in filter(None, path.split(b"/")):
            try:
                below = os.open(part, _NOW_DIRECTORY, dir_fd=descriptor)
            except OSError:
                return None
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _news(self, descriptor: int, known: _Known, directories: dict[bytes, int]) -> None:
        """Send what is in an open directory now and was not when it was `known`."""
        before = frozenset(known.lines)
        shown_above = escaped(known.path)
        for name, text, key in self._entries(descriptor, known.path):
            path, shown = known.path + name, shown_above + text
            line = hash(b"%s\t%s\t" % (key, shown))
            if line in before:
                continue
            known.lines.append(line)
            if made := self._line(descriptor, name, key, path, shown):
                self._out.add(*made)
            is_known = directories.get(path + b"/") == int(key.rpartition(b" ")[2])
            if key[:1] == b"d" and not is_known and path not in self._mounts:
                self._enter_new(descriptor, name, path, directories)

    def _enter_new(self, parent: int, name: bytes, path: bytes, directories: dict[bytes, int]) -> None:
        descriptor = self._open(parent, name, _NOW_DIRECTORY, path)
        if descriptor is None:
            return
        try:
            state = os.fstat(descriptor)
            if state.st_dev == self._request["device"] and path.count(b"/") < _MAX_DEPTH:
                known = _Known(path + b"/", state.st_ino, -1, array("q"))
                self._known.append(known)
                self._news(descriptor, known, directories)
        finally:
            os.close(descriptor)

    def _open(self, parent: int, name: bytes, flags: int, path: bytes) -> int | None:
        """Open a name; None where it is gone, or another kind of thing, or where its owner may not read it."""
        try:
            try:
                return os.open(name, flags | os.O_NOATIME, dir_fd=parent)
            except PermissionError:  # EPERM: it is somebody else's
                return os.open(name, flags, dir_fd=parent)
        except OSError as error:
            self._failed(path, error)
            return None

    def _failed(self, path: bytes, error: OSError) -> None:
        if error.errno in _REPLACED:
            self.reply["vanished"] += 1
        elif error.errno in _DENIED:
            self._unreadable(path)
        else:
            raise error

    def _unreadable(self, path: bytes) -> None:
        self.reply["unreadable"] += 1
        if len(self.reply["unreadable_names"]) < _MOST_NAMED:
            self.reply["unreadable_names"].append(os.fsdecode(path))

    def _mount(self, path: bytes) -> None:
        name = os.fsdecode(path)
        if name not in self.reply["mounts"] and len(self.reply["mounts"]) < _MOST_NAMED:
            self.reply["mounts"].append(name)


def _is_of_file_system(descriptor: int) -> bool:
    """Tell whether `lost+found` in an open directory is that of its file system (mklost+found(8)): not the app's."""
    try:
        state = os.stat(LOST_AND_FOUND, dir_fd=descriptor, follow_symlinks=False)
    except OSError:
        return False
    is_foreign = stat.S_ISDIR(state.st_mode) and state.st_uid != os.geteuid()
    return is_foreign and not os.access(LOST_AND_FOUND, os.R_OK | os.X_OK, dir_fd=descriptor, effective_ids=True)


class _Lines:
    """The lines of the index; `line` is the next one, which is empty at the end, and `rest` those after it."""

    def __init__(self, descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        self.rest: BinaryIO = open(descriptor, "rb", buffering=1 << 17)  # noqa: SIM115 - to the end of the process
        self.line = b""
        self.next()

    def next(self) -> None:
        self.line = next(self.rest, b"")

    def comes_before(self, order: bytes | None) -> bool:
        """Tell whether the next line is that of a path before this one (None: the end)."""
        return self._is_entry() and (order is None or order_of(self.line) < order)

    def holds(self, path: bytes) -> bool:
        return self._is_entry() and order_of(self.line) == path.replace(b"/", b"\0")

    def _is_entry(self) -> bool:
        return not self.line.startswith(b"\t") and bool(self.line)


def serve_walk(request: WalkRequest, _parent: ParentPipe) -> None:
    """Walk, and after the end of that look again as often as the parent commands."""
    become_owner(request["uid"], request["gid"])
    with socket.socket(fileno=request["socket"]) as peer:
        walk = Walk(request, Edits(peer, request["most_together"]))
        walk.walk()
        while command := peer.recv(_COMMAND_BYTES):
            walk.rescan(int(command))


if __name__ == "__main__":
    serve(serve_walk)
