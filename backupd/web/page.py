"""`/`: one page for people, rendered here, complete in itself: no script, no image, no request to anywhere."""

from base64 import b64encode
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from backupd import __version__
from backupd.status.model import DiskUse, History
from backupd.web import calendar_view, chart
from backupd.web.localizer import Localizer
from backupd.web.responses import Answer
from backupd.web.source_view import MOST_SOURCES, day_words, source_view
from backupd.web.summary_cards import Mood, cards, mood_of, to_dos
from backupd.web.translations import Language

_HERE: Final = Path(__file__).parent
_STYLE: Final = (_HERE / "page.css").read_text()
_STYLE_HASH: Final = b64encode(sha256(_STYLE.encode()).digest()).decode()
# The icon in the browser's tab is the only image, and is in the page; nothing else is fetched, run, sent or framed.
CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="8" fill="{colour}"/>'
    '<path d="{sign}" fill="none" stroke="#fff" stroke-width="2"/></svg>'
)
_COLOURS: Final[dict[Mood, str]] = {"good": "#1a7f37", "warn": "#9a6700", "bad": "#cf222e"}
_SIGNS: Final[dict[Mood, str]] = {
    "good": "M4 8.5 7 11.5 12 5",
    "warn": "M8 3.5V9M8 11v2",
    "bad": "M5 5l6 6M11 5l-6 6",
}
_DISK_WIDTH: Final = 460
ERROR_PAGES: Final[dict[HTTPStatus, Mood]] = {
    HTTPStatus.UNAUTHORIZED: "warn",
    HTTPStatus.FORBIDDEN: "warn",
    HTTPStatus.NOT_FOUND: "warn",
    HTTPStatus.INTERNAL_SERVER_ERROR: "bad",
}


def page_answer(survey: History, language: Language) -> Answer:
    """Answer with all that `survey` tells, in one of our languages."""
    tongue = Localizer(language, ZoneInfo(survey.timezone))
    mood = mood_of(survey)
    shown = survey.histories[:MOST_SOURCES]
    return _html(
        HTTPStatus.OK,
        tongue,
        mood,
        survey=survey,
        heading=tongue.say(f"stage.{survey.stage}"),
        cards=cards(survey, tongue),
        to_dos=to_dos(survey, tongue),
        sources=[source_view(history, tongue) for history in shown],
        more_sources=", ".join(tongue.quote(history.source) for history in survey.histories[MOST_SOURCES:]),
        last_sent={task.source: task.last_success_at for task in survey.status.tasks if task.task == "replicate"},
        disk=_disk(survey.disk) if survey.disk else (),
        disk_width=_DISK_WIDTH,
    )


def late_page(patience_s: float, language: Language) -> Answer:
    """Answer that the disk has not answered for so long."""
    tongue = Localizer(language, ZoneInfo("UTC"))
    text = tongue.say("late.text", patience=f"{patience_s:g}")
    return _html(HTTPStatus.SERVICE_UNAVAILABLE, tongue, "bad", heading=tongue.say("late.title"), text=text)


def error_page(status: HTTPStatus, language: Language) -> Answer:
    """Answer, to strangers as well, that there is no page for them, and what to do; `status` is one of ERROR_PAGES."""
    tongue = Localizer(language, ZoneInfo("UTC"))
    title, text = (tongue.say(f"error.{status.value}.{part}") for part in ("title", "text"))
    return _html(status, tongue, ERROR_PAGES[status], stranger=True, heading=title, text=text)


def _html(status: HTTPStatus, tongue: Localizer, mood: Mood, **values: object) -> Answer:
    template = _ENVIRONMENT.get_template("page.html")
    icon = "data:image/svg+xml," + quote(_ICON.format(colour=_COLOURS[mood], sign=_SIGNS[mood]))
    told = {"survey": None, "stranger": False, **values}
    html = template.render(t=tongue, say=tongue.say, mood=mood, icon=icon, signs=_SIGNS, version=__version__, **told)
    headers = {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Content-Language": tongue.language,
        "Vary": "Accept-Language",
    }
    return Answer(status, "text/html; charset=utf-8", html.encode(), headers)


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


def _code(text: str) -> Markup:
    """Return a phrase with what stands between backticks as code; all of it escaped."""
    parts = text.split("`")
    pieces = (Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts))
    return Markup("").join(pieces)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    helpers: dict[str, Any] = {"day_words": day_words, "chart": chart, "calendar_view": calendar_view}
    environment.globals.update(helpers, style=Markup(_STYLE))  # noqa: S704 - the file beside us, nobody's input
    return environment


_ENVIRONMENT: Final = _environment()
