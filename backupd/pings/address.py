"""Whom to ping: what `[pings]` may name, and which kind of monitor a URL belongs to."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

DAILY: Final = "daily"
TASKS: Final = ("backup", "replicate", "drill", "prune", "scrub")
Kind = Literal["healthchecks", "uptime-kuma"]

_KUMA_PATH: Final = "/api/push/"


@dataclass(frozen=True, slots=True)
class Address:
    """A monitor: how it wants to be told, and where, which is a secret."""

    kind: Kind
    url: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read a URL, after `healthchecks:` or `uptime-kuma:` where its shape does not tell.

        Raises ValueError, which does not quote it.
        """
        kinds: tuple[Kind, ...] = get_args(Kind)
        named = next((kind for kind in kinds if text.startswith(f"{kind}:")), None)
        url = text.removeprefix(f"{named}:")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not url.isprintable() or " " in url:
            raise ValueError("must be a URL that begins with https:// or http://")
        return cls(named or ("uptime-kuma" if _KUMA_PATH in parts.path else "healthchecks"), url)


def require_ping_names(names: Iterable[str], sources: Iterable[str], replicas: Iterable[str]) -> None:
    """Raise ValueError for a name that no run would ever ping."""
    of = {task: tuple(replicas if task == "replicate" else sources) for task in TASKS}
    known = {_plain(f"{task}-{subject}") for task, subjects in of.items() for subject in subjects} | {*TASKS, DAILY}
    for name in names:
        if _plain(name) not in known:
            raise ValueError(
                f"{name!r} is nothing that runs: use {', '.join(TASKS)} or {DAILY}, or a task with what it is of, "
                "such as backup-tasks"
            )


def address_for(task: str, subject: str, addresses: Mapping[str, Address]) -> Address | None:
    """Return whom a run pings: who is named for it, else who is named for its task."""
    by_name = {_plain(name): address for name, address in addresses.items()}
    return by_name.get(_plain(f"{task}-{subject}")) or by_name.get(_plain(task))


def _plain(name: str) -> str:
    """Return `name` as the environment would have it, which knows neither case nor "-" and "."."""
    return re.sub("[-.]", "_", name.lower())
