"""A real browser: Debian's chromium, headless, driven by Playwright in a thread of its own.

In a thread, since Playwright's loop must not be that of the tests, some of which run loops themselves.
"""

import os
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import playwright.sync_api as playwright
from axe_playwright_python.sync_playwright import Axe

# As root chromium has no sandbox, and in a container little shared memory; what it shows comes from this machine alone.
_ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars")
PHONE, DESK = 360, 1100
T = TypeVar("T")


@dataclass(frozen=True)
class View:
    """How to look: through which window, in which colours and language, with which token."""

    width: int = DESK
    colours: Literal["light", "dark"] = "light"
    language: str = "en-US"
    token: str | None = None


@dataclass(frozen=True)
class AppVersion:
    """What was seen: `complaints` are the console's, `violations` axe's, `requests` all that was asked for."""

    status: int
    language: str
    text: str
    heading: str
    background: str
    scroll_width: int
    complaints: tuple[str, ...]
    violations: tuple[str, ...]
    requests: tuple[str, ...]


class Browser:
    """One browser, for all who look one after the other."""

    def __init__(self, chromium: playwright.Browser, thread: ThreadPoolExecutor) -> None:
        self._chromium, self._thread, self._axe = chromium, thread, Axe()

    def look(self, url: str, view: View = View(), picture: Path | None = None, height: int | None = None) -> AppVersion:
        """Open `url` as `view` says and tell what is there; with `picture` write it there, `height` pixels or all."""
        return self._thread.submit(self._look, url, view, picture, height).result(120)

    def visit(self, act: Callable[[playwright.Page], T], view: View = View()) -> T:
        """Lend an empty page to `act`, seen as `view` says, and return what that returns."""

        def visited() -> T:
            context = self._chromium.new_context(viewport={"width": view.width, "height": 800}, locale=view.language)
            try:
                return act(context.new_page())
            finally:
                context.close()

        return self._thread.submit(visited).result(120)

    def _look(self, url: str, view: View, picture: Path | None, height: int | None) -> AppVersion:
        credentials: Any = {"username": "anyone", "password": view.token} if view.token is not None else None
        context = self._chromium.new_context(
            viewport={"width": view.width, "height": height or 800},
            color_scheme=view.colours,
            locale=view.language,
            http_credentials=credentials,
        )
        try:
            page = context.new_page()
            complaints, requests = list[str](), list[str]()
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda request: requests.append(request.url))
            response = page.goto(url)
            assert response is not None
            told = _page_facts(page)
            if picture:
                _save(page, picture, whole=height is None)
            violations = self._axe.run(page).response["violations"]
            return AppVersion(
                status=response.status,
                complaints=tuple(complaints),
                requests=tuple(requests),
                violations=tuple(f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in violations),
                **told,
            )
        finally:
            context.close()


def _save(page: playwright.Page, picture: Path, *, whole: bool) -> None:
    if picture.suffix != ".webp":
        page.screenshot(path=picture, full_page=whole)
        return
    session = page.context.new_cdp_session(page)
    answer = session.send("Page.captureScreenshot", {"format": "webp", "quality": 82, "captureBeyondViewport": whole})
    picture.write_bytes(b64decode(answer["data"]))


def _page_facts(page: playwright.Page) -> dict[str, Any]:
    told: dict[str, Any] = page.evaluate(
        """() => ({
            language: document.documentElement.lang,
            text: document.body.innerText,
            heading: document.querySelector("h1")?.innerText.trim() ?? "",
            background: getComputedStyle(document.body).backgroundColor,
            scroll_width: document.documentElement.scrollWidth,
        })"""
    )
    return told


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Lend a browser while the block runs."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "there is no chromium: scripts/test installs it"
    with ThreadPoolExecutor(1, "browser") as thread:
        driver = thread.submit(lambda: playwright.sync_playwright().start()).result(60)
        try:
            environ = {**os.environ, "LANG": "C.UTF-8"}
            chromium = thread.submit(
                driver.chromium.launch, executable_path=program, args=list(_ARGUMENTS), env=environ
            ).result(120)
            yield Browser(chromium, thread)
            thread.submit(chromium.close).result(60)
        finally:
            thread.submit(driver.stop).result(60)
