"""Pictures of the status page and the gate's: every state and error, wide and narrow, light and dark, both languages.

scripts/screenshots            into screenshots/, which git ignores
scripts/screenshots --docs     and two small ones into docs/
"""

import sys
from pathlib import Path

from support.browser import DESK, PHONE, View, running_browser
from support.gate_page import serving_gate_page
from support.gate_states import STATES as GATE_STATES
from support.page_states import STATES
from support.web_site import FakeService, serving

ROOT = Path(__file__).parents[2]
VIEWS = (View(DESK, "light", "en-US"), View(DESK, "dark", "es-CL"), View(PHONE, "light", "es-CL"), View(PHONE, "dark"))
ERRORS = {
    "401": lambda: serving(token="s3cret"),
    "404": serving,
    "500": lambda: serving(FakeService(error=ValueError())),
    "503": lambda: serving(FakeService(hanging=frozenset({"history"})), timeout_s=0.1),
}
FOR_DOCS = (
    ("status-page.webp", "healthy", View(920, "light"), 700),
    ("status-page-phone.webp", "failing", View(PHONE, "dark"), 700),
)


def main(directory: Path, *, docs: bool) -> None:
    """Write all pictures into `directory`."""
    directory.mkdir(exist_ok=True)
    with serving() as context, running_browser() as browser:
        url = f"http://127.0.0.1:{context.server.port}/"
        for state, history in STATES.items():
            context.service.known_history = history()
            for view in VIEWS:
                picture = directory / f"{state}-{view.language[:2]}-{view.colours}-{view.width}.png"
                browser.look(url, view, picture)
                print(picture)
        for state, deploys in GATE_STATES.items():
            with serving_gate_page(deploys) as gate_url:
                for view in VIEWS:
                    picture = directory / f"gate-{state}-{view.language[:2]}-{view.colours}-{view.width}.png"
                    browser.look(gate_url, view, picture)
                    print(picture)
        for name, page in ERRORS.items():
            with page() as site:
                for view in (View(DESK, "light", "en-US", "guess"), View(PHONE, "dark", "es-CL", "guess")):
                    picture = directory / f"{name}-{view.language[:2]}-{view.colours}-{view.width}.png"
                    path = "nowhere" if name == "404" else ""
                    browser.look(f"http://127.0.0.1:{site.server.port}/{path}", view, picture)
                    print(picture)
        for name, state, view, height in FOR_DOCS if docs else ():
            context.service.known_history = STATES[state]()
            browser.look(url, view, ROOT / "docs" / name, height)
            print(ROOT / "docs" / name)


if __name__ == "__main__":
    main(ROOT / "screenshots", docs="--docs" in sys.argv[1:])
