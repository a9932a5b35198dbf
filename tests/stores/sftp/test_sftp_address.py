"""URLs of replicas: the meaning of each valid one, and the error for each invalid one."""

from pathlib import Path

import pytest

from backupd.errors import ConfigError
from backupd.stores.sftp.url import DirectoryAddress, SftpAddress, parse_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("sftp://backup@nas:2222/backups", SftpAddress("nas", 2222, "backup", "/backups")),
        ("sftp://nas/backups/", SftpAddress("nas", 22, None, "/backups")),
        ("SFTP://NAS.example.com/", SftpAddress("nas.example.com", 22, None, "/")),
        ("sftp://nas", SftpAddress("nas", 22, None, ".")),
        ("sftp://nas/~", SftpAddress("nas", 22, None, ".")),
        ("sftp://nas/~/", SftpAddress("nas", 22, None, ".")),
        ("sftp://nas/~/backups/tasks/", SftpAddress("nas", 22, None, "backups/tasks")),
        ("sftp://nas/./backups", SftpAddress("nas", 22, None, "backups")),
        ("sftp://me@[fd00::7]:2222/b", SftpAddress("fd00::7", 2222, "me", "/b")),
        ("sftp://[FD00:0::7]/b", SftpAddress("fd00::7", 22, None, "/b")),
        ("sftp://[fe80::1%25eth0]/b", SftpAddress("fe80::1%eth0", 22, None, "/b")),
        ("sftp://user%40realm@192.0.2.7/a%20b%C3%A9%3F", SftpAddress("192.0.2.7", 22, "user@realm", "/a bé?")),
        ("file:/mnt/nas", DirectoryAddress(Path("/mnt/nas"))),
        ("file:///mnt/nas/", DirectoryAddress(Path("/mnt/nas"))),
        ("file://localhost/mnt/a%20b", DirectoryAddress(Path("/mnt/a b"))),
        ("/mnt/nas#1", DirectoryAddress(Path("/mnt/nas#1"))),
    ],
)
def test_url_is_parsed_to_address(url: str, address: object) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://nas/b", "has an unsupported scheme"),
        ("nas", "has an unsupported scheme"),
        ("~/backups", "has an unsupported scheme"),
        ("backup@nas:/backups", "is written as for scp"),
        ("nas:backups", "is written as for scp"),
        ("ssh://nas/b", "is not for SFTP"),
        ("scp://nas/b", "is not for SFTP"),
        ("sftp:/backups", "names no host"),
        ("sftp:///backups", "names no host"),
        ("sftp://me@/backups", "has no valid host name"),
        ("sftp://-oProxyCommand=x/b", "has no valid host name"),
        ("sftp://nas%20x/b", "has no valid host name"),
        ("sftp://[fd00%3A%3Ax]/b", "no valid"),
        ("sftp://[fe80::1%25]/b", "no valid IPv6 address"),
        ("sftp://gerät/b", "has no valid host name"),
        ("sftp://nas:0/b", "has port 0"),
        ("sftp://nas:65536/b", "no valid host or port"),
        ("sftp://nas:ssh/b", "no valid host or port"),
        ("sftp://[fd00::7/b", "no valid host or port"),
        ("sftp://nas/b?x=1", "has a '?' or '#'"),
        ("sftp://nas/b?", "has a '?' or '#'"),
        ("sftp://nas/b#1", "has a '?' or '#'"),
        ("sftp://nas/a/../b", "has '..' in it"),
        ("sftp://nas/a/%2e%2e/b", "has '..' in it"),
        ("sftp://nas/a%00b", "control characters"),
        ("sftp://nas/a%0Ab", "control characters"),
        ("sftp://nas/a\nb", "control characters"),
        ("sftp://nas/%ff", "is not UTF-8"),
        ("sftp://nas/~root/b", "names another user's home"),
        ("file://nas/b", "is a file: URL with a host"),
        ("file:b", "has no absolute path"),
        ("file:", "has no absolute path"),
        ("/mnt/../b", "has '..' in it"),
    ],
)
def test_invalid_url_is_refused_with_reason_and_hint(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address(url)
    assert message in refused.value.message
    assert refused.value.hint
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("url", ["sftp://me:hunter2@nas/b", "sftp://me:hunter2@nas:x/b", "ftp://me:hunter2@nas"])
def test_password_in_url_is_refused_and_never_shown(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_address(url)
    assert "hunter2" not in refused.value.message + refused.value.hint


def test_host_is_printed_with_port() -> None:
    addresses = [parse_address(url) for url in ("sftp://nas/b", "sftp://[fd00::7]:2222/b")]
    assert [address.where for address in addresses if isinstance(address, SftpAddress)] == ["nas:22", "[fd00::7]:2222"]
