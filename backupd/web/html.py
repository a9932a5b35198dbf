"""HTML from templates, in the one style of all pages: self-contained, without scripts or requests to other hosts."""

from base64 import b64encode
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from backupd import __version__
from backupd.formatting import human_bytes, human_duration
from backupd.model import Severity
from backupd.web.localizer import Localizer
from backupd.web.responses import WebResponse

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
_COLOURS: Final[dict[Severity, str]] = {
    "success": "#1a7f37",
    "warning": "#9a6700",
    "failure": "#cf222e",
    "info": "#0b5cad",
}
_SIGNS: Final[dict[Severity, str]] = {
    "success": "M4 8.5 7 11.5 12 5",
    "warning": "M8 3.5V9M8 11v2",
    "failure": "M5 5l6 6M11 5l-6 6",
    "info": "M8 4v4.5l3 2",
}


def html_response(
    status: HTTPStatus,
    localizer: Localizer,
    severity: Severity,
    heading: str,
    *,
    template: str = "layout.html",
    directory: Path = _HERE,
    refresh_s: float | None = None,
    **values: object,
) -> WebResponse:
    """Return the page that `template` makes of `values`, which the browser loads again every `refresh_s`.

    The template is in `directory`, and extends `layout.html` of this room, which alone shows `text`.
    """
    icon = "data:image/svg+xml," + quote(_ICON.format(colour=_COLOURS[severity], sign=_SIGNS[severity]))
    refresh = {"refreshing": refresh_s is not None, "every": human_duration(refresh_s or 0)}
    common = {"t": localizer, "translate": localizer.translate, "signs": _SIGNS, "version": __version__, **refresh}
    missing = {"public": False, "instance": "", "exec_prefix": "", "taken_at": None, "json_path": "api/status"}
    html = (
        _environment(directory)
        .get_template(template)
        .render(**common, severity=severity, icon=icon, heading=heading, **{**missing, **values})
    )
    headers = {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Content-Language": localizer.language,
        "Vary": "Accept-Language",
    } | ({"Refresh": f"{refresh_s:g}"} if refresh_s is not None else {})
    return WebResponse(status, "text/html; charset=utf-8", html.encode(), headers)


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


@cache
def _environment(directory: Path) -> Environment:
    loader = FileSystemLoader([directory, _HERE])
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["code"] = _code
    style = Markup(_STYLE)  # noqa: S704 - a file of this package
    made.globals |= {"human_bytes": human_bytes, "human_duration": human_duration, "style": style}
    return made
