"""Whom to ping: what `[pings]` may name, and which kind of monitor a URL belongs to."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args
from urllib.parse import urlencode, urlsplit, urlunsplit

Signal = Literal["start", "success", "failure", "log"]  # "log" says nothing of how it went
# What a healthchecks that one hosts oneself keeps of a body (PING_BODY_LIMIT).
LONGEST_BODY: Final = 10_000
LONGEST_MESSAGE: Final = 200
# Uptime Kuma 2 refuses longer ones, which it takes for seconds.
_LONGEST_PING_MS: Final = 86_400_000
_HIGHEST_EXIT: Final = 255


@dataclass(frozen=True, slots=True)
class Ping:
    """A signal about one run; `lines` are what its log said, `run_id` a UUID that pairs start and end."""

    signal: Signal
    run_id: str
    summary: str = ""
    lines: tuple[str, ...] = ()
    exit_code: int = 0
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class PingRequest:
    """A URL to GET, or to POST `body` to."""

    url: str = field(repr=False)
    body: bytes | None = None


DAILY: Final = "daily"
TASKS: Final = ("backup", "replicate", "drill", "prune", "scrub")
Kind = Literal["healthchecks", "uptime-kuma"]
_KUMA_PATH: Final = "/api/push/"


@dataclass(frozen=True, slots=True)
class Monitor:
    """A monitor: how it wants to be told, and where, which is a secret."""

    kind: Kind
    url: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Monitor":
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


def monitor_for(task: str, subject: str, addresses: Mapping[str, Monitor]) -> Monitor | None:
    """Return whom a run pings: who is named for it, else who is named for its task."""
    by_name = {_plain(name): address for name, address in addresses.items()}
    return by_name.get(_plain(f"{task}-{subject}")) or by_name.get(_plain(task))


def _plain(name: str) -> str:
    """Return `name` as the environment would have it, which knows neither case nor "-" and "."."""
    return re.sub("[-.]", "_", name.lower())


def ping_request(address: Monitor, ping: Ping) -> PingRequest | None:
    """Return what tells `ping` at `address`; None where its protocol has no word for it.

    Uptime Kuma has none for a start or a log: "up" would say that all is well, of a run that may never end.
    """
    if address.kind == "healthchecks":
        return _healthchecks(address.url, ping)
    return None if ping.signal in ("start", "log") else _uptime_kuma(address.url, ping)


def _healthchecks(url: str, ping: Ping) -> PingRequest:
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode({"rid": ping.run_id}))))
    path = f"{parts.path.rstrip('/')}{_suffix(ping)}"
    return PingRequest(urlunsplit((parts.scheme, parts.netloc, path, query, "")), _body(ping))


def _suffix(ping: Ping) -> str:
    if ping.signal == "failure":
        return f"/{ping.exit_code}" if 0 < ping.exit_code <= _HIGHEST_EXIT else "/fail"
    return "" if ping.signal == "success" else f"/{ping.signal}"


def _body(ping: Ping) -> bytes:
    """Return the summary and as many of the last lines as there is room for."""
    summary = ping.summary.encode(errors="replace")[: LONGEST_BODY // 2]
    lines = "".join(f"\n{line}" for line in ping.lines).encode(errors="replace")
    return summary + lines[max(0, len(lines) - (LONGEST_BODY - len(summary))) :]


def _uptime_kuma(url: str, ping: Ping) -> PingRequest:
    """Tell it in the query; one that was pasted along with the URL (status=up&msg=OK&ping=) is dropped."""
    parts = urlsplit(url)
    values = {"status": "up" if ping.signal == "success" else "down", "msg": ping.summary[:LONGEST_MESSAGE] or "OK"}
    took_ms = None if ping.duration_s is None else round(ping.duration_s * 1000)
    if took_ms is not None and 0 <= took_ms <= _LONGEST_PING_MS:
        values["ping"] = str(took_ms)
    query = urlencode(values, errors="replace")
    return PingRequest(urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), query, "")))
