"""How the server of faulty_sftp.py serves requests: all that it does wrong is decided here."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko import sftp

if TYPE_CHECKING:
    from support.faulty_sftp import FaultySftpServer

_PATH_FIRST = frozenset(
    {
        sftp.CMD_EXTENDED,
        sftp.CMD_LSTAT,
        sftp.CMD_MKDIR,
        sftp.CMD_OPEN,
        sftp.CMD_OPENDIR,
        sftp.CMD_READLINK,
        sftp.CMD_REALPATH,
        sftp.CMD_REMOVE,
        sftp.CMD_RENAME,
        sftp.CMD_RMDIR,
        sftp.CMD_SETSTAT,
        sftp.CMD_STAT,
    }
)
BAD_WRITE = -1  # becomes a failure with `bad_write_message`


class FaultySftpSession(paramiko.SFTPServer):
    """One session; sees each request before it is served and each answer before it is sent."""

    server: "FaultySftpFiles"

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.faulty = self.server.faulty
        self.is_mute = False

    def _send_server_version(self) -> int:
        self._read_packet()
        message = paramiko.Message()
        message.add_int(3)
        for name in sorted(self.faulty.faults.extensions):
            message.add(name, "2" if name.startswith("statvfs") else "1")
        self._send_packet(sftp.CMD_VERSION, message)
        return 3

    def _send_packet(self, kind: int, packet: Any) -> None:
        if not self.is_mute:
            super()._send_packet(kind, packet)

    def _write_all(self, out: bytes) -> None:
        drip_s = self.faulty.faults.drip_s
        if not drip_s:
            super()._write_all(out)
            return
        for byte in out:
            self.sock.sendall(bytes([byte]))
            time.sleep(drip_s)

    def _process(self, kind: int, number: int, message: paramiko.Message) -> None:
        faults = self.faulty.faults
        count, name = self._note(kind, message)
        if count >= faults.stall_at or self.faulty.has_stalled():
            return
        if faults.answer and faults.answer(self, name, number):
            return
        if count in {faults.cut_before, faults.cut_after}:
            self.is_mute = True
        if count != faults.cut_before:
            self._serve(kind, name, number, message)
        if self.is_mute:
            self.sock.get_transport().close()

    def _note(self, kind: int, message: paramiko.Message) -> tuple[int, str]:
        """Record the request, and return its number and name."""
        first = paramiko.Message(message.get_remainder()).get_text() if kind in _PATH_FIRST else ""
        name = first if kind == sftp.CMD_EXTENDED else sftp.CMD_NAMES[kind]
        with self.faulty.lock:
            self.faulty.requests.append(name if kind == sftp.CMD_EXTENDED or not first else f"{name} {first}")
            return len(self.faulty.requests), name

    def _serve(self, kind: int, name: str, number: int, message: paramiko.Message) -> None:
        faults = self.faulty.faults
        if name in faults.denied or (kind == sftp.CMD_OPEN and faults.denied_path in self.faulty.requests[-1]):
            self._send_status(number, sftp.SFTP_PERMISSION_DENIED)
        elif name in faults.unsupported or (kind == sftp.CMD_EXTENDED and name not in faults.extensions):
            self._send_status(number, sftp.SFTP_OP_UNSUPPORTED)
        elif kind == sftp.CMD_EXTENDED and name != "posix-rename@openssh.com":
            self._extended(name, number, message)
        else:
            super()._process(kind, number, message)

    def _extended(self, name: str, number: int, message: paramiko.Message) -> None:
        message.get_text()
        if name == "fsync@openssh.com":
            self._send_status(number, _status(os.fsync, self.file_table[message.get_binary()].descriptor))
        elif name == "hardlink@openssh.com":
            self._send_status(number, self.server.link(message.get_text(), message.get_text()))
        else:
            self._response(number, sftp.CMD_EXTENDED_REPLY, *map(sftp.int64, self.server.statvfs(message.get_text())))

    def _send_status(self, request_number: int, code: int, desc: str | None = None) -> None:
        if code == BAD_WRITE:
            code, desc = sftp.SFTP_FAILURE, self.faulty.faults.bad_write_message
        super()._send_status(request_number, code, desc)


class FaultySftpFiles(paramiko.SFTPServerInterface):
    """The directory as the session sees it: `/` is `root`; only links lead outside."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self.faulty: FaultySftpServer = server.faulty

    def real(self, path: str) -> Path:
        """Return where `path` is on this machine."""
        return self.faulty.root / os.path.normpath(f"/{path}").lstrip("/")

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> "FaultyHandle | int":
        mode = 0o666 if attr.st_mode is None else attr.st_mode
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR))
        if self.faulty.faults.one_writer and writes and path in self.faulty.written:
            return sftp.SFTP_FAILURE
        try:
            return FaultyHandle(self.faulty, os.open(self.real(path), flags, mode), path if writes else "")
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def list_folder(self, path: str) -> list[paramiko.SFTPAttributes] | int:
        try:
            found = [
                attributes_of(self.faulty, entry.lstat(), entry.name) for entry in sorted(self.real(path).iterdir())
            ]
            extra = self.real(path).stat()
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        for name in self.faulty.faults.names:
            found.append(attributes_of(self.faulty, extra, name))
            found[-1].st_mode = None if found[-1].st_mode is None else 0o100600
        return found

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        return _attributes_or_error(self.faulty, os.stat, self.real(path))

    def lstat(self, path: str) -> paramiko.SFTPAttributes | int:
        return _attributes_or_error(self.faulty, os.lstat, self.real(path))

    def remove(self, path: str) -> int:
        return _status(os.remove, self.real(path))

    def rename(self, oldpath: str, newpath: str) -> int:
        if self.real(newpath).exists() and not self.faulty.faults.rename_replaces:
            return sftp.SFTP_FAILURE
        return self.posix_rename(oldpath, newpath)

    def posix_rename(self, oldpath: str, newpath: str) -> int:
        return _status(os.rename, self.real(oldpath), self.real(newpath))

    def link(self, oldpath: str, newpath: str) -> int:
        return _status(os.link, self.real(oldpath), self.real(newpath))

    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        return _status(os.mkdir, self.real(path), 0o777 if attr.st_mode is None else attr.st_mode)

    def rmdir(self, path: str) -> int:
        return _status(os.rmdir, self.real(path))

    def chattr(self, path: str, attr: paramiko.SFTPAttributes) -> int:
        return _status(_change, self.real(path), attr)

    def readlink(self, path: str) -> str | int:
        try:
            return str(self.real(path).readlink())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def symlink(self, target_path: str, path: str) -> int:
        return _status(os.symlink, target_path, self.real(path))

    def statvfs(self, path: str) -> tuple[int, ...]:
        """Return the eleven numbers of statvfs@openssh.com."""
        s, free = os.statvfs(self.real(path)), self.faulty.faults.free_bytes
        available = s.f_bavail if free is None else free // s.f_frsize
        blocks = (s.f_bsize, s.f_frsize, s.f_blocks, s.f_bfree, available)
        return (*blocks, s.f_files, s.f_ffree, s.f_favail, 0, s.f_flag, s.f_namemax)


class FaultyHandle(paramiko.SFTPHandle):
    """An open file; `written` is its path if it is open for writing."""

    def __init__(self, faulty: "FaultySftpServer", descriptor: int, written: str) -> None:
        super().__init__()
        self.faulty, self.descriptor, self.written = faulty, descriptor, written
        self.late: list[tuple[bytes, int]] = []
        if written:
            faulty.written.add(written)

    def close(self) -> None:
        for data, offset in self.late:
            os.pwrite(self.descriptor, data, offset)
        os.close(self.descriptor)
        self.faulty.written.discard(self.written)

    def read(self, offset: int, length: int) -> bytes | int:
        faults = self.faulty.faults
        if faults.closed_only and self.written:
            return sftp.SFTP_PERMISSION_DENIED
        length = int(max(0, min(length, faults.read_bytes, faults.ends_at - offset)))
        try:
            data = os.pread(self.descriptor, length, offset)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        if faults.endless:
            data = data.ljust(length, b"\0")
        at = -1 if faults.flip_at is None else faults.flip_at - offset
        if 0 <= at < len(data) and self.faulty.may_flip():
            data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return data

    def write(self, offset: int, data: bytes) -> int:
        faults, number = self.faulty.faults, self.faulty.count_write()
        if faults.bad_write <= number < faults.bad_write + faults.bad_writes:
            return BAD_WRITE
        if faults.writes_late:
            self.late.append((data, offset))
            return sftp.SFTP_OK
        return sftp.SFTP_OK if number == faults.lost_write else _status(os.pwrite, self.descriptor, data, offset)

    def stat(self) -> paramiko.SFTPAttributes | int:
        return _attributes_or_error(self.faulty, os.fstat, self.descriptor)

    def chattr(self, attr: paramiko.SFTPAttributes) -> int:
        return _status(_change, self.descriptor, attr)


def attributes_of(faulty: "FaultySftpServer", real: os.stat_result, name: str | bytes) -> paramiko.SFTPAttributes:
    """Return the attributes reported of a file: some may be missing, and the size wrong."""
    attributes = paramiko.SFTPAttributes.from_stat(real)
    attributes.filename = name
    reported, size = faulty.faults.attributes, real.st_size + faulty.faults.size_error
    attributes.st_size = max(0, size) if "size" in reported else None
    attributes.st_mode = real.st_mode if "mode" in reported else None
    attributes.st_uid = real.st_uid if "owner" in reported else None
    attributes.st_mtime = attributes.st_mtime if "times" in reported else None
    return attributes


def _attributes_or_error(
    faulty: "FaultySftpServer", ask: Callable[[Any], os.stat_result], file: Path | int
) -> paramiko.SFTPAttributes | int:
    try:
        return attributes_of(faulty, ask(file), "")
    except OSError as error:
        return paramiko.SFTPServer.convert_errno(error.errno)


def _status(work: Callable[..., object], *arguments: Any) -> int:
    try:
        work(*arguments)
    except OSError as error:
        return paramiko.SFTPServer.convert_errno(error.errno)
    return sftp.SFTP_OK


def _change(file: Path | int, attr: paramiko.SFTPAttributes) -> None:
    if attr.st_size is not None:
        os.truncate(file, attr.st_size)
    if attr.st_mode is not None:
        os.chmod(file, attr.st_mode)  # noqa: PTH101 - it may be a descriptor
    if attr.st_mtime is not None:
        os.utime(file, (attr.st_atime, attr.st_mtime))
