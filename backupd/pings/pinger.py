"""Tells a monitor of a run while it goes on: a context manager, so that an end is told whatever happens."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from backupd.calls import CallFailed, call
from backupd.errors import Terminated
from backupd.log import Event, EventLog
from backupd.model import RunReport
from backupd.pings.address import Address, address_for
from backupd.pings.request import Ping, ping_request
from backupd.text import without_secrets

# The end of a run waits for its start to be told, and then for two tries: 10 s where nobody answers anything.
TIMEOUT_S: Final = 3.0
_PAUSE_S: Final = 0.5
_TRIES: Final = 2
_TOO_MANY: Final = 429
_SERVER_ERROR: Final = 500
_WHAT_TO_DO: Final = "check its URL under [pings], and the network; the run itself is not affected"


@dataclass(frozen=True, slots=True)
class Pinger:
    """Pings the monitors in `addresses` (by task, or by task and subject); trouble with them is only logged."""

    addresses: Mapping[str, Address]
    log: EventLog
    timeout_s: float = TIMEOUT_S

    @contextmanager
    def watch(self, task: str, subject: str) -> Iterator[Callable[[RunReport], None]]:
        """Ping the start of a run, and yield what has to be told its report, once it has ended.

        A run that was told to stop pings no end: it did not fail, and is due again.
        """
        address = address_for(task, subject, self.addresses)
        if address is None:
            yield lambda _report: None
            return
        run_id, seen = str(uuid4()), self.log.count
        name = f"{task} of {subject}"
        start = threading.Thread(
            target=self.send, args=(address, Ping("start", run_id, f"{name} begins"), name), daemon=True
        )
        start.start()

        def ended(report: RunReport) -> None:
            if report.exit_code == Terminated.exit_code:
                return
            start.join(self.timeout_s)  # one that came in later would begin the run anew
            self.send(address, _end(report, run_id, self.log.lines_after(seen)), name)

        yield ended

    def send(self, address: Address, ping: Ping, name: str) -> bool:
        """Send `ping`, once more where that may help; tells whether it was taken, and logs why it was not."""
        request = ping_request(address, ping)
        if request is None:
            return True
        why = ""
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE_S)
            try:
                reply = call(request.url, request.body, timeout_s=self.timeout_s)
            except CallFailed as error:
                why = without_secrets(str(error), address.url)
                continue
            if reply.ok:
                return True
            why = f"it {reply.words(address.url)}"  # a page that says "not found" likes to quote what was not
            if reply.status < _SERVER_ERROR and reply.status != _TOO_MANY:
                break
        what = f"the {address.kind} monitor of the {name} did not take the {ping.signal}: {why}"
        self.log.warning(Event.PING_FAILED, what, hint=_WHAT_TO_DO)
        return False


def _end(report: RunReport, run_id: str, lines: tuple[str, ...]) -> Ping:
    """Say how a run ended; warnings do not make it a failure."""
    name = f"{report.task} of {report.source}"
    failed = report.outcome == "failed"
    words = f"{name}: failed: {report.error}" if failed else "; ".join((f"{name}: {report.outcome}", *report.warnings))
    return Ping("failure" if failed else "success", run_id, words, lines, report.exit_code, report.duration_s)
