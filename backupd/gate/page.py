"""The gate's page `/`: the last deploys of each app, step by step, what to do about them, and how to go back."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from backupd.gate.model import Deploy, Gate
from backupd.gate.page_view import MOST_GATES, gate_view, to_dos, verdict
from backupd.runbook import DOCS_URL, runbook_address
from backupd.web.html import html_response
from backupd.web.localizer import Language, Localizer
from backupd.web.page import REFRESH_S
from backupd.web.responses import WebResponse

_HERE: Final = Path(__file__).parent
BUSY_REFRESH_S: Final = 15  # while a deploy is on its way
_MOST_NAME: Final = 80


def page_response(
    gates: Sequence[Gate],
    deploys: Sequence[Deploy],
    language: Language,
    now: datetime,
    zone: ZoneInfo,
    *,
    outputs: Mapping[str, str] | None = None,
    name: str = "",
    docs_url: str = DOCS_URL,
    refreshing: bool = True,
) -> WebResponse:
    """Return the page on `gates` and their `deploys`, in `language`; `name` is that of this backupd in messages.

    `outputs` has by the id of a deploy the end of what its tests printed; `refreshing` makes the browser load the page
    again, more often while a deploy is on its way.
    """
    localizer, shown = Localizer(language, zone), gates[:MOST_GATES]
    severity, heading = verdict(gates, deploys, localizer)
    every_s = REFRESH_S if all(one.ended for one in deploys) else BUSY_REFRESH_S
    return html_response(
        HTTPStatus.OK,
        localizer,
        severity,
        heading,
        template="page.html",
        directory=_HERE,
        refresh_s=every_s if refreshing else None,
        taken_at=now,
        timezone=str(zone),
        instance="" if name == ", ".join(gate.name for gate in gates) else localizer.quote(name, _MOST_NAME),
        json_path="api/deploys",
        runbook=lambda topic: runbook_address(topic, language, docs_url),
        to_dos=to_dos(gates, deploys, localizer),
        gates=[gate_view(gate, deploys, outputs or {}, localizer, now) for gate in shown],
        more_gates=", ".join(localizer.quote(gate.name, _MOST_NAME) for gate in gates[MOST_GATES:]),
    )
