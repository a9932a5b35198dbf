"""Which host keys are pinned, and whether the one that a server shows is among them: nothing else is ever accepted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from paramiko import PKey

from backupd.errors import ConfigError, HostKeyChanged, HostKeyRefused, HostKeyUnknown
from backupd.stores.sftp.address import SSH_PORT, host_and_port
from backupd.stores.sftp.knownhosts import Lines, Pin, lookup_name, parse_host_key, parse_known_hosts
from backupd.stores.sftp.publickey import ALGORITHMS, PublicKey, fingerprint

__all__ = ["PinnedKeys", "State", "fingerprint", "line_for"]

State = Literal["equal", "changed", "revoked", "unpinned"]


@dataclass(frozen=True, slots=True)
class PinnedKeys:
    """The host keys that the configuration pins for replica `name`; without any, no server is good enough."""

    name: str
    pins: tuple[Pin, ...] = ()
    skipped: tuple[str, ...] = ()

    @classmethod
    def read(cls, name: str, host_key: str | None, known_hosts: Path | None) -> Self:
        """Return what `[replicas.NAME] host_key` and `known_hosts` pin. Raises ConfigError for what is unreadable."""
        own = parse_host_key(host_key, f"replicas.{name}.host_key") if host_key else Lines((), ())
        filed = parse_known_hosts(_text_of(known_hosts), str(known_hosts)) if known_hosts else Lines((), ())
        return cls(name, own.pins + filed.pins, own.skipped + filed.skipped)

    def keys(self, host: str, port: int) -> tuple[PublicKey, ...]:
        """Return the keys that are pinned for `host`, the preferred types first."""
        keys = {pin.key for pin in self._for(host, port) if not pin.marker} - self._revoked(host, port)
        return tuple(sorted(keys, key=lambda key: (list(ALGORITHMS).index(key.type), key.blob)))

    def types(self, host: str, port: int) -> tuple[str, ...]:
        """Return the algorithms of the pinned keys; asked for first, a server with several keys shows one of them."""
        kinds = dict.fromkeys(key.type for key in self.keys(host, port))
        return tuple(algorithm for kind in kinds for algorithm in ALGORITHMS[kind])

    def state(self, host: str, port: int, key: PublicKey) -> State:
        """Tell how `key` relates to what is pinned: "unpinned" where no other key of its type is."""
        if key in self._revoked(host, port):
            return "revoked"
        pinned = self.keys(host, port)
        if key in pinned:
            return "equal"
        return "changed" if key.type in {other.type for other in pinned} else "unpinned"

    def verdict(self, host: str, port: int, offered: Sequence[PublicKey], unasked: Sequence[str] = ()) -> State:
        """Tell the same of all keys that a server offers: "changed" also where it offers none of the pinned ones.

        A pinned key of a type in `unasked` may be there: it changes nothing that it was not offered.
        """
        states = [self.state(host, port, key) for key in offered]
        for state in ("revoked", "changed", "equal"):
            if state in states:
                return state
        return "changed" if any(key.type not in unasked for key in self.keys(host, port)) else "unpinned"

    def check(self, host: str, port: int, key: PKey) -> None:
        """Accept a key that is pinned for `host`; raises HostKeyUnknown, HostKeyChanged, HostKeyRefused (revoked)."""
        offered = PublicKey.of(key)
        where = host_and_port(host, port)
        pinned = self.keys(host, port)
        state = self.state(host, port, offered)
        if state == "revoked":
            raise HostKeyRefused(f"{where} shows a revoked host key, {offered}", self._hint_changed())
        if not pinned:
            raise HostKeyUnknown(f"{where} shows the host key {offered}; {self._why_none(host, port)}", self._hint())
        if state != "equal":
            known = ", ".join(map(str, pinned))
            raise HostKeyChanged(f"{where} shows the host key {offered}; pinned is {known}", self._hint_changed())

    def _for(self, host: str, port: int) -> tuple[Pin, ...]:
        """Return the lines for `host` at `port`; where there is none, like OpenSSH those for `host` alone."""
        lines = [pin for pin in self.pins if pin.marker != "@revoked"]
        found = tuple(pin for pin in lines if pin.is_for(host, port))
        return found or tuple(pin for pin in lines if pin.is_for(host, SSH_PORT))

    def _revoked(self, host: str, port: int) -> set[PublicKey]:
        lines = [pin for pin in self.pins if pin.marker == "@revoked"]
        return {pin.key for pin in lines if pin.is_for(host, port) or pin.is_for(host, SSH_PORT)}

    def _why_none(self, host: str, port: int) -> str:
        markers = {pin.marker for pin in self._for(host, port)}
        if "@cert-authority" in markers:
            return "pinned is a certificate authority (@cert-authority) alone, which backupd does not know how to ask"
        if "" in markers:
            return "every key that is pinned for it is revoked as well"
        if self.pins:
            return f"what is pinned is for other hosts, not for {lookup_name(host, port)}"
        if self.skipped:
            return f"no line that could pin one is readable: {self.skipped[0]}"
        return "none is pinned"

    def _hint(self) -> str:
        return f"`backupd trust {self.name}` shows its keys, how to compare them, and the line for the configuration"

    def _hint_changed(self) -> str:
        return (
            "nothing was told to it: somebody may stand in between. Ask whoever runs the server; if it really has "
            f"a new key, `backupd trust {self.name}` shows how to compare it, and the line to pin it"
        )


def line_for(host: str, port: int, key: PKey) -> str:
    """Return the line for a known_hosts file."""
    return f"{lookup_name(host, port)} {PublicKey.of(key).text}"


def _text_of(known_hosts: Path) -> str:
    try:
        return known_hosts.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        hint = "check known_hosts, the mount, and the rights"
        raise ConfigError(f"cannot read {known_hosts}: {error.strerror}", hint) from None
