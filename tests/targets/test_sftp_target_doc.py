"""The commands and sshd_config of docs/sftp-target.md make an account with exactly the documented rights."""

import hashlib
import json
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.accounts import changing_accounts, removed_account
from support.command import Backupd
from support.openssh import Client
from support.sftp_host import DOCUMENT, blocks
from support.sshd import Sshd, root_owned, running_sshd

RELOAD = "sshd -t && systemctl try-reload-or-restart ssh\n"

pytestmark = [pytest.mark.root, pytest.mark.no_cover]


@dataclass(frozen=True)
class Target:
    """The document with names of the test's own, and the account that came of it."""

    names: dict[str, str]
    account: str
    files: Path
    server: Sshd
    client: Client

    def said(self, commands: str, **more: str) -> str:
        """Return what commands of the document say."""
        return run(named(commands, self.names | more))


def named(text: str, names: dict[str, str]) -> str:
    """Put the test's names in place of those of the document, in one go."""
    longest_first = sorted(names, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: names[found[0]], text)


def run(commands: str, cwd: Path | None = None) -> str:
    done = subprocess.run(["sh", "-euc", commands], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    work = tmp_path_factory.mktemp("target")
    (operator,) = blocks("sh operator")
    public = run(operator, work)
    account, reload, _ = blocks("sh admin")
    (config,) = blocks("sshd_config")
    assert reload == RELOAD, "the server of the test is started instead"
    with root_owned() as place, removed_account() as user:
        names = {
            "ssh-ed25519 AAAA... backupd": public.strip(),
            "/etc/ssh/authorized_keys": f"{place}/authorized_keys",
            "/etc/ssh/ssh_host_ed25519_key": f"{work}/sshd/host_ed25519",
            "/srv/backupd": f"{place}/backupd",
            "backupd": user,
        }
        with changing_accounts():
            run(named(account, names))
        # The server's own account has a shell and may forward: what is refused to the other is not refused to all.
        with running_sshd(
            work / "sshd", kind="shell", lines=("StrictModes yes",), match=named(config, names)
        ) as server:
            client = Client(user, server.port, work / "backupd-key", server.client().known_hosts)
            yield Target(names, user, place / "backupd" / "backups", server, client)


def test_sftp_account_can_upload_rename_list_and_read(target: Target, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"backup")
    done = target.client.sftp(
        "pwd",
        "mkdir .backupd",
        f"put -f {tmp_path}/up .backupd/up.part",
        f"put {tmp_path}/up up",
        "rename .backupd/up.part up",
        "ls -1 /backups",
        f"get up {tmp_path}/back",
        "df",
        "rm up",
        "rmdir .backupd",
    )
    assert (done.code, done.err) == (0, "")
    assert "Remote working directory: /backups" in done.out
    assert "\n/backups/up\n" in done.out
    assert (tmp_path / "back").read_bytes() == b"backup"


def test_uploaded_files_are_private(target: Target, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"")
    assert target.client.sftp(f"put {tmp_path}/up private", "mkdir directory").code == 0
    modes = [stat.filemode((target.files / name).stat().st_mode) for name in ("private", "directory", ".")]
    assert modes == ["-rw-------", "drwx------", "drwx------"]
    assert target.files.owner() == target.files.group() == (target.files / "private").owner() == target.account
    target.client.sftp("rm private", "rmdir directory")


def test_sftp_account_has_no_shell_or_terminal(target: Target) -> None:
    for client, works in ((target.server.client(), True), (target.client, False)):
        done = client.ssh("echo", "a-shell")
        assert (done.out == "a-shell\n", "sftp connections only" in done.out) == (works, not works)
        terminal = client.ssh("true", options=("-tt",))
        assert ("PTY allocation request failed" not in terminal.err) == works


def test_sftp_account_cannot_forward(target: Target) -> None:
    out = ("-W", f"127.0.0.1:{target.server.port}")
    back = ("-R", "0:127.0.0.1:1", "-oExitOnForwardFailure=yes")
    for client, works in ((target.server.client(), True), (target.client, False)):
        assert client.ssh(options=out).out.startswith("SSH-2.0-") == works
        assert ("forwarding failed" not in client.ssh("true", options=back).err) == works


def test_sftp_account_cannot_leave_its_directory(target: Target, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"")
    refused = {
        "get /etc/passwd": "not found",
        f"get ../../../../../../etc/passwd {tmp_path}/stolen": "not found",
        f"put {tmp_path}/up /outside": "Permission denied",
        "mkdir /outside": "Permission denied",
        "rename /backups /elsewhere": "Permission denied",
        "ln -s /etc/passwd link": "Permission denied",
        "chmod 777 /": "Permission denied",
    }
    for command, complaint in refused.items():
        done = target.client.sftp(command)
        assert (done.code, complaint in done.err) == (1, True), f"{command}: {done}"
    assert "/backups" in target.client.sftp("ls -1a /../..").out
    assert target.client.sftp(f"put {tmp_path}/up up").code == 0
    assert "does not support hardlink" in target.client.sftp("ln up hard").err
    assert {file.name for file in target.files.iterdir()} == {"up"}
    target.client.sftp("rm up")


def test_writable_chroot_is_refused_with_documented_message(target: Target) -> None:
    complaint = "bad ownership or modes for chroot directory"
    assert complaint in DOCUMENT
    root = target.files.parent
    root.chmod(0o777)
    try:
        assert target.client.sftp("pwd").code == 255
    finally:
        root.chmod(0o755)
    assert complaint in target.server.log()
    assert target.client.sftp("pwd").code == 0


def test_account_of_plain_useradd_is_locked(target: Target) -> None:
    for field, code in (("!", 255), ("*", 0)):
        with changing_accounts():
            run(f"usermod --password '{field}' {target.account}")
        assert target.client.sftp("pwd").code == code


def test_documented_commands_show_host_key(target: Target) -> None:
    shown = target.said(blocks("sh admin")[2])
    assert target.server.host_key() in shown
    assert target.server.fingerprint() in shown


def test_documented_commands_check_and_restore_backups(
    target: Target, backupd: Backupd, backups: Path, tmp_path: Path
) -> None:
    made = backupd("backup", "--json").json
    sent = [f"put {backups}/{name}" for name in (f"{made['generation']}.*", "SHA256SUMS")]
    assert target.client.sftp("mkdir my-app", "cd my-app", *sent).code == 0
    restored = tmp_path / "restored.db"
    said = target.said(
        "".join(blocks("sh check")), **{"tasks-20261123-0400": made["generation"], "/root/restored.db": str(restored)}
    )
    assert said == f"{made['generation']}.sqlite3.gz: OK\n"
    assert hashlib.sha256(restored.read_bytes()).hexdigest() == made["snapshot_sha256"]
    manifest = json.loads((target.files / "my-app" / f"{made['generation']}.manifest.json").read_text())
    assert manifest["id"] == made["generation"]
    shutil.rmtree(target.files / "my-app")
