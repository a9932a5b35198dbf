"""Reads the status page as HTML, and the schema of its JSON."""

import json
from html.parser import HTMLParser
from pathlib import Path

from backupd.status.model import History
from support.web_site import WebSite

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "status.schema.json").read_text())
VOID = {"meta", "link", "br"}


class Reader(HTMLParser):
    """Reads a page, and makes sure that its elements nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes, self._open = "", list[str](), list[tuple[str, str | None]](), list[str]()
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)
        self.text += " " if tag in ("br", "dd") else ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data


def shown(site: WebSite, history: History, language: str = "en") -> Reader:
    site.service.known_history = history
    reply = site.ask("/", Accept_Language=language)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    return Reader(reply.text)
