"""The status page `/`: self-contained HTML without scripts or requests to other hosts."""

from base64 import b64encode
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from backupd import __version__
from backupd.formatting import human_bytes, human_duration
from backupd.model import Severity
from backupd.runbook import runbook_address
from backupd.status.model import DiskUse, History
from backupd.web import drawings
from backupd.web.localizer import Language, Localizer
from backupd.web.page_view import MOST_SOURCES, SEVERITIES, cards, day_words, restore_commands, source_view
from backupd.web.responses import WebResponse
from backupd.web.verdict import due_run, first_run, headline, to_dos

_HERE: Final = Path(__file__).parent
_STYLE: Final = (_HERE / "page.css").read_text()
_STYLE_HASH: Final = b64encode(sha256(_STYLE.encode()).digest()).decode()
# The icon of the tab is the only image, as data in the page; nothing else is fetched, run, sent or framed.
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="8" fill="{colour}"/>'
    '<path d="{sign}" fill="none" stroke="#fff" stroke-width="2"/></svg>'
)
_COLOURS: Final[dict[Severity, str]] = {"success": "#1a7f37", "warning": "#9a6700", "failure": "#cf222e"}
_SIGNS: Final[dict[Severity, str]] = {
    "success": "M4 8.5 7 11.5 12 5",
    "warning": "M8 3.5V9M8 11v2",
    "failure": "M5 5l6 6M11 5l-6 6",
}
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
    return _html(
        HTTPStatus.OK,
        localizer,
        SEVERITIES[history.stage],
        refreshing=refreshing,
        history=history,
        instance=localizer.quote(instance.name, _MOST_NAME),
        exec_prefix=instance.exec_prefix,
        runbook=lambda topic: runbook_address(topic, language, instance.docs_url),
        heading=headline(history, localizer),
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
    )


def timeout_page(timeout_s: float, language: Language) -> WebResponse:
    """Return the page for a status that was not available within `timeout_s`, which means a hanging disk."""
    localizer = Localizer(language, ZoneInfo("UTC"))
    text = localizer.translate("timeout.text", seconds=f"{timeout_s:g}", minutes=REFRESH_S // 60)
    return _html(
        HTTPStatus.SERVICE_UNAVAILABLE,
        localizer,
        "failure",
        refreshing=True,
        heading=localizer.translate("timeout.title"),
        text=text,
    )


def error_page(status: HTTPStatus, language: Language) -> WebResponse:
    """Return the page for an error, which anyone may read, with what to do; `status` is one of ERROR_PAGES."""
    localizer = Localizer(language, ZoneInfo("UTC"))
    title, text = (localizer.translate(f"error.{status.value}.{part}") for part in ("title", "text"))
    passing = status is HTTPStatus.INTERNAL_SERVER_ERROR
    return _html(status, localizer, ERROR_PAGES[status], refreshing=passing, public=True, heading=title, text=text)


def _html(
    status: HTTPStatus, localizer: Localizer, severity: Severity, *, refreshing: bool = False, **values: object
) -> WebResponse:
    template = _ENVIRONMENT.get_template("page.html")
    icon = "data:image/svg+xml," + quote(_ICON.format(colour=_COLOURS[severity], sign=_SIGNS[severity]))
    common = {"t": localizer, "translate": localizer.translate, "signs": _SIGNS, "version": __version__}
    missing = {"history": None, "public": False, "instance": "", "exec_prefix": ""}
    html = template.render(**common, severity=severity, icon=icon, refreshing=refreshing, **{**missing, **values})
    headers = {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Content-Language": localizer.language,
        "Vary": "Accept-Language",
    } | ({"Refresh": str(REFRESH_S)} if refreshing else {})
    return WebResponse(status, "text/html; charset=utf-8", html.encode(), headers)


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


@pass_context
def _code(context: Context, text: str) -> Markup:
    """Return a text, escaped, with the parts between backticks as code; a command as it is run in this container."""
    plain, command = Markup("<code>{}</code>"), Markup('<code class="run">{}{}</code>')
    pieces = (
        escape(part)
        if index % 2 == 0
        else command.format(context["exec_prefix"], part)
        if part.startswith("backupd ")
        else plain.format(part)
        for index, part in enumerate(text.split("`"))
    )
    return Markup("").join(pieces)


_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters["code"] = _code
_ENVIRONMENT.globals |= {
    "day_words": day_words,
    "drawings": drawings,
    "human_bytes": human_bytes,
    "human_duration": human_duration,
    "refresh_min": REFRESH_S // 60,
    "restore_commands": restore_commands,
    "style": Markup(_STYLE),  # noqa: S704 - a file of this package
}
