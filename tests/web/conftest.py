"""A server with a fixed status, shared by the tests of a module, and a browser, shared by all."""

from collections.abc import Iterator

import pytest

from support.browser import Browser, running_browser
from support.web_site import WebSite, serving


@pytest.fixture(scope="module")
def site() -> Iterator[WebSite]:
    with serving() as site:
        yield site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser
