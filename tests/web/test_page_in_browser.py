"""The page in a real browser: every state, both languages, both colour schemes, a phone, and a wrong token."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Page, Route

from support.browser import DESK, PHONE, AppVersion, Browser, View
from support.page_states import INSTANCE, STATES, healthy
from support.web_site import FakeService, WebSite, serving

pytestmark = pytest.mark.no_cover

TOKEN = "s3cret"
HEADINGS = {
    "healthy": ("Everything is up to date", "Todo está al día"),
    "degraded": (
        "The last copy to offsite failed · 1 more below",
        "Falló el último envío a offsite · 1 más abajo",
    ),
    "failing": ("The database of tasks is missing · 2 more below", "Falta la base tasks · 2 más abajo"),
    "empty": ("No copy is left to restore", "No queda ninguna copia para restaurar"),
    "first-day": (
        "The first backup starts within two minutes",
        "La primera copia empieza en menos de dos minutos",
    ),
}
LOOKS = {  # between them each width is seen in each language and in each scheme
    "healthy": (View(DESK, "light", "en-US"), View(PHONE, "dark", "es-CL")),
    "degraded": (View(DESK, "dark", "es-CL"), View(PHONE, "light", "en-US")),
    "failing": (View(DESK, "light", "es-CL"), View(PHONE, "dark", "en-US")),
    "empty": (View(DESK, "dark", "en-US"), View(PHONE, "light", "es-CL")),
    "first-day": (View(DESK, "light", "en-US"), View(PHONE, "dark", "es-CL")),
}
PHONE_VIEW = View(PHONE, "dark", "en-US")
BACKGROUNDS = {"light": "rgb(246, 247, 248)", "dark": "rgb(15, 19, 23)"}


@pytest.fixture(scope="module")
def site() -> Iterator[WebSite]:
    with serving() as site:
        yield site


def address(site: WebSite, path: str = "/") -> str:
    return f"http://127.0.0.1:{site.server.port}{path}"


def assert_as_it_should_be(seen: AppVersion, view: View) -> None:
    assert seen.status == 200
    assert seen.complaints == (), "among them would be what the policy forbids"
    assert seen.violations == (), "axe"
    assert seen.background == BACKGROUNDS[view.colours]
    assert seen.scroll_width <= view.width, "nobody scrolls sideways"
    assert [url for url in seen.requests if not url.startswith("data:")] == [seen.requests[0]], "the page alone"


@pytest.mark.parametrize(
    ("state", "view"), [(state, view) for state, views in LOOKS.items() for view in views], ids=str
)
def test_each_state_is_shown_without_browser_errors(browser: Browser, site: WebSite, state: str, view: View) -> None:
    site.service.known_history = STATES[state]()
    seen = browser.look(address(site), view)
    assert_as_it_should_be(seen, view)
    assert seen.heading == f"{HEADINGS[state][view.language.startswith('es')]} {INSTANCE.name}"
    assert seen.language == view.language[:2]


def test_long_or_hostile_text_breaks_neither_page_nor_policy(browser: Browser, site: WebSite) -> None:
    nasty = "<script>document.title='owned'</script>\u202e" + "W" * 5000
    history = healthy()
    source_history = history.histories[0]
    generation = replace(source_history.generations[0], id=nasty, stores=(nasty,), kept_for=(nasty,))
    source_history = replace(source_history, source=nasty, generations=(generation,))
    drill = replace(history.drills[0], subject=nasty, error=nasty, stages={nasty: 1.0})
    line = replace(history.log[0], message=nasty)
    site.service.known_history = replace(history, histories=(source_history,), drills=(drill,), log=(line,))
    seen = browser.look(address(site), PHONE_VIEW)
    assert_as_it_should_be(seen, PHONE_VIEW)
    assert "<script>document.title='owned'</script>" in seen.text
    assert "\u202e" not in seen.text


def test_hanging_disk_is_reported(browser: Browser) -> None:
    with serving(FakeService(hanging=frozenset({"history"})), timeout_s=0.1) as site:
        seen = browser.look(address(site))
    assert (seen.status, seen.heading) == (503, "The disk does not respond")
    assert seen.violations == ()


def test_token_opens_page_and_wrong_one_does_not(browser: Browser) -> None:
    with serving(token=TOKEN) as site:
        right = browser.look(address(site), View(token=TOKEN))
        wrong = browser.look(address(site), View(token="guess"))
    assert (right.status, right.heading) == (200, f"{HEADINGS['healthy'][0]} {INSTANCE.name}")
    assert (wrong.status, wrong.heading, wrong.violations) == (401, "Token required", ())
    assert "This page requires the token of backupd" in wrong.text
    assert "tasks" not in wrong.text


def test_errors_are_pages_in_language_of_browser(browser: Browser) -> None:
    with serving(FakeService(error=ValueError("hunter2"))) as site:
        missing = browser.look(address(site, "/nothing/here"), View(PHONE, "dark", "es-CL"))
        broken = browser.look(address(site), View(DESK, "light", "en-US"))
    assert (missing.status, missing.heading, missing.language) == (404, "Página no encontrada", "es")
    assert (broken.status, broken.heading, broken.language) == (500, "Internal error", "en")
    assert missing.violations == broken.violations == ()
    assert missing.background == BACKGROUNDS["dark"], "its style sheet is allowed"
    assert "hunter2" not in broken.text


def test_refresh_of_page_keeps_scroll_position(browser: Browser, site: WebSite) -> None:
    site.service.known_history = healthy()

    def sooner(route: Route) -> None:
        reply = route.fetch()
        assert int(reply.headers["refresh"]) > 1
        route.fulfill(response=reply, headers={**reply.headers, "refresh": "1"})

    def read(page: Page) -> tuple[float, float]:
        page.route("**/", sooner)
        page.goto(address(site))
        page.evaluate("scrollTo(0, 900)")
        before: float = page.evaluate("scrollY")
        with page.expect_navigation(timeout=60_000):
            pass
        page.wait_for_function("scrollY > 0")
        return before, page.evaluate("scrollY")

    assert browser.visit(read) == (900, 900)


def test_chart_values_are_reachable_by_keyboard_and_charts_can_be_skipped(browser: Browser, site: WebSite) -> None:
    site.service.known_history = healthy()

    def read(page: Page) -> tuple[str, str, str, str]:
        page.goto(address(site))
        page.locator(".skip").first.focus()
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.querySelector('title').textContent")
        shown = page.locator(".spot:focus text").evaluate("spot => getComputedStyle(spot).opacity")
        hidden = page.locator(".spot text").last.evaluate("spot => getComputedStyle(spot).opacity")
        page.locator(".skip").first.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        return name, shown, hidden, page.evaluate("document.activeElement.textContent")

    name, shown, hidden, after = browser.visit(read)
    assert ": database " in name
    assert (shown, hidden) == ("1", "0")
    assert after == "Runbook", "of the generations below the charts"


def test_command_of_generation_is_selected_as_a_whole(browser: Browser, site: WebSite) -> None:
    site.service.known_history = healthy()

    def copy(page: Page) -> tuple[str, str]:
        page.goto(address(site))
        summary = page.locator(".generations summary").first
        summary.focus()
        page.keyboard.press("Enter")
        command = page.locator(".generations [open] .command").first
        command.click()
        return command.inner_text(), page.evaluate("getSelection().toString()")

    command, selected = browser.visit(copy, View(PHONE))
    newest = healthy().histories[0].generations[0].id
    assert command == selected == f"{INSTANCE.exec_prefix}backupd restore {newest}"
