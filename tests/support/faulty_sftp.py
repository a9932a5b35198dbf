"""An SFTP server that misbehaves on demand, in front of a real directory.

It is built on paramiko's server classes rather than asyncssh's: paramiko is installed anyway, uses threads as the
tests do, and lets one place see each request before and after it is served. Mistakes that client and server of
paramiko share are found by the tests against OpenSSH.

Unusual files (a link, a directory named like an archive, a sparse manifest of 100 MB) are made in `files`, and served
as they are.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import paramiko

from support.faulty_sftp_session import FaultySftpFiles, FaultySftpSession
from support.openssh import Client, known_host, new_key

_NEVER = float("inf")
EXTENSIONS = frozenset(f"{name}@openssh.com" for name in ("posix-rename", "fsync", "statvfs", "hardlink"))
ATTRIBUTES = frozenset({"size", "owner", "mode", "times"})
HOSTILE_NAMES = (
    "..",
    "../outside.sqlite3.gz",
    "a/b.sqlite3.gz",
    "/etc/passwd",
    "",
    "tasks-20261123-0400.sqlite3.gz\nforged",
    "tasks-20261123-0400.sqlite3.gz\x00",
    "\x1b[2Jtasks-20261123-0400.sqlite3.gz",
    "tasks-20261123-0400.manifest.json\r",
    "\u202etasks-20261123-0400.sqlite3.gz",
    "x" * 4096,
)
NON_UTF8_NAME = b"tasks-\xff\xfe.sqlite3.gz"  # with it, a listing as a whole is a UnicodeDecodeError in paramiko 5.1


@dataclass(frozen=True)
class SftpFaults:
    """The faults of the server; requests, writes and reads are counted from 1, since `set_faults`.

    Requests are named as paramiko names them (`setstat`, `fsetstat`, `remove`, ...), extensions by their own names.
    """

    extensions: frozenset[str] = EXTENSIONS  # others are neither announced nor served
    denied: frozenset[str] = frozenset()  # requests that are answered "permission denied"
    unsupported: frozenset[str] = frozenset()  # ... and "unsupported"
    rename_replaces: bool = False  # a plain rename, which should fail onto a file
    attributes: frozenset[str] = ATTRIBUTES  # the attributes in stat and listings
    size_error: int = 0  # added to each reported size
    names: tuple[str | bytes, ...] = ()  # more names for each listing, of regular files
    free_bytes: int | None = None  # reported by statvfs instead of the real value
    bad_write: float = _NEVER  # this write fails
    bad_writes: float = 1  # how many writes fail; all of them on a full disk
    bad_write_message: str = "Failure"
    lost_write: float = _NEVER  # this write is confirmed and not done
    flip_at: int | None = None  # the byte at this offset is read back wrong
    flips: float = _NEVER  # ... so many times
    ends_at: float = _NEVER  # files are read back as if they ended here
    endless: bool = False  # files do not end, whatever their size
    read_bytes: float = _NEVER  # no read yields more, which is allowed
    closed_only: bool = False  # no file is given back while it is open for writing
    writes_late: bool = False  # what is written is there once the file is closed
    one_writer: bool = False  # at a time
    cut_before: float = _NEVER  # the connection ends at this request, which is not done
    cut_after: float = _NEVER  # ... which is done but not answered
    stall_at: float = _NEVER  # from this request on nothing is answered
    stall_path: str = ""  # from the first request for a path that contains this on, likewise
    denied_path: str = "\0"  # opening a path that contains this is answered "permission denied"
    drip_s: float = 0.0  # answers come byte by byte, with so many seconds between
    answer: Callable[["FaultySftpSession", str, int], bool] | None = None  # a request itself, False: it is served
    allowed: str = "publickey"  # the methods of logging in that it names
    login: Callable[[paramiko.Transport], object] | None = None  # is called at each attempt, and no key is accepted
    shell: Callable[[str], bytes | None] | None = None  # answers commands, None: never; without it commands are refused


class FaultySftpServer:
    """A running server; `requests` holds the requests since `set_faults`."""

    def __init__(self, directory: Path) -> None:
        self.user, self.path = "backupd", "/backups"
        self.root = directory / "root"
        self.files = self.root / "backups"
        self.files.mkdir(parents=True)
        self.key, self.directory = directory / "client", directory
        new_key(directory / "host_ed25519")
        self.public = new_key(self.key).split()[1]
        self.lock = threading.Lock()
        self.set_faults(SftpFaults())
        self.written: set[str] = set()  # what is open for writing
        self._transports: list[paramiko.Transport] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"sftp://{self.user}@127.0.0.1:{self.port}{self.path}"

    def host_key(self) -> str:
        """Return type and base64 of its host key, as they follow the name in known_hosts."""
        return " ".join((self.directory / "host_ed25519.pub").read_text().split()[:2])

    def known_hosts(self, port: int | None = None) -> str:
        """Return its known_hosts line, at `port` where a proxy is in front of it."""
        return known_host(port or self.port, self.host_key())

    def client(self, port: int | None = None) -> Client:
        """Return an OpenSSH client for it, at `port` where a proxy is in front of it."""
        known_hosts = self.directory / f"known_hosts-{port or self.port}"
        known_hosts.write_text(self.known_hosts(port))
        return Client(self.user, port or self.port, self.key, known_hosts)

    def set_faults(self, faults: SftpFaults) -> None:
        """Apply `faults` from now on, and reset the counters."""
        with self.lock:
            self.faults = faults
            self.requests: list[str] = []
            self.writes = self.flipped = 0

    def count_write(self) -> int:
        """Count a write and return its number."""
        with self.lock:
            self.writes += 1
            return self.writes

    def has_stalled(self) -> bool:
        """Return whether a request has concerned `stall_path`."""
        with self.lock:
            return bool(self.faults.stall_path) and any(self.faults.stall_path in request for request in self.requests)

    def may_flip(self) -> bool:
        """Return whether one more byte may be flipped, and count it."""
        with self.lock:
            self.flipped += 1
            return self.flipped <= self.faults.flips

    def close(self) -> None:
        """End it and all connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join(30)
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """End all connections."""
        for transport in self._transports:
            transport.close()

    def _serve(self) -> None:
        key = paramiko.Ed25519Key.from_private_key_file(str(self.directory / "host_ed25519"))
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(key)
            transport.set_subsystem_handler("sftp", FaultySftpSession, FaultySftpFiles)
            self._transports.append(transport)
            with suppress(paramiko.SSHException, EOFError, OSError):  # a client that goes away at once
                transport.start_server(event=threading.Event(), server=_Login(self, transport))


class _Login(paramiko.ServerInterface):
    """Accepts the client's key."""

    def __init__(self, faulty: FaultySftpServer, transport: paramiko.Transport) -> None:
        self.faulty, self.transport = faulty, transport

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002 - paramiko's signature
        return self.faulty.faults.allowed

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if self.faulty.faults.login:
            self.faulty.faults.login(self.transport)
            return paramiko.AUTH_FAILED
        known = username == self.faulty.user and key.get_base64() == self.faulty.public
        return paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED

    def check_auth_password(self, username: str, password: str) -> int:  # noqa: ARG002 - paramiko's signature
        return paramiko.AUTH_FAILED

    def check_auth_interactive(self, username: str, submethods: str) -> int:  # noqa: ARG002 - paramiko's signature
        if self.faulty.faults.login:
            self.faulty.faults.login(self.transport)
        return paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002 - paramiko's signature
        return paramiko.OPEN_SUCCEEDED if kind == "session" else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        shell = self.faulty.faults.shell
        if shell is None:
            return False
        threading.Thread(target=_answer, args=(channel, shell, command.decode()), daemon=True).start()
        return True


def _answer(channel: paramiko.Channel, shell: Callable[[str], bytes | None], command: str) -> None:
    output = shell(command)
    if output is not None:
        with suppress(OSError):  # the client has closed the channel
            channel.sendall(output)
        channel.close()


@contextmanager
def running_faulty_sftp(directory: Path, faults: SftpFaults | None = None) -> Iterator[FaultySftpServer]:
    """Run a server while the block runs; `directory` is made, and holds its keys and what it serves."""
    faulty = FaultySftpServer(directory)
    faulty.set_faults(faults or SftpFaults())
    try:
        yield faulty
    finally:
        faulty.close()
