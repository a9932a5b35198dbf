"""A real OpenSSH server on loopback, and keys, for the tests of trust and login."""

import os
import pwd
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from support.daemon import free_port, wait_until

SSHD = "/usr/sbin/sshd"
ACCOUNT = "backupd-there"
PASSWORD = "right-password"
# `openssl passwd -6 -salt backupd right-password`
_SHADOW = "$6$backupd$SeHesCLL.gXHbyXayZCW/iA/OscDSjAM7toXQS2/pKkpC54wEVYd7iMghO1mv4UD8Lb698ATY2/ZLjanZLHYq0"
# A small /etc of its own for this process alone: nothing of the machine is changed. (Mounts over single files would go
# as soon as anybody replaces these files by renaming, as useradd does.)
_IN_NAMESPACE = """
mkdir "$1/etc"
cp -a /etc/ld.so.cache /etc/nsswitch.conf /etc/security "$1/etc"
for name in passwd shadow group; do cat /etc/$name "$1/$name" > "$1/etc/$name"; done
mkdir "$1/etc/pam.d" && cp "$1/pam" "$1/etc/pam.d/sshd"
mount --bind "$1" /mnt # where the account may look, unlike in pytest's directory
mount --bind "$1/etc" /etc
exec "$2" -D -e -f "$3" 2>>"$4"
"""


def keygen(path: Path, kind: str = "ed25519", *options: str, passphrase: str = "") -> Path:
    """Make a key pair at `path` with ssh-keygen, and return that."""
    bits = ("-b", "2048") if kind == "rsa" else ()
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, *bits, *options, "-N", passphrase, "-C", "tests", "-f", path], check=True
    )
    return path


def public(path: Path) -> str:
    """Return type and base64 of the public half of a key pair."""
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


def fingerprint_of(path: Path) -> str:
    """Return `SHA256:…` of a key pair, as ssh-keygen says it."""
    said = subprocess.run(["ssh-keygen", "-lf", f"{path}.pub"], check=True, capture_output=True, text=True)
    return said.stdout.split()[1]


@dataclass(frozen=True)
class Server:
    """A running sshd: `host_keys` by type, `user` who may log in with keys in `authorized`."""

    port: int
    directory: Path
    user: str
    pid: int = 0
    host: str = "127.0.0.1"

    def host_key(self, kind: str = "ed25519") -> Path:
        return self.directory / f"host_{kind}"

    def authorize(self, *keys: Path) -> None:
        """Let these keys in, and no others."""
        authorized = self.directory / "authorized"
        authorized.write_text("".join(f"{public(key)}\n" for key in keys))


Starter = Callable[..., AbstractContextManager[Server]]


def starter(tmp_path: Path) -> Starter:
    """Return what starts a server with more lines of configuration; for an account with a password it needs root."""

    @contextmanager
    def start(
        *lines: str, kinds: Sequence[str] = ("ed25519", "ecdsa", "rsa"), passwords: bool = False
    ) -> Iterator[Server]:
        directory = tmp_path / "sshd"
        directory.mkdir(exist_ok=True)
        user = ACCOUNT if passwords else pwd.getpwuid(os.geteuid()).pw_name
        server = Server(free_port(), directory, user)
        for kind in kinds:
            if not server.host_key(kind).exists():
                keygen(server.host_key(kind), kind)
        config = directory / "config"
        config.write_text(
            "\n".join(
                [
                    *lines,
                    f"ListenAddress 127.0.0.1:{server.port}",
                    *(f"HostKey {server.host_key(kind)}" for kind in kinds),
                    f"AuthorizedKeysFile {'/mnt' if passwords else directory}/authorized",
                    "StrictModes no",
                    "PidFile none",
                    "Subsystem sftp internal-sftp",
                ]
            )
        )
        log = directory / "log"
        log.touch()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # the init system makes it where a real one runs
        before = len(log.read_text())
        process = subprocess.Popen(_command(directory, config, log, passwords=passwords))
        try:

            def listens() -> bool:
                assert process.poll() is None, log.read_text()
                return f"listening on 127.0.0.1 port {server.port}" in log.read_text()[before:]

            wait_until(listens, "sshd")
            yield replace(server, pid=process.pid)
        finally:
            process.terminate()
            process.wait(10)

    return start


@contextmanager
def relayed(port: int, times: int) -> Iterator[int]:
    """Pass on so many connections to `port`, and refuse all others; yields the port to connect to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        own = int(server.getsockname()[1])

        def serve() -> None:
            for _ in range(times):
                with server.accept()[0] as here, socket.create_connection(("127.0.0.1", port)) as there:
                    back = threading.Thread(target=_pass_on, args=(there, here), daemon=True)
                    back.start()
                    _pass_on(here, there)
                    back.join()
            server.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield own
        thread.join(30)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _command(directory: Path, config: Path, log: Path, *, passwords: bool) -> list[str | Path]:
    if not passwords:
        return ["sh", "-c", 'exec "$1" -D -e -f "$2" 2>>"$3"', "sh", SSHD, config, log]
    (directory / "passwd").write_text(f"{ACCOUNT}:x:4242:4242::/:/bin/sh\n")
    (directory / "group").write_text(f"{ACCOUNT}:x:4242:\n")
    (directory / "shadow").write_text(f"{ACCOUNT}:{_SHADOW}:20000::::::\n")
    (directory / "pam").write_text(
        "auth required pam_unix.so\naccount required pam_permit.so\nsession required pam_permit.so\n"
    )
    return ["unshare", "--mount", "sh", "-euc", _IN_NAMESPACE, "sh", directory, SSHD, config, log]
