"""The tree of a commit: a plain tar, made from an archive that may be hostile, and unpacked for the tests of the app.

Only directories, regular files and symbolic links that stay in the tree get into it, each name once, with the modes
that a checkout gives them and without owners. All else is refused by its name. Names are bytes, in any encoding.
"""

import gzip
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

from backupd.errors import GateStepFailed
from backupd.formatting import counted, human_bytes, one_line
from backupd.system.fs import is_disk_full
from backupd.system.owners import give

MAX_BYTES: Final = 2 << 30
MAX_MEMBERS: Final = 200_000
_PIECE: Final = 1 << 20  # no header is longer: a larger one is read into memory at once
_NOTABLE_BYTES: Final = 64 << 10
_MAX_PATH, _MAX_PART = 4095, 255  # limits.h
_LATEST: Final = 1 << 33  # seconds that the header of a tar can hold
_LFS_BYTES, _LFS = 1024, b"version https://git-lfs.github.com/spec/"
_SUBMODULE: Final = re.compile(rb"^\s*path\s*=\s*(.+?)\s*$", re.MULTILINE)
_FORMAT: Final[dict[str, Any]] = {"format": tarfile.GNU_FORMAT, "encoding": "utf-8", "errors": "surrogateescape"}
_HINT: Final = "remove it from the repository, or set caprover_webhook, with which CapRover fetches the branch itself"
_DAMAGED: Final = "the archive from the server of the repository is damaged"
_AGAIN: Final = "redeliver the webhook in Forgejo; look at the log of that server"
_NAMED: Final = 3
_KINDS: Final = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


@dataclass(frozen=True, slots=True)
class SourceTree:
    """What the tree of a commit has, and what it lacks."""

    commit: str | None  # that the archive names
    files: int
    size_bytes: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it in a line."""
        return "; ".join((f"{counted(self.files, 'file')}, {human_bytes(self.size_bytes)}", *self.notes))


@dataclass
class _Notes:
    """What a reader of the step should know of the tree."""

    submodules: list[bytes] = field(default_factory=list)
    pointers: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    has_export_rules: bool = False

    def look_at(self, name: str, contents: bytes) -> None:
        """Look at a small file."""
        base = name.rpartition("/")[2]
        if name == ".gitmodules":
            self.submodules += _SUBMODULE.findall(contents)
        elif base == ".gitattributes" and (b"export-ignore" in contents or b"export-subst" in contents):
            self.has_export_rules = True
        elif len(contents) < _LFS_BYTES and contents.startswith(_LFS):
            self.pointers.append(name)

    def sentences(self) -> Iterator[str]:
        """Yield a sentence for each kind."""
        if self.submodules:
            names = _listed([os.fsdecode(name) for name in self.submodules])
            yield f"without the contents of submodules, which no archive has: {names}"
        if self.pointers:
            yield f"with Git LFS pointers in place of contents: {_listed(self.pointers)}"
        if self.has_export_rules:
            yield "export-ignore or export-subst in .gitattributes: files may be left out or changed"
        if self.modes:
            yield f"setuid, setgid or sticky bits were removed from {_listed(self.modes)}"


def write_tree(packed: IO[bytes], to: Path, repository: str) -> SourceTree:
    """Write the tree in `packed`, a tar.gz of the repository OWNER/NAME, to the new plain tar `to`.

    Raises GateStepFailed; then there is no `to`.
    """
    notes, files, size_bytes = _Notes(), 0, 0
    try:
        with tempfile.TemporaryFile(dir=to.parent) as plain, to.open("xb") as stream:
            _gunzip(packed, plain)
            commit, prefix = _commit_and_prefix(plain, repository.rpartition("/")[2])
            with tarfile.open(fileobj=stream, mode="w:", **_FORMAT) as tar:
                for member, contents in _checked(plain, prefix, notes):
                    with _damage():
                        tar.addfile(member, _observed(member, contents, notes))
                    _forget_members(tar)
                    files += contents is not None
                    size_bytes += member.size
    except BaseException as error:
        to.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _not_written(to.parent, error) from error
        raise
    if not files:
        to.unlink()
        raise GateStepFailed("the tree has no files", "check what was pushed")
    return SourceTree(commit, files, size_bytes, tuple(notes.sentences()))


def unpack(tar: Path, to: Path, owner: int | None = None) -> None:
    """Unpack a tar of `write_tree` into the empty directory `to`, which nobody else may reach; give all to `owner`.

    Raises GateStepFailed.
    """
    root = os.fspath(to)
    try:
        with tar.open("rb") as stream:
            for member, contents in _checked(stream, "", _Notes()):
                path = os.path.join(root, member.name)  # noqa: PTH118 - for each of many files
                for made in _made(path, member, contents, root):
                    if owner is not None:
                        give(made, owner)
    except OSError as error:
        raise _not_written(to, error) from error


def has_file(tar: Path, *names: str) -> bool:
    """Tell whether a tar of `write_tree` has a regular file with one of `names`, in any directory."""
    with tar.open("rb") as stream:
        return any(
            contents is not None and member.name.rpartition("/")[2] in names
            for member, contents in _checked(stream, "", _Notes())
        )


def _made(path: str, member: tarfile.TarInfo, contents: IO[bytes] | None, root: str) -> Iterator[str]:
    """Make one member and the directories above it that have no member of their own; yield each."""
    missing = []
    above = os.path.dirname(path)  # noqa: PTH120 - for each of many files
    while above != root and not os.path.isdir(above):  # noqa: PTH112
        missing.append(above)
        above = os.path.dirname(above)  # noqa: PTH120
    for directory in reversed(missing):
        os.mkdir(directory, 0o755)  # noqa: PTH102
        yield directory
    if member.isdir():
        if not os.path.isdir(path):  # noqa: PTH112
            os.mkdir(path, 0o755)  # noqa: PTH102
    elif member.issym():
        os.symlink(member.linkname, path)  # noqa: PTH211
    else:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as stream:
            os.fchmod(descriptor, member.mode)
            while contents is not None and (piece := contents.read(_PIECE)):
                stream.write(piece)
    yield path


def _gunzip(packed: IO[bytes], plain: IO[bytes]) -> None:
    size_bytes = 0
    try:
        with gzip.GzipFile(fileobj=packed) as stream:
            while piece := stream.read(_PIECE):
                size_bytes += len(piece)
                if size_bytes > MAX_BYTES:
                    raise _too_large()
                plain.write(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise GateStepFailed(f"{_DAMAGED}: it does not unpack ({error})", _AGAIN) from None


def _commit_and_prefix(plain: IO[bytes], repository: str) -> tuple[str | None, str]:
    """Return the commit that the archive names, and the directory that it puts everything in; empty for none."""
    tops: set[str] = set()
    with _reading(plain) as tar:
        for member in _members(tar):
            top, below, _ = member.name.partition("/")
            tops.add(top if below or member.isdir() else "")
            if len(tops) > 1:
                break
        commit = tar.pax_headers.get("comment")
    top = tops.pop() if len(tops) == 1 else ""
    return commit, f"{top}/" if top.casefold() == repository.casefold() else ""


def _checked(plain: IO[bytes], prefix: str, notes: _Notes) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Yield each member as it may be in the tree, and the contents of a file. Raises GateStepFailed."""
    kinds: dict[str, bool] = {}  # by path: whether it is a directory
    left = MAX_BYTES
    with _reading(plain) as tar:
        for found in _members(tar):
            name = _safe_name(found.name)
            if prefix and not f"{name}/".startswith(prefix):
                raise _refused(name, f"is outside of {one_line(prefix)}")
            name = name[len(prefix) :]
            if not name:
                continue
            left -= found.size
            if left < 0:
                raise _too_large()
            _take_place(kinds, name, is_directory=found.isdir())
            if found.mode & 0o7000 and not found.issym():
                notes.modes.append(name)
            yield _clean(found, name), tar.extractfile(found) if found.isreg() else None


def _clean(found: tarfile.TarInfo, name: str) -> tarfile.TarInfo:
    """Return a new header with what may be kept of `found`. Raises GateStepFailed."""
    member = tarfile.TarInfo(name)
    member.type = found.type
    member.mtime = int(found.mtime) if 0 <= found.mtime < _LATEST else 0  # a header may hold any number, and none
    if found.isdir():
        member.mode = 0o755
    elif found.issym():
        member.mode = 0o777
        member.linkname = _safe_target(name, found.linkname)
    elif found.isreg() and not found.issparse():
        member.type, member.size = tarfile.REGTYPE, found.size
        member.mode = 0o755 if found.mode & 0o100 else 0o644
    else:
        kind = _KINDS.get(tarfile.GNUTYPE_SPARSE if found.issparse() else found.type, "neither a file nor a directory")
        raise _refused(name, f"is {kind}")
    return member


def _safe_name(name: str) -> str:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise _refused(name, "leads out of the tree")
    if "" in parts or "." in parts:
        raise _refused(name, "is not the name of a file")
    if len(os.fsencode(name)) > _MAX_PATH or any(len(os.fsencode(part)) > _MAX_PART for part in parts):
        raise _refused(name, "is too long for a file system")
    return name


def _safe_target(name: str, target: str) -> str:
    """Return the target of a link, which has `..` only at its beginning: then no other link can lead it elsewhere."""
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    if target.startswith("/") or not target or "\0" in target or up > name.count("/") or ".." in parts[up:]:
        raise _refused(name, f"is a link that may lead out of the tree ({one_line(target)})")
    return target


def _take_place(kinds: dict[str, bool], name: str, *, is_directory: bool) -> None:
    """Note `name`, once, and the directories above it. Raises GateStepFailed."""
    above = name.rpartition("/")[0]
    while above and above not in kinds:
        kinds[above] = True
        above = above.rpartition("/")[0]
    if above and not kinds[above]:
        raise _refused(name, f"is below {one_line(above)}, which is not a directory")
    if name in kinds and not (is_directory and kinds[name]):
        raise _refused(name, "is there twice")
    kinds[name] = is_directory


def _observed(member: tarfile.TarInfo, contents: IO[bytes] | None, notes: _Notes) -> IO[bytes] | None:
    is_notable = member.size < _LFS_BYTES or member.name.rpartition("/")[2] in (".gitmodules", ".gitattributes")
    if contents is None or not is_notable or member.size > _NOTABLE_BYTES:
        return contents
    small = contents.read()
    notes.look_at(member.name, small)
    return BytesIO(small)


class _Guarded:
    """A plain tar for `tarfile`, which would read a header of any size at once, and a forged one for ever."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = 4 * stream.seek(0, os.SEEK_END) + _PIECE
        stream.seek(0)

    def read(self, size: int = -1) -> bytes:
        self._left -= max(size, tarfile.BLOCKSIZE // 8)
        if not 0 <= size <= _PIECE or self._left < 0:
            raise tarfile.ReadError("a header has an impossible length")
        return self._stream.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


@contextmanager
def _reading(plain: IO[bytes]) -> Iterator[tarfile.TarFile]:
    stream: Any = _Guarded(plain)
    with _damage():
        tar = tarfile.open(fileobj=stream, mode="r:", **_FORMAT)  # noqa: SIM115 - closed below
    with closing(tar):
        yield tar


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the members, and make sure that they end as a tar does: `tarfile` takes any damage for the end."""
    for _ in range(MAX_MEMBERS):
        with _damage():
            member = tar.next()
        _forget_members(tar)
        if member is None:
            break
        if member.size < 0:
            raise _refused(member.name, "has an impossible size")
        yield member
    else:
        raise GateStepFailed(f"the tree has more than {MAX_MEMBERS:,} files and directories", _HINT)
    with _damage():
        tar.fileobj.seek(tar.offset)
        end = tar.fileobj.read(2 * tarfile.BLOCKSIZE)
        if not end or end.strip(b"\0"):
            raise tarfile.ReadError("it has no end")


def _forget_members(tar: tarfile.TarFile) -> None:
    """Let go of the headers that `tarfile` keeps, of which there may be many."""
    vars(tar)["members"].clear()


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise GateStepFailed(f"{_DAMAGED} ({one_line(str(error))})", _AGAIN) from None


def _too_large() -> GateStepFailed:
    return GateStepFailed(f"the tree has more than {human_bytes(MAX_BYTES)}", _HINT)


def _refused(name: str, why: str) -> GateStepFailed:
    return GateStepFailed(f"the tree cannot be used: {one_line(name)} {why}", _HINT)


def _not_written(where: Path, error: OSError) -> GateStepFailed:
    hint = "free space there, or set gate_dir to a larger disk" if is_disk_full(error) else "check gate_dir"
    return GateStepFailed(f"the tree cannot be written to {where}: {error.strerror or error}", hint)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(one_line(name) for name in names[:_NAMED]) + more
