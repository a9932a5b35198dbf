"""OpenSSH's own clients, as a user would run them, against servers that tests start."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.command import CommandResult


def new_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> str:
    """Make a key pair, in place of one that is there, and return the public line."""
    path.unlink(missing_ok=True)
    bits = ("-b", "2048") if kind == "rsa" else ()  # the fewest that all take, and quickly made
    subprocess.run(["ssh-keygen", "-q", "-t", kind, *bits, "-N", passphrase, "-C", "", "-f", path], check=True)
    return path.with_name(f"{path.name}.pub").read_text()


def known_host(port: int, key: str) -> str:
    """Return the line of known_hosts that names a `key` (type and base64) for a server of this machine."""
    return f"[127.0.0.1]:{port} {key}\n"


@dataclass(frozen=True)
class Client:
    """Who logs in where: by a key without passphrase, to a server whose host keys are in a known_hosts file."""

    user: str
    port: int
    key: Path
    known_hosts: Path

    def sftp(self, *commands: str, options: Sequence[str] = ()) -> CommandResult:
        """Run `sftp -b` with `commands`; it ends at the first that fails, unless that one begins with `-`."""
        return _run(self.command("sftp", "-b", "-", *options), "".join(f"{command}\n" for command in commands))

    def ssh(self, *command: str, options: Sequence[str] = ()) -> CommandResult:
        """Run `ssh` with a `command` for the other side."""
        return _run([*self.command("ssh", *options), *command], "")

    def command(self, program: str, *options: str) -> list[str]:
        """Return the command that logs in with `ssh` or `sftp`."""
        port = "-p" if program == "ssh" else "-P"
        files = (f"-oUserKnownHostsFile={self.known_hosts}", f"-oIdentityFile={self.key}")
        settings = ("-oStrictHostKeyChecking=yes", "-oIdentitiesOnly=yes", "-oBatchMode=yes")
        options = ("-F", "/dev/null", *settings, *files, port, str(self.port), *options)
        return [program, *options, f"{self.user}@127.0.0.1"]


def _run(command: Sequence[str], said: str) -> CommandResult:
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=120, check=False)
    return CommandResult(done.returncode, done.stdout, done.stderr)
