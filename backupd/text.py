"""Text that others wrote, made fit for a terminal."""


def printable(text: str) -> str:
    """Return `text` with control characters escaped: what others wrote must not steer the reader's terminal."""
    return text if text.isprintable() else repr(text)[1:-1]
