"""Pings: each run reports its start and end to an outside monitor, which raises an alarm when they stop.

`python -m backupd.pings` pings for a process that reads untrusted files and therefore has no URLs. It ends
when its standard input closes.
"""

import json
import os
import pickle
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final, Literal, TypeVar, get_args
from urllib.parse import urlencode, urlsplit, urlunsplit
from uuid import uuid4

from backupd.errors import Terminated
from backupd.log import Event, EventLog
from backupd.masking import Mask, without_secrets
from backupd.report import AnyReport
from backupd.system.process import pipe, send, start_module

if TYPE_CHECKING:
    import subprocess

M = TypeVar("M")
Signal = Literal["start", "success", "failure", "log"]  # "log" does not change the state of the monitor
MonitorKind = Literal["healthchecks", "uptime-kuma"]
# Receives the result of each ping: task, subject (empty for the daily one), and the error, empty when accepted.
PingRecorder = Callable[[str, str, str], None]

DAILY: Final = "daily"
TASKS: Final = ("backup", "replicate", "drill", "prune", "scrub")
MAX_BODY: Final = 10_000  # what a self-hosted healthchecks keeps (PING_BODY_LIMIT)
MAX_MESSAGE: Final = 200
_MAX_EXIT: Final = 255
_MAX_PING_MS: Final = 86_400_000  # Uptime Kuma 2 refuses more
_KUMA_PATH: Final = "/api/push/"
# The end of a run waits for its start ping, and then for two attempts: 10 s when the monitor does not answer.
TIMEOUT_S: Final = 3.0
_PAUSE_S: Final = 0.5
_ATTEMPTS: Final = 2
# The start ping may still be under way: each takes two attempts.
_HELPER_S: Final = 15.0
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500
_HINT: Final = "check its URL under [pings], and the network; the run itself is not affected"


@dataclass(frozen=True, slots=True)
class Ping:
    """A signal about one run."""

    signal: Signal
    run_id: str  # a UUID that pairs start and end
    summary: str = ""
    lines: tuple[str, ...] = ()  # the lines that the run logged
    exit_code: int = 0
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class PingRequest:
    """A URL to GET, or to POST `body` to."""

    url: str = field(repr=False)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Monitor:
    """An outside monitor: the protocol it speaks, and its URL, which is a secret."""

    kind: MonitorKind
    url: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Monitor":
        """Read a URL, with a prefix `healthchecks:` or `uptime-kuma:` where its path does not show the kind.

        Raises ValueError, which does not quote the URL.
        """
        kinds: tuple[MonitorKind, ...] = get_args(MonitorKind)
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


def require_ping_names(
    names: Iterable[str], sources: Iterable[str], replicas: Iterable[str], *, others_may_come: bool = False
) -> None:
    """Raise ValueError for a name that matches no task, or no task of any source where `others_may_come`."""
    of_sources = tuple(f"{task}_" for task in TASKS if task != "replicate")
    for name in unknown_ping_names(names, sources, replicas):
        if not (others_may_come and _normalized(name).startswith(of_sources)):
            known_names = f"{', '.join(TASKS)} or {DAILY}, or a task with its source or replica, such as backup-tasks"
            raise ValueError(f"{name!r} is not a task: use {known_names}")


def unknown_ping_names(names: Iterable[str], sources: Iterable[str], replicas: Iterable[str]) -> tuple[str, ...]:
    """Return the names that match no task."""
    subjects_of = {task: tuple(replicas if task == "replicate" else sources) for task in TASKS}
    known = {_normalized(f"{task}-{subject}") for task, subjects in subjects_of.items() for subject in subjects}
    known |= {*TASKS, DAILY}
    return tuple(name for name in names if _normalized(name) not in known)


def monitor_for(task: str, subject: str, monitors: Mapping[str, M]) -> M | None:
    """Return the monitor that is configured for `task` of `subject`, else the one for `task`."""
    by_name = {_normalized(name): monitor for name, monitor in monitors.items()}
    return by_name.get(_normalized(f"{task}-{subject}"), by_name.get(_normalized(task)))


def _normalized(name: str) -> str:
    """Return `name` as an environment variable spells it: in lower case, without "-" and "."."""
    return re.sub("[-.]", "_", name.lower())


def ping_request(monitor: Monitor, ping: Ping) -> PingRequest | None:
    """Return the request that sends `ping`; None where the protocol cannot express it.

    Uptime Kuma knows only up and down: "up" at a start would vouch for a run that may never end.
    """
    if monitor.kind == "healthchecks":
        return _healthchecks_request(monitor.url, ping)
    return None if ping.signal in ("start", "log") else _uptime_kuma_request(monitor.url, ping)


def _healthchecks_request(url: str, ping: Ping) -> PingRequest:
    """See https://healthchecks.io/docs/http_api/; the body is the summary and as many of the last lines as fit."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode({"rid": ping.run_id}))))
    suffix = "" if ping.signal == "success" else f"/{ping.signal}"
    if ping.signal == "failure":
        suffix = f"/{ping.exit_code}" if 0 < ping.exit_code <= _MAX_EXIT else "/fail"
    summary = ping.summary.encode(errors="replace")[: MAX_BODY // 2]
    lines = "".join(f"\n{line}" for line in ping.lines).encode(errors="replace")
    body = summary + lines[max(0, len(lines) - (MAX_BODY - len(summary))) :]
    return PingRequest(urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}{suffix}", query, "")), body)


def _uptime_kuma_request(url: str, ping: Ping) -> PingRequest:
    """Put everything into the query; one that was pasted along with the URL (status=up&msg=OK&ping=) is dropped."""
    parts = urlsplit(url)
    values = {"status": "up" if ping.signal == "success" else "down", "msg": ping.summary[:MAX_MESSAGE] or "OK"}
    if ping.duration_s is not None and 0 <= (took_ms := round(ping.duration_s * 1000)) <= _MAX_PING_MS:
        values["ping"] = str(took_ms)
    query = urlencode(values, errors="replace")
    return PingRequest(urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), query, "")))


class StartPings:
    """Sends start pings one after the other in a thread, so that a monitor that does not answer delays no run.

    One thread does, for however many runs begin together: a container may have few.
    """

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Future[None], Callable[[], object]]] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def add(self, send: Callable[[], object]) -> Future[None]:
        """Call `send` in its turn, unless the returned future is cancelled before."""
        sent = Future[None]()
        try:
            if self._thread.ident is None:
                self._thread.start()
        except RuntimeError:  # the system allows no further thread: only the end is pinged
            sent.cancel()
        self._waiting.put((sent, send))
        return sent

    def _work(self) -> None:
        while True:
            sent, send = self._waiting.get()
            if sent.set_running_or_notify_cancel():
                try:
                    send()
                finally:
                    sent.set_result(None)


@dataclass(frozen=True, slots=True)
class Pinger:
    """Pings `monitors` (by task, or by task and subject); failures are logged and recorded, and never raised.

    `helper` is the process that has the URLs where this one does not.
    """

    monitors: Mapping[str, Monitor]
    log: EventLog
    record: PingRecorder = lambda _task, _subject, _error: None
    timeout_s: float = TIMEOUT_S
    helper: "PingHelper | None" = None
    starts: StartPings = field(default_factory=StartPings, repr=False)

    @contextmanager
    def watch(self, task: str, subject: str) -> Iterator[Callable[[AnyReport], None]]:
        """Ping the start of a run, and yield the function that pings its end with its report.

        A run that was told to stop, or by a hook to try again later, pings no end: it did not fail, and runs again.
        """
        monitor = monitor_for(task, subject, self.monitors)
        if monitor is None:
            yield lambda _report: None
            return
        run_id, first_line = str(uuid4()), self.log.count
        started = Ping("start", run_id, f"{task} of {subject} started")
        start = self.starts.add(lambda: self.send(monitor, started, task, subject))

        def end(report: AnyReport) -> None:
            if report.exit_code == Terminated.exit_code or report.postponed:
                return
            with suppress(CancelledError, TimeoutError):
                start.result(self.timeout_s)
            start.cancel()  # one that arrives after the end would begin another run
            self.send(monitor, _end_ping(report, run_id, self.log.lines_after(first_line)), task, subject)

        yield end

    def send(self, monitor: Monitor, ping: Ping, task: str, subject: str = "") -> bool:
        """Send `ping` as `send_ping` does; log and record the result, and return whether it was accepted."""
        if ping_request(monitor, ping) is None:
            return True
        masked = self.log.mask.of(ping)
        error = self.helper.send(monitor, masked) if self.helper else send_ping(monitor, masked, self.timeout_s)
        self.record(task, subject, error)
        if error:
            what = f"the {task} of {subject}" if subject else f"the {task} ping"
            message = f"the {monitor.kind} monitor for {what} did not accept the {ping.signal} ping: {error}"
            self.log.warning(Event.PING_FAILED, message, hint=_HINT)
        return not error


def send_ping(monitor: Monitor, ping: Ping, timeout_s: float = TIMEOUT_S) -> str:
    """Send `ping`, a second time where that may help; return the error, empty when it was accepted."""
    from backupd.system.http import HttpRequest, RequestFailed, send_request  # slow to import, and few commands ping

    request = ping_request(monitor, ping)
    if request is None:
        return ""
    error = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            reply = send_request(HttpRequest(request.url, request.body), timeout_s=timeout_s)
        except RequestFailed as failed:
            error = without_secrets(str(failed), monitor.url)
            continue
        if reply.ok:
            return ""
        error = f"it {reply.words(monitor.url)}"  # an error page may quote the URL
        if reply.status < _SERVER_ERROR and reply.status != _TOO_MANY_REQUESTS:
            break
    return error


@dataclass(frozen=True, slots=True)
class PingHelper:
    """The pipes to and from a process that pings, and the monitors that it knows, without their URLs."""

    monitors: Mapping[str, Monitor]
    to: int
    back: int
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __reduce__(self) -> tuple[type["PingHelper"], tuple[Mapping[str, Monitor], int, int]]:
        """Return the state without the lock, which cannot be sent to another process."""
        return PingHelper, (self.monitors, self.to, self.back)

    def send(self, monitor: Monitor, ping: Ping) -> str:
        """Ping through that process; return the error, empty when the ping was accepted."""
        name = next(name for name, known in self.monitors.items() if known is monitor)
        request = json.dumps({"monitor": name, "ping": asdict(ping)}).encode() + b"\n"
        with self.lock:
            try:
                with open(self.to, "wb", closefd=False) as stream:
                    stream.write(request)
                return self._answer()
            except (OSError, ValueError) as error:
                return f"the process that pings has ended: {error}"

    def _answer(self) -> str:
        line, deadline = b"", time.monotonic() + _HELPER_S
        while not line.endswith(b"\n"):
            if not select.select([self.back], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return f"the process that pings did not answer within {_HELPER_S:.0f} s"
            data = os.read(self.back, 1 << 16)
            if not data:
                return "the process that pings has ended"
            line += data
        return str(json.loads(line))


def start_ping_helper(
    monitors: Mapping[str, Monitor], mask: Mask, environ: Mapping[str, str]
) -> "tuple[PingHelper, subprocess.Popen[bytes]]":
    """Start a process that pings `monitors`, and masks what it sends and what they say; it ends when both pipes close.

    Raises ProcessRefused, OSError.
    """
    process = start_module("backupd.pings", environ=environ)
    send(process, pickle.dumps((dict(monitors), mask)))
    known = {name: Monitor(monitor.kind, "") for name, monitor in monitors.items()}
    return PingHelper(known, pipe(process.stdin).fileno(), pipe(process.stdout).fileno()), process


def main() -> None:
    """Ping for another process: each ping comes as a line of JSON, and is answered by its error, empty for none."""
    monitors, mask = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that has started this one
    for line in sys.stdin.buffer:
        request = json.loads(line)
        request["ping"]["lines"] = tuple(request["ping"]["lines"])
        error = send_ping(monitors[request["monitor"]], mask.of(Ping(**request["ping"])))
        sys.stdout.write(f"{json.dumps(mask(error))}\n")
        sys.stdout.flush()


def _end_ping(report: AnyReport, run_id: str, lines: tuple[str, ...]) -> Ping:
    """Return the ping of the end of a run; warnings do not make it a failure."""
    failed = report.outcome == "failed"
    details = f"failed: {report.error}" if failed else "; ".join((report.outcome, *report.warnings))
    summary = f"{report.task} of {report.subject}: {details}"
    return Ping("failure" if failed else "success", run_id, summary, lines, report.exit_code, report.duration_s)


if __name__ == "__main__":
    main()
