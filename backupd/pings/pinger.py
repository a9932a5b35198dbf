"""Tells a monitor of a run while it goes on: a context manager, so that an end is told whatever happens."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from backupd.errors import Terminated
from backupd.formatting import without_secrets
from backupd.log import Event, EventLog
from backupd.pings.monitors import Monitor, Ping, monitor_for, ping_request
from backupd.report import AnyReport
from backupd.system.http import RequestFailed, send_request

# The end of a run waits for its start to be told, and then for two tries: 10 s where nobody answers anything.
TIMEOUT_S: Final = 3.0
_PAUSE_S: Final = 0.5
_TRIES: Final = 2
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_WHAT_TO_DO: Final = "check its URL under [pings], and the network; the run itself is not affected"

# Hears of each ping: task, subject (none for the daily one), and why it was not taken, empty where it was.
PingRecorder = Callable[[str, str, str], None]


def discard_result(_task: str, _subject: str, _why: str) -> None:
    """Keep nothing."""


@dataclass(frozen=True, slots=True)
class Pinger:
    """Pings the monitors in `addresses` (by task, or by task and subject); trouble with them is logged and noted."""

    addresses: Mapping[str, Monitor]
    log: EventLog
    note: PingRecorder = discard_result
    timeout_s: float = TIMEOUT_S

    @contextmanager
    def watch(self, task: str, subject: str) -> Iterator[Callable[[AnyReport], None]]:
        """Ping the start of a run, and yield what has to be told its report, once it has ended.

        A run that was told to stop pings no end: it did not fail, and is due again.
        """
        address = monitor_for(task, subject, self.addresses)
        if address is None:
            yield lambda _report: None
            return
        run_id, seen = str(uuid4()), self.log.count
        begins = Ping("start", run_id, f"{_named(task, subject)} begins")
        start = threading.Thread(target=self.send, args=(address, begins, task, subject), daemon=True)
        with suppress(RuntimeError):  # no further thread is to be had: the end alone is told then
            start.start()

        def ended(report: AnyReport) -> None:
            if report.exit_code == Terminated.exit_code:
                return
            if start.ident is not None:
                start.join(self.timeout_s)  # one that came in later would begin the run anew
            self.send(address, _end(report, run_id, self.log.lines_after(seen)), task, subject)

        yield ended

    def send(self, address: Monitor, ping: Ping, task: str, subject: str = "") -> bool:
        """Send `ping`, once more where that may help; tells whether it was taken, and logs why it was not."""
        if ping_request(address, ping) is None:
            return True
        why = deliver(address, ping, self.timeout_s)
        self.note(task, subject, why)
        if why:
            what = f"the {address.kind} monitor of the {_named(task, subject)} did not take the {ping.signal}: {why}"
            self.log.warning(Event.PING_FAILED, what, hint=_WHAT_TO_DO)
        return not why


def deliver(address: Monitor, ping: Ping, timeout_s: float = TIMEOUT_S) -> str:
    """Send `ping`, once more where that may help; returns why it was not taken, empty where it was."""
    request = ping_request(address, ping)
    if request is None:
        return ""
    why = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PAUSE_S)
        try:
            reply = send_request(request.url, request.body, timeout_s=timeout_s)
        except RequestFailed as error:
            why = without_secrets(str(error), address.url)
            continue
        if reply.ok:
            return ""
        why = f"it {reply.words(address.url)}"  # a page that says "not found" likes to quote what was not
        if reply.status < _SERVER_ERROR and reply.status != _TOO_MANY:
            break
    return why


def _named(task: str, subject: str) -> str:
    return f"{task} of {subject}" if subject else f"{task} ping"


def _end(report: AnyReport, run_id: str, lines: tuple[str, ...]) -> Ping:
    """Say how a run ended; warnings do not make it a failure."""
    name = f"{report.task} of {report.subject}"
    failed = report.outcome == "failed"
    words = f"{name}: failed: {report.error}" if failed else "; ".join((f"{name}: {report.outcome}", *report.warnings))
    return Ping("failure" if failed else "success", run_id, words, lines, report.exit_code, report.duration_s)
