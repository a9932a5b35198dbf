"""OpenSSH on loopback with keys and a directory of its own, for the user who runs the benchmark."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemon import free_port

_STARTS_WITHIN_S = 30


@dataclass(frozen=True)
class Server:
    """The facts that a client needs; `port` may be that of a proxy."""

    directory: Path
    port: int

    @property
    def user(self) -> str:
        """The user who may log in."""
        return getpass.getuser()

    @property
    def key(self) -> Path:
        """The private key to log in with."""
        return self.directory / "client"

    @property
    def host_key(self) -> str:
        """Type and base64 of its host key."""
        return " ".join((self.directory / "host.pub").read_text().split()[:2])

    def sftp(self) -> list[str]:
        """Return what takes a batch for the client of OpenSSH from its standard input."""
        return ["sftp", "-q", *self._options(), "-P", str(self.port), "-b", "-", f"{self.user}@127.0.0.1"]

    def rsync(self, source: Path, target: Path) -> list[str]:
        """Return what makes the directory `target` there like `source`."""
        shell = " ".join(["ssh", *self._options(), "-p", str(self.port)])
        return ["rsync", "-a", "-e", shell, f"{source}/", f"{self.user}@127.0.0.1:{target}/"]

    def _options(self) -> list[str]:
        known_hosts = self.directory / f"known_hosts-{self.port}"
        known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.host_key}\n")
        options = [f"-oUserKnownHostsFile={known_hosts}", f"-oIdentityFile={self.key}", "-oIdentitiesOnly=yes"]
        return ["-F", "/dev/null", *options]


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Server]:
    """Run a server with its keys in the new `directory`. Raises RuntimeError when it does not start."""
    directory.mkdir()
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    server = Server(directory, free_port())
    config = directory / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{server.port}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/client.pub\n"
        "StrictModes no\nPermitRootLogin yes\nUsePAM no\nUseDNS no\nPidFile none\nSubsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # the init system makes it where a real one runs
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise RuntimeError("needs sshd: install openssh-server")
    with subprocess.Popen([program, "-D", "-f", config, "-E", directory / "log"]) as process:
        try:
            _wait_for(server.port)
            yield server
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    give_up_at = time.monotonic() + _STARTS_WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > give_up_at:
                raise RuntimeError("sshd does not listen: see its log") from None
            time.sleep(0.02)
        else:
            return
