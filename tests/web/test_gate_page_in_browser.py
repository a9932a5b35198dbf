"""The gate's page in a real browser: every state, both languages, both colour schemes, a phone, and the keyboard."""

from dataclasses import replace

import pytest
from playwright.sync_api import Page

from support.browser import DESK, PHONE, Browser, View
from support.gate_page import serving_gate_page
from support.gate_states import STATES, stopped

pytestmark = pytest.mark.no_cover

LOOKS = {
    "none": View(PHONE, "light", "es-CL"),
    "deployed": View(DESK, "dark", "es-CL"),
    "stopped": View(PHONE, "dark", "en-US"),
    "unhealthy": View(DESK, "light", "en-US"),
    "interrupted": View(PHONE, "light", "en-US"),
    "running": View(DESK, "dark", "en-US"),
}
HEADINGS = {
    "none": "Listo: a la espera del primer push",
    "deployed": "tasks: v1.1 está en producción",
    "stopped": "tasks: v1.2 was stopped, production is unchanged",
    "unhealthy": "tasks: v1.2 did not come up",
    "interrupted": "tasks: the deploy of v1.2 was interrupted",
    "running": "tasks: v1.3 is being deployed",
}
BACKGROUNDS = {"light": "rgb(246, 247, 248)", "dark": "rgb(15, 19, 23)"}


@pytest.mark.parametrize("state", STATES)
def test_each_state_of_gate_is_shown_without_browser_errors(browser: Browser, state: str) -> None:
    view = LOOKS[state]
    with serving_gate_page(STATES[state]) as url:
        seen = browser.look(url, view)
    assert (seen.status, seen.heading, seen.language) == (200, HEADINGS[state], view.language[:2])
    assert (seen.complaints, seen.violations) == ((), ())
    assert seen.background == BACKGROUNDS[view.colours]
    assert seen.scroll_width <= view.width, "the page does not scroll sideways"
    assert [url for url in seen.requests if not url.startswith("data:")] == [seen.requests[0]], "the page alone"


def test_hostile_deploy_breaks_neither_page_nor_policy(browser: Browser) -> None:
    nasty = "<script>document.title='owned'</script>\u202e" + "W" * 5_000
    deploy = stopped()
    push = replace(deploy.push, pusher=nasty, ref=f"refs/tags/{nasty}")
    steps = tuple(replace(step, detail=nasty, hint=nasty) for step in deploy.steps)
    with serving_gate_page((replace(deploy, push=push, steps=steps, generations=(nasty,)),), nasty) as url:
        seen = browser.look(url, View(PHONE, "dark", "en-US"))
    assert (seen.complaints, seen.violations) == ((), ())
    assert seen.scroll_width <= PHONE
    assert "<script>document.title='owned'</script>" in seen.text
    assert "\u202e" not in seen.text


def test_output_of_tests_opens_by_keyboard_and_command_is_selected_as_a_whole(browser: Browser) -> None:
    def read(page: Page) -> tuple[bool, bool, str]:
        page.goto(url)
        output = page.locator(".output")
        before = output.is_visible()
        page.locator("summary", has_text="End of the tests' output").focus()
        page.keyboard.press("Enter")
        page.locator("code.run").first.click()
        return before, output.is_visible(), page.evaluate("getSelection().toString()")

    with serving_gate_page(STATES["unhealthy"][:1]) as url:
        before, after, selected = browser.visit(read, View(PHONE))
    assert (before, after, selected) == (False, True, "backupd restore tasks-20261124-1200")
