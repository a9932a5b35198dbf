"""The status page `/`, from everything that is known."""

from http import HTTPStatus
from typing import Final
from zoneinfo import ZoneInfo

from backupd.model import Severity
from backupd.runbook import runbook_address
from backupd.status.model import DiskUse, History
from backupd.web import drawings
from backupd.web.html import html_response
from backupd.web.localizer import Language, Localizer
from backupd.web.page_view import (
    MOST_SOURCES,
    SEVERITIES,
    cards,
    day_words,
    point_commands,
    restore_commands,
    source_view,
    spread_text,
)
from backupd.web.responses import WebResponse
from backupd.web.verdict import due_run, first_run, headline, to_dos

_DISK_WIDTH: Final = 460
_MOST_NAME: Final = 80
REFRESH_S: Final = 120
ERROR_PAGES: Final[dict[HTTPStatus, Severity]] = {
    HTTPStatus.UNAUTHORIZED: "warning",
    HTTPStatus.FORBIDDEN: "warning",
    HTTPStatus.NOT_FOUND: "warning",
    HTTPStatus.INTERNAL_SERVER_ERROR: "failure",
}


def page_response(history: History, language: Language, *, refreshing: bool = True) -> WebResponse:
    """Return the page with everything in `history`, in `language`; `refreshing` makes the browser load it again."""
    localizer = Localizer(language, ZoneInfo(history.timezone))
    instance = history.instance
    return html_response(
        HTTPStatus.OK,
        localizer,
        SEVERITIES[history.stage],
        headline(history, localizer),
        template="page.html",
        refresh_s=REFRESH_S if refreshing else None,
        history=history,
        taken_at=history.status.taken_at,
        timezone=history.timezone,
        instance=localizer.quote(instance.name, _MOST_NAME),
        exec_prefix=instance.exec_prefix,
        runbook=lambda topic: runbook_address(topic, language, instance.docs_url),
        cards=cards(history, localizer),
        to_dos=to_dos(history, localizer),
        sources=[source_view(source, history, localizer) for source in history.histories[:MOST_SOURCES]],
        more_sources=", ".join(localizer.quote(source.source) for source in history.histories[MOST_SOURCES:]),
        last_sent={task.source: task.last_success_at for task in history.status.tasks if task.task == "replicate"},
        first_copy={
            one.replica: first_run(due_run(history, "replicate", one.replica), localizer) for one in history.replicas
        },
        first_drill=first_run(due_run(history, "drill"), localizer),
        disk=_disk(history.disk) if history.disk else (),
        disk_width=_DISK_WIDTH,
        drawings=drawings,
        day_words=day_words,
        point_commands=point_commands,
        restore_commands=restore_commands,
        spread_text=spread_text,
    )


def timeout_page(timeout_s: float, language: Language) -> WebResponse:
    """Return the page for a status that was not available within `timeout_s`, which means a hanging disk."""
    localizer = Localizer(language, ZoneInfo("UTC"))
    text = localizer.translate("timeout.text", seconds=f"{timeout_s:g}", minutes=REFRESH_S // 60)
    title = localizer.translate("timeout.title")
    return html_response(HTTPStatus.SERVICE_UNAVAILABLE, localizer, "failure", title, refresh_s=REFRESH_S, text=text)


def error_page(status: HTTPStatus, language: Language) -> WebResponse:
    """Return the page for an error, which anyone may read, with what to do; `status` is one of ERROR_PAGES."""
    localizer = Localizer(language, ZoneInfo("UTC"))
    title, text = (localizer.translate(f"error.{status.value}.{part}") for part in ("title", "text"))
    refresh_s = REFRESH_S if status is HTTPStatus.INTERNAL_SERVER_ERROR else None
    return html_response(status, localizer, ERROR_PAGES[status], title, refresh_s=refresh_s, public=True, text=text)


def _disk(disk: DiskUse) -> tuple[tuple[str, int, float, float], ...]:
    """Return name, size, left edge and width of each part of the bar."""
    other = max(0, disk.total_bytes - disk.free_bytes - disk.stored_bytes)
    parts, x = [], 0.0
    total = max(1, disk.stored_bytes + other + disk.free_bytes)
    for name, size in (("stored", disk.stored_bytes), ("other", other), ("free", disk.free_bytes)):
        width = round(_DISK_WIDTH * size / total, 2)
        parts.append((name, size, x, width))
        x = round(x + width, 2)
    return tuple(parts)
