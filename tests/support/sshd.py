"""A real OpenSSH server on loopback, with keys, configuration and an account of its own.

The account that logs in is the `kind`:

- `own`: the user who runs the tests, with a shell; needs no root.
- `chroot`: an account without a shell that finds itself in a root-owned directory and gets `internal-sftp`.
- `shell`: an account with a shell, for a `sha256sum` there.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from support.accounts import LOCKED, account
from support.daemon import children_of, free_port, wait_until
from support.openssh import Client, known_host, new_key

Kind = Literal["own", "chroot", "shell"]
HOST_KEYS = ("ed25519", "ecdsa", "rsa")
_SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")


@dataclass
class Sshd:
    """A server that can be stopped and started again, on the same port and with the same keys.

    `files` is where the account's backups really are, `path` what a client calls that directory.
    """

    program: str
    directory: Path
    port: int
    user: str
    files: Path
    path: str
    authorized_keys: Path
    requests: Path
    password: str | None = None
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"sftp://{self.user}@127.0.0.1:{self.port}{self.path}"

    @property
    def key(self) -> Path:
        """The private key (ed25519, no passphrase) that is accepted."""
        return self.directory / "client"

    @property
    def config(self) -> Path:
        return self.directory / "sshd_config"

    def host_key(self, kind: str = "ed25519") -> str:
        """Return type and base64 of a host key, as they follow the name in known_hosts."""
        return " ".join((self.directory / f"host_{kind}.pub").read_text().split()[:2])

    def fingerprint(self, kind: str = "ed25519") -> str:
        """Return `SHA256:...` of a host key, as ssh-keygen shows it."""
        public = self.directory / f"host_{kind}.pub"
        said = subprocess.run(["ssh-keygen", "-lf", public], capture_output=True, text=True, check=True)
        return said.stdout.split()[1]

    def known_hosts(self, port: int | None = None, kinds: Sequence[str] = HOST_KEYS) -> str:
        """Return the lines that a client would know it by, at its own `port` or at that of a wire in front of it."""
        return "".join(known_host(port or self.port, self.host_key(kind)) for kind in kinds)

    def change_host_keys(self) -> None:
        """Be another host from the next start on."""
        for kind in HOST_KEYS:
            new_key(self.directory / f"host_{kind}", kind)

    def authorize(self, public_key: str) -> None:
        """Let one more key in, with the options that stand before it."""
        with self.authorized_keys.open("a") as lines:
            lines.write(f"{public_key.strip()}\n")

    def client(self, port: int | None = None, key: Path | None = None) -> Client:
        """Return OpenSSH's client for the account, with its own key or another, maybe through a wire."""
        known_hosts = self.directory / f"known_hosts-{port or self.port}"
        known_hosts.write_text(self.known_hosts(port))
        return Client(self.user, port or self.port, key or self.key, known_hosts)

    def log(self) -> str:
        """Return what it has logged."""
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start, and wait until it listens."""
        assert self.process is None, "it runs already"
        before = len(self.log())
        process = subprocess.Popen([self.program, "-D", "-f", self.config, "-E", self.directory / "log"])

        def listens() -> bool:
            assert process.poll() is None, self.log()[before:]
            return "Server listening on" in self.log()[before:]

        wait_until(listens, "the SSH server")
        self.process = process

    def stop(self) -> None:
        """End it and all connections at once, as when a host loses its power."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)  # nobody comes in any more
            self.kill_connections()
            self.process.kill()
            self.process.wait()
            self.process = None

    def connections(self) -> list[int]:
        """Return the processes that serve one connection each, logged in or not."""
        return [] if self.process is None else children_of(self.process.pid)

    def kill_connections(self) -> int:
        """End all connections there are, return how many that were; the server lives on."""
        connections = self.connections()
        killed = [process for connection in connections for process in _kill_tree(connection)]
        wait_until(lambda: not any(map(_runs, killed)), "the end of killed connections")
        return len(connections)


@contextmanager
def running_sshd(
    directory: Path,
    *,
    kind: Kind = "own",
    password: str | None = None,
    sftp: str = "",
    lines: Sequence[str] = (),
    match: str = "",
) -> Iterator[Sshd]:
    """Run a server while the block runs; `directory` is made, and holds its configuration, keys and log.

    `sftp` are arguments of sftp-server(8), like `-R` or `-P fsync`. `lines` stand before the rest of the configuration,
    and so prevail, `match` blocks after it. Kinds with an account need root. `requests` tells what was asked of the
    SFTP server, except in a chroot, where it has nothing to write to.
    """
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("needs sshd")
    assert password is None or kind != "own", "the tests do not know the password of who runs them"
    directory.mkdir(parents=True)
    with ExitStack() as stack:
        if kind == "own":
            place, user = directory, pwd.getpwuid(os.geteuid()).pw_name
        else:
            place = stack.enter_context(root_owned())
            shell = LOCKED if kind == "chroot" else "/bin/sh"
            user = stack.enter_context(account(place / "root", shell, password))
        server = _prepared(program, directory, place, user, kind)
        server.password = password
        _configure(server, (*lines, *_basics(server), *_session(server, kind, sftp), match))
        stack.callback(server.stop)
        server.start()
        yield server


@contextmanager
def root_owned() -> Iterator[Path]:
    """Yield a directory that sshd allows for a chroot: only root can write to it or above, unlike below /tmp."""
    with tempfile.TemporaryDirectory(prefix="backupd-", dir="/srv") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _prepared(program: str, directory: Path, place: Path, user: str, kind: Kind) -> Sshd:
    files = place / "root" / "backups"
    files.mkdir(parents=True)
    files.chmod(0o700)
    path = "/backups" if kind == "chroot" else str(files)
    server = Sshd(program, directory, free_port(), user, files, path, place / "authorized_keys", place / "requests")
    server.requests.touch()
    server.requests.chmod(0o666)
    (directory / "log").touch()
    server.change_host_keys()
    server.authorized_keys.write_text(new_key(server.key))
    if kind != "own":
        shutil.chown(files, user, user)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # the init system makes it where a real one runs
    return server


def _basics(server: Sshd) -> Sequence[str]:
    return (
        f"ListenAddress 127.0.0.1:{server.port}",
        *(f"HostKey {server.directory}/host_{kind}" for kind in HOST_KEYS),
        f"AuthorizedKeysFile {server.authorized_keys}",
        "StrictModes no",  # directories of tests may be below /tmp
        f"PasswordAuthentication {'no' if server.password is None else 'yes'}",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin yes",
        "UsePAM no",
        "UseDNS no",
        "PidFile none",
        "MaxStartups 200",  # no connection is refused because tests make many
        "LogLevel VERBOSE",
    )


def _session(server: Sshd, kind: Kind, sftp: str) -> Sequence[str]:
    if kind == "chroot":
        return (
            f"ChrootDirectory {server.files.parent}",
            f"ForceCommand internal-sftp {sftp}",
            "Subsystem sftp internal-sftp",
            "DisableForwarding yes",
        )
    program = next(path for path in _SFTP_SERVERS if Path(path).exists())
    home = server.directory / "home"  # no profile there: the shell that starts the program would run it first
    home.mkdir(exist_ok=True)
    return (f"SetEnv HOME={home}", f"Subsystem sftp {program} -e -l VERBOSE {sftp} 2>>{server.requests}")


def _configure(server: Sshd, lines: Sequence[str]) -> None:
    """Write sshd_config; of two lines, sshd takes the first."""
    server.config.write_text("\n".join([*lines, ""]))
    exempt = "PerSourcePenalties no"  # OpenSSH 9.8: failures would shut out all clients behind one address
    known = subprocess.run([server.program, "-t", "-f", server.config, "-o", exempt], capture_output=True, check=False)
    if known.returncode == 0:
        server.config.write_text(f"{exempt}\n{server.config.read_text()}")


def _kill_tree(process: int) -> list[int]:
    """Kill a process and all below it, from the top down so that none of them starts another; return them."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGSTOP)
    below = [killed for child in children_of(process) for killed in _kill_tree(child)]
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    return [process, *below]


def _runs(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False
