"""The hints of runs in other languages."""

from backupd.web.localizer import Language


def translate_hint(hint: str, language: Language) -> str:
    """Return a hint in `language`; empty where it is not known in that."""
    return hint if language == "en" else ""
