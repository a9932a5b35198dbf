"""Errors as small pages for whoever asks for HTML; every other client gets them as they are."""

from dataclasses import replace
from typing import Final

from backupd.service.web.answers import Answer
from backupd.service.web.language import LANGUAGES, Language, quality
from backupd.service.web.page import ERROR_PAGES, error_page

# Made beforehand: what keeps the status page from being made must not keep these.
_PAGES: Final = {(status, language): error_page(status, language) for status in ERROR_PAGES for language in LANGUAGES}


def readable(answer: Answer, accept: str, language: Language) -> Answer:
    """Return `answer`, or in its place the page that says the same, where `accept` (RFC 9110 §12.5.1) asks for HTML."""
    page = _PAGES.get((answer.status, language))
    if page is None or not _wants_html(accept):
        return answer
    return replace(page, headers={**answer.headers, **page.headers})


def _wants_html(accept: str) -> bool:
    """Tell whether HTML is asked for by name, as browsers do; `*/*` is what everybody else says."""
    for part in accept.split(","):
        media_type, _, parameters = part.partition(";")
        if media_type.strip().lower() == "text/html":
            return quality(parameters) > 0
    return False
