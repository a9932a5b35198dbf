"""Text for people: what others wrote must not steer the reader's terminal."""


def printable(text: str) -> str:
    """Return `text` on one line, with line breaks and other control characters escaped."""
    return text if text.isprintable() else repr(text)[1:-1]
