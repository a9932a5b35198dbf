"""`backupd trust`."""

import os
import re
import sys
from typing import Final

import click

from backupd.bootstrap.replicas import replica_names
from backupd.cli import complete
from backupd.cli.common import command
from backupd.cli.output import echo, print_json, print_warning
from backupd.config import Config, toml_key, toml_value
from backupd.errors import ConfigError, UsageError
from backupd.privileges import drop_privileges
from backupd.stores.sftp.handshake import fetch_host_keys
from backupd.stores.sftp.host_keys import HostKeyState, PinnedKeys, PublicKey, line_for
from backupd.stores.sftp.url import SftpAddress, parse_address

_STATES: Final[dict[HostKeyState, str]] = {
    "equal": "is pinned",
    "changed": "DIFFERS from what is pinned",
    "revoked": "IS REVOKED",
    "unpinned": "not pinned",
}
_ENDINGS: Final = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}


@command(
    "trust",
    "backupd trust offsite",
    {1: "failed, or the server shows another key than the pinned one", 3: "some key types were not asked for", 75: ""},
)
@click.argument("name", metavar="NAME", shell_complete=complete.replicas)
@click.option("--timeout", "timeout_s", type=click.FloatRange(1, 600), default=30, show_default=True, help="Seconds.")
def trust_command(config: Config, name: str, timeout_s: float, *, as_json: bool) -> None:
    """Say how to compare the keys with those on the server.

    Nothing is written: put the line into the configuration yourself.
    """
    address = _address(config, name)
    # a server's answer is not parsed as root, and known_hosts is read as the daemon does
    drop_privileges(config, os.environ)
    pins = _pins(config, name)
    fetched = fetch_host_keys(address.host, address.port, timeout_s)
    offered = [PublicKey.of(key) for key in fetched.keys]
    verdict = pins.verdict(address.host, address.port, offered, fetched.missing)
    states = [pins.state(address.host, address.port, key) for key in offered]
    lines = [line_for(address.host, address.port, key) for key in fetched.keys]
    if as_json:
        keys = [
            {"type": key.type, "fingerprint": key.fingerprint, "state": state, "known_hosts": line}
            for key, state, line in zip(offered, states, lines, strict=True)
        ]
        pinned = [{"type": k.type, "fingerprint": k.fingerprint} for k in pins.keys(address.host, address.port)]
        facts = {"replica": name, "host": address.host, "port": address.port, "verdict": verdict}
        missing = {"missing": fetched.missing, "problem": fetched.problem.message if fetched.problem else None}
        print_json({**facts, "keys": keys, "pinned": pinned, **missing, **_pinning_lines(name, offered[0])})
    else:
        echo(f"{name} is {address.where}; its host keys:")
        for key, state in zip(offered, states, strict=True):
            echo(f"  {key}  {_STATES[state]}")
        if verdict != "equal" and (pinned_keys := pins.keys(address.host, address.port)):
            echo("\n  ".join(("pinned:", *map(str, pinned_keys))))
        _print_next_steps(name, offered[0], verdict)
    if fetched.problem:
        print_warning(
            f"keys of the types {', '.join(fetched.missing)} were not asked for: {fetched.problem.message}; the server "
            "may limit connections (MaxStartups, fail2ban): try again in some minutes"
        )
    sys.exit(1 if verdict in {"changed", "revoked"} else 3 if fetched.problem else 0)


def _address(config: Config, name: str) -> SftpAddress:
    replica_names(config, (name,))
    address = parse_address(config.replicas[name].url)
    if not isinstance(address, SftpAddress):
        raise UsageError(f"the replica {name!r} is a directory and has no host key", "no key needs to be pinned")
    return address


def _pins(config: Config, name: str) -> PinnedKeys:
    """Return the pinned keys; none where they cannot be read, so that this command still shows what to pin."""
    try:
        replica = config.replicas[name]
        return PinnedKeys.read(name, replica.host_key, replica.known_hosts)
    except ConfigError as error:
        print_warning(f"{error.message} ({error.hint})")
        return PinnedKeys(name)


def _print_next_steps(name: str, key: PublicKey, verdict: HostKeyState) -> None:
    if verdict == "equal":
        echo("The pinned key matches: nothing to do.")
        return
    if verdict != "unpinned":
        echo("\nThis may be a man-in-the-middle: ask the administrator of the server whether its key changed.")
    ending = _ENDINGS.get(key.type, "ecdsa")
    echo("\nCompare on the server itself, at its console or over a connection that you trust:")
    echo(f"  ssh-keygen -lf /etc/ssh/ssh_host_{ending}_key.pub")
    lines = _pinning_lines(name, key)
    echo(f"\nOnly if that shows {key.fingerprint}, add this below [replicas.{toml_key(name)}]:")
    echo(f"  {lines['toml']}")
    echo("or set in the environment:")
    echo(f"  {lines['environment']}")


def _pinning_lines(name: str, key: PublicKey) -> dict[str, str]:
    """Return the lines that pin `key`, for the file and for the environment."""
    variable = re.sub(r"[^A-Z0-9]", "_", name.upper())
    return {
        "toml": f"host_key = {toml_value(key.text)}",
        "environment": f"BACKUPD_REPLICAS__{variable}__HOST_KEY={key.text}",
    }
