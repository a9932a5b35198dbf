"""Reads the status page as HTML, and the schema of its JSON."""

import json
from pathlib import Path

from backupd.status.model import History
from support.html_reader import Reader
from support.web_site import WebSite

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "status.schema.json").read_text())


def shown(site: WebSite, history: History, language: str = "en") -> Reader:
    site.service.known_history = history
    reply = site.ask("/", Accept_Language=language)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    return Reader(reply.text)
