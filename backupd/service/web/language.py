"""Which of our languages a browser asks for."""

from typing import Final, Literal

Language = Literal["en", "es"]

LANGUAGES: Final[tuple[Language, ...]] = ("en", "es")
_MOST_CHARACTERS: Final = 1000


def choose_language(accept_language: str) -> Language:
    """Return the language of ours that an Accept-Language header (RFC 9110 §12.5.4) likes best; English by default."""
    best: Language = LANGUAGES[0]
    best_quality = 0.0
    for part in accept_language[:_MOST_CHARACTERS].split(","):
        tag, _, parameters = part.partition(";")
        likes = quality(parameters)
        wanted = tag.strip().lower().partition("-")[0]
        for language in LANGUAGES:
            if likes > best_quality and wanted in (language, "*"):
                best, best_quality = language, likes
    return best


def quality(parameters: str) -> float:
    """Return how much something is wanted, 0 to 1, by what stands behind it (RFC 9110 §12.4.2); 0 for nonsense."""
    name, _, value = parameters.strip().partition("=")
    if not name.strip():
        return 1.0
    try:
        found = float(value)
    except ValueError:
        return 0.0
    return found if name.strip().lower() == "q" and 0 <= found <= 1 else 0.0
