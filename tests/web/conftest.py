"""A server with a fixed status, shared by the tests of a module."""

from collections.abc import Iterator

import pytest

from support.web_site import WebSite, serving


@pytest.fixture(scope="module")
def site() -> Iterator[WebSite]:
    with serving() as site:
        yield site
