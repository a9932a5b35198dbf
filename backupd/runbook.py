"""The address of the runbook's section on a topic, to which the page, messages and the terminal link."""

from typing import Final, Literal

# Where the project publishes docs/: Documentation under [project.urls].
DOCS_URL: Final = "https://example.com/backupd/src/branch/main/docs"
_PAGES: Final = {"en": "runbook.md", "es": "runbook.es.md"}

# Each is an anchor in the runbook, in both languages.
Topic = Literal[
    "restore",
    "whole-app",
    "keys",
    "unhealthy",
    "source-unusable",
    "pruning-held",
    "backup-too-old",
    "replica-too-old",
    "drill-too-old",
    "never-succeeded",
    "clock-wrong",
    "runs-failing",
    "runs-degraded",
    "generation-damaged",
    "free-space",
    "undelivered",
    "catalog-broken",
    "deploy",
]


def runbook_address(topic: Topic, language: Literal["en", "es"] = "en", docs_url: str = DOCS_URL) -> str:
    """Return the absolute address of the section on `topic`, in `language`, below `docs_url` (setting `docs_url`)."""
    return f"{docs_url}/{_PAGES[language]}#{topic}"
