"""`backupd trust NAME` shows the keys of a real server and the line to pin one, and writes nothing."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trust_sshd import Server, Starter, fingerprint_of, keygen, public, relayed

from support.command import Backupd, CommandResult

KINDS = ("ed25519", "ecdsa", "rsa")


def trust(backupd: Backupd, server: Server, *arguments: str, **more: str) -> CommandResult:
    """Ask for the keys of a replica that the environment alone describes."""
    url = f"sftp://me@{server.host}:{server.port}/backups"
    settings = {f"BACKUPD_REPLICAS__OFFSITE__{name.upper()}": value for name, value in {"url": url, **more}.items()}
    return backupd("trust", "offsite", *arguments, **settings)


def test_output_has_each_fingerprint_with_comparison_and_lines_to_pin(
    backupd: Backupd, sshd: Starter, backups: Path
) -> None:
    with sshd() as server:
        answer = trust(backupd, server)
        assert (answer.code, answer.err) == (0, "")
        for kind in KINDS:
            assert re.search(
                rf"^  \S+ {re.escape(fingerprint_of(server.host_key(kind)))}  not pinned$", answer.out, re.MULTILINE
            )
        assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in answer.out
        key = public(server.host_key())
        assert "below [replicas.offsite]:" in answer.out
        (toml,) = (line for line in answer.out.splitlines() if line.startswith("  host_key"))
        assert tomllib.loads(toml) == {"host_key": key}
        (line,) = (line for line in answer.out.splitlines() if line.startswith("  BACKUPD_"))
        name, _, value = line.strip().partition("=")
        assert (name, value) == ("BACKUPD_REPLICAS__OFFSITE__HOST_KEY", key)
        assert not backups.exists()
        pinned = trust(backupd, server, host_key=value)
    assert pinned.code == 0
    assert "is pinned\n" in pinned.out
    assert "nothing to do" in pinned.out


def test_json_has_same_facts(backupd: Backupd, sshd: Starter) -> None:
    with sshd(kinds=("ed25519", "rsa")) as server:
        answer = trust(backupd, server, "--json", host_key=public(server.host_key("rsa")))
        key = public(server.host_key())
        wanted: dict[str, Any] = {
            "replica": "offsite",
            "host": server.host,
            "port": server.port,
            "verdict": "equal",
            "keys": [
                {
                    "type": kind,
                    "fingerprint": fingerprint_of(server.host_key(name)),
                    "state": state,
                    "known_hosts": f"[{server.host}]:{server.port} {public(server.host_key(name))}",
                }
                for name, kind, state in (("ed25519", "ssh-ed25519", "unpinned"), ("rsa", "ssh-rsa", "equal"))
            ],
            "pinned": [{"type": "ssh-rsa", "fingerprint": fingerprint_of(server.host_key("rsa"))}],
            "missing": [],
            "problem": None,
            "toml": f'host_key = "{key}"',
            "environment": f"BACKUPD_REPLICAS__OFFSITE__HOST_KEY={key}",
        }
    assert answer.code == 0
    assert answer.json == wanted


def test_changed_key_exits_1_with_both_fingerprints(backupd: Backupd, sshd: Starter, tmp_path: Path) -> None:
    other = keygen(tmp_path / "other")
    with sshd(kinds=("ed25519",)) as server:
        answer = trust(backupd, server, host_key=public(other))
        facts = trust(backupd, server, "--json", host_key=public(other))
        shown = fingerprint_of(server.host_key())
    assert answer.code == facts.code == 1
    assert f"  ssh-ed25519 {shown}  DIFFERS from what is pinned\npinned:\n" in answer.out
    assert fingerprint_of(other) in answer.out
    assert "may be a man-in-the-middle" in answer.out
    assert facts.json["verdict"] == facts.json["keys"][0]["state"] == "changed"


def test_key_pinned_by_file_counts_and_unreadable_file_is_warning(
    backupd: Backupd, sshd: Starter, tmp_path: Path
) -> None:
    known_hosts = tmp_path / "known_hosts"
    with sshd(kinds=("ed25519",)) as server:
        missing = trust(backupd, server, known_hosts=str(known_hosts))
        known_hosts.write_text(trust(backupd, server, "--json").json["keys"][0]["known_hosts"])
        found = trust(backupd, server, known_hosts=str(known_hosts))
        wrong = trust(backupd, server, host_key=fingerprint_of(server.host_key()))
    assert (missing.code, found.code, wrong.code) == (0, 0, 0)
    assert f"cannot read {known_hosts}" in missing.err
    assert "nothing to do" in found.out
    assert "this is a fingerprint: the key itself is needed" in wrong.err
    assert "host_key = " in wrong.out


def test_unknown_replica_or_directory_is_usage_error(backupd: Backupd, tmp_path: Path) -> None:
    local = {"BACKUPD_REPLICAS__DISK__URL": f"file:{tmp_path}"}
    answer = backupd("trust", "disk", **local)
    assert (answer.code, answer.out) == (2, "")
    assert "is a directory and has no host key" in answer.err
    answer = backupd("trust", "disc", **local)
    assert answer.code == 2
    assert "has: disk" in answer.err
    assert "has: none" in backupd("trust", "disk").err


def test_received_keys_are_shown_with_exit_3_when_later_connection_fails(backupd: Backupd, sshd: Starter) -> None:
    with sshd() as server:
        rsa = public(server.host_key("rsa"))
        with relayed(server.port, times=1) as port:
            answer = trust(backupd, replace(server, port=port), host_key=rsa)
        with relayed(server.port, times=1) as port:
            facts = trust(backupd, replace(server, port=port), "--json", host_key=rsa)
    assert (answer.code, facts.code) == (3, 3)
    assert f"{fingerprint_of(server.host_key())}  not pinned" in answer.out
    assert "pinned:\n  ssh-rsa " in answer.out
    assert "man-in-the-middle" not in answer.out
    assert "keys of the types ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, " in answer.err
    assert (facts.json["verdict"], facts.json["missing"][-1]) == ("unpinned", "ssh-rsa")
    assert "127.0.0.1:" in facts.json["problem"]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_unreachable_server_exits_75(backupd: Backupd, arguments: tuple[str, ...]) -> None:
    url = {"BACKUPD_REPLICAS__OFFSITE__URL": "sftp://me@127.0.0.1:1/backups"}
    answer = backupd("trust", "offsite", *arguments, **url)
    assert answer.code == 75
    assert "127.0.0.1:1 cannot be reached: Connection refused" in answer.err
