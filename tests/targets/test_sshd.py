"""The OpenSSH server of the replica tests does what its options say, as seen by OpenSSH's own clients."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from support.daemon import wait_until
from support.openssh import new_key
from support.sshd import HOST_KEYS, Sshd, running_sshd

pytestmark = pytest.mark.no_cover


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("own") / "sshd") as server:
        yield server


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    file = tmp_path / "upload"
    file.write_bytes(b"backup" * 1000)
    return file


def accounts() -> str:
    return Path("/etc/passwd").read_text()


def test_own_account_has_sftp_and_shell(own: Sshd, upload: Path) -> None:
    done = own.client().sftp(f"cd {own.path}", f"put {upload} a.part", "rename a.part a")
    assert done.code == 0, done.err
    assert (own.files / "a").read_bytes() == upload.read_bytes()
    digest = subprocess.run(["sha256sum", upload], capture_output=True, text=True, check=True).stdout.split()[0]
    assert own.client().ssh("sha256sum", f"{own.path}/a").out.split() == [digest, f"{own.path}/a"]
    assert f'open "{own.path}/a.part"' in own.requests.read_text()


def test_key_is_refused_until_authorized(own: Sshd, tmp_path: Path) -> None:
    public = new_key(tmp_path / "other", "ecdsa")
    client = own.client(key=tmp_path / "other")
    assert "Permission denied" in client.ssh("true").err
    own.authorize(f'command="echo forced" {public}')
    assert client.ssh("true").out == "forced\n"


def test_each_host_key_is_shown_to_clients(own: Sshd) -> None:
    for kind in HOST_KEYS:
        transport = paramiko.Transport(("127.0.0.1", own.port))
        wanted = {"ecdsa": "ecdsa-sha2-nistp256", "ed25519": "ssh-ed25519", "rsa": "rsa-sha2-512"}[kind]
        transport.get_security_options().key_types = [wanted]
        transport.start_client(timeout=30)
        key = transport.get_remote_server_key()
        transport.close()
        assert f"{key.get_name()} {key.get_base64()}" == own.host_key(kind)
        assert key.fingerprint == own.fingerprint(kind)


def test_kill_connections_keeps_server_running(own: Sshd) -> None:
    before = len(own.log())
    with subprocess.Popen(own.client().command("sftp"), stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: "Starting session: subsystem 'sftp'" in own.log()[before:], "a session")
        assert own.kill_connections() == 1
        process.communicate(b"ls\n", timeout=10)  # the client notices with its next request, or while it sends that
        assert process.returncode in (255, -signal.SIGPIPE)
    wait_until(lambda: own.connections() == [], "the end of the connection")
    assert own.client().ssh("echo", "alive").out == "alive\n"


def test_stopped_server_refuses_and_started_server_has_same_keys(tmp_path: Path) -> None:
    with running_sshd(tmp_path / "sshd") as server:
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection, connection.makefile("rb") as said:
            assert said.readline().startswith(b"SSH-2.0-")
            server.stop()
            assert said.read() == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))
        server.start()
        assert server.client().ssh("echo", "again").out == "again\n"
        server.stop()
        known = server.client()
        server.change_host_keys()
        server.start()
        assert "HOST IDENTIFICATION HAS CHANGED" in known.ssh("true").err


@pytest.mark.root
def test_chrooted_account_has_only_sftp(tmp_path: Path, upload: Path) -> None:
    with running_sshd(tmp_path / "sshd", kind="chroot") as server:
        assert f"{server.user}:" in accounts()
        client = server.client()
        done = client.sftp(f"put {upload} /backups/a.part", "rename /backups/a.part /backups/a", "ls /")
        assert done.code == 0, done.err
        assert (server.files / "a").read_bytes() == upload.read_bytes()
        assert (server.files / "a").owner() == server.user
        assert done.out.splitlines()[-1].split() == ["/backups"]
        assert "This service allows sftp connections only" in client.ssh("id").out
        assert "Permission denied" in client.sftp(f"put {upload} /outside").err
        user, place = server.user, server.files.parents[1]
    assert f"{user}:" not in accounts()
    assert not place.exists()


@pytest.mark.root
def test_account_with_shell_can_digest_files(tmp_path: Path, upload: Path) -> None:
    with running_sshd(tmp_path / "sshd", kind="shell") as server:
        done = server.client().sftp(f"put {upload} {server.path}/a")
        assert done.code == 0, done.err
        assert server.client().ssh("sha256sum", f"{server.path}/a").code == 0
        assert server.client().ssh("id", "-un").out == f"{server.user}\n"
        assert "open" in server.requests.read_text()


@pytest.mark.root
def test_account_with_password_can_log_in(tmp_path: Path) -> None:
    with running_sshd(tmp_path / "sshd", kind="shell", password="correct horse") as server:
        for password, right in (("correct horse", True), ("wrong", False)):
            with paramiko.SSHClient() as client:
                client.load_host_keys(str(server.client().known_hosts))
                try:
                    client.connect(
                        "127.0.0.1", server.port, server.user, password, allow_agent=False, look_for_keys=False
                    )
                except paramiko.AuthenticationException:
                    assert not right
                else:
                    assert right


def test_denied_requests_fail(tmp_path: Path, upload: Path) -> None:
    with running_sshd(tmp_path / "sshd", sftp="-u 077 -P posix-rename,fsync,statvfs") as server:
        done = server.client().sftp(f"cd {server.path}", f"put {upload} a", f"put {upload} b", "df")
        assert "does not support statvfs" in done.err
        assert "b" in {file.name for file in server.files.iterdir()}
        assert (server.files / "a").stat().st_mode & 0o777 == 0o600
        over = server.client().sftp(f"cd {server.path}", "rename a b")  # without posix-rename, no file is replaced
        assert over.code != 0
        assert (server.files / "a").exists()


def test_read_only_server_refuses_writes(tmp_path: Path, upload: Path) -> None:
    with running_sshd(tmp_path / "sshd", sftp="-R") as server:
        assert "Permission denied" in server.client().sftp(f"put {upload} {server.path}/a").err
        assert server.client().sftp(f"ls {server.path}").code == 0


def test_configuration_lines_of_test_take_precedence(tmp_path: Path) -> None:
    lines = ("Ciphers aes128-ctr", "RekeyLimit 1M")
    with running_sshd(tmp_path / "sshd", lines=lines, match="Match User nobody\n  X11Forwarding no") as server:
        assert "no matching cipher" in server.client().ssh("true", options=("-c", "aes256-ctr")).err
        size = 4 << 20
        (server.files / "big").write_bytes(bytes(size))
        fetched = server.client().sftp(f"get {server.path}/big {tmp_path}/got", options=("-v",))
        assert (tmp_path / "got").stat().st_size == size
        assert fetched.err.count("SSH2_MSG_NEWKEYS received") > 2
