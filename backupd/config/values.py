"""What happens to a value on its way into the environment: quotes, blanks and line ends that were not meant."""

import re
from typing import Final

# `docker --env-file` keeps quotes, and what follows them as a comment; shells, compose and systemd remove both.
# Typographic quotes come with what was copied from a page.
_QUOTED: Final = re.compile(
    r"""(["'`])(?P<inner>.*)\1\s*(?:\#.*)?|[\u2018-\u201e\xab].*[\u2018-\u201e\xbb]""", re.DOTALL
)
_QUOTES: Final = (
    "has quotes around its value, which `docker --env-file` does not remove: write it without them, "
    "or where they are part of it"
)
_BLANKS: Final = (
    "has blanks at the beginning or end of its value: remove them, or, where they are part of it, set it in the "
    "configuration file"
)


class Unusable(Exception):
    """What is wrong with one name of the environment; ends up as one line of a ConfigError, and shows no value."""


def plain_value(value: str, *, is_secret: bool, is_command: bool = False) -> str:
    """Return `value` without the blanks and line ends around it; those within stay.

    A secret may have blanks that count: they are refused. Raises Unusable for them, and for quotes around the value;
    a command line may begin and end with quoted words.
    """
    stripped = value.strip()
    found = _QUOTED.fullmatch(stripped)
    if found and not (is_command and found[1] and found[1] in found["inner"]):
        place = "in the file of …_FILE" if is_secret else "in the configuration file"
        raise Unusable(f"{_QUOTES}, {place}")
    return plain_secret(value) if is_secret else stripped


def plain_secret(value: str) -> str:
    """Return a secret without the line ends around it. Raises Unusable where other blanks are: nobody sees them."""
    secret, stripped = value.strip("\r\n"), value.strip()
    if secret == stripped or "\n" in stripped or "://" in stripped:  # no key and no URL ends with one that counts
        return stripped
    raise Unusable(_BLANKS)
