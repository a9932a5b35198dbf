"""JSON that has only one meaning, which whoever signed or checked it saw too."""

import json
from typing import Any


def read_object(body: bytes) -> dict[str, Any]:
    """Return the object in `body`; no key is there twice, and numbers are those of JSON.

    Raises ValueError with what is wrong, which quotes nothing of the body.
    """
    try:
        found = json.loads(body.decode(), object_pairs_hook=_distinct, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:  # also of bytes that are not UTF-8, and of numbers with thousands of digits
        raise ValueError("it is not JSON, or has a key twice") from None
    if not isinstance(found, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - as for any other content
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key twice")
    return found


def _refuse(name: str) -> object:
    raise ValueError(name)
