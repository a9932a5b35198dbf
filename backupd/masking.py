"""Mask secrets in all output: log, catalog, page, messages, pings and terminal.

A secret is masked unchanged, as other programs quote or print it, in upper or lower case, and truncated at the
beginning or end of a text.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, TypeVar
from urllib.parse import quote, quote_plus, unquote_plus, urlsplit

from backupd.formatting import LONGEST_LINE, printable

MASK: Final = "[secret]"
_SHORT: Final = 4  # a secret with fewer characters is masked only where it is a word
_CUT: Final = 12  # so many characters of a secret at the beginning or end of a text are masked as well
_PART: Final = 8  # of a URL
_LONG: Final = 20
_SHORTEST_LINE: Final = 16  # of a key of several lines
_URL: Final = re.compile(
    r"(?:[a-z][a-z0-9-]*:)?(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", re.IGNORECASE | re.DOTALL
)
_HOST: Final = re.compile(r"[a-z0-9.-]+\.[a-z]{2,}", re.IGNORECASE)
_KEY_NAME: Final = re.compile(r"key|token|secret|pass|auth|sig|credential", re.IGNORECASE)
# Secrets of others, which backupd does not know, in the output of commands and in the errors of services.
_USERINFO: Final = re.compile(r"(?<=://)([^\s/:@?#]{0,256}):[^\s/]{1,1024}@")
_TOKEN_AS_USER: Final = re.compile(r"(?<=://)[^\s/:@?#]{20,1024}@")
_HEADER: Final = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-(?:api-key|auth-token)|private-token)(['\"]?: ?['\"]?)[^\r\n'\"]+",
    re.IGNORECASE,
)
_IN_HTML: Final = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;", ord("'"): "&#x27;"}
_Value = TypeVar("_Value")


class Mask:
    """Masks `secrets`, of a secret that is a URL also the parts that look secret, and the queries of other `urls`."""

    def __init__(self, secrets: Iterable[str] = (), urls: Iterable[str] = ()) -> None:
        known = [secret for secret in secrets if secret.strip()]
        parts = {part for secret in known for part in _parts(secret)}
        parts.update(part for url in urls for part in _query_parts(url.partition("?")[2]))
        without_scheme = (url["rest"] for secret in known if (url := _URL.fullmatch(secret.strip())))
        forms = {form.lower() for word in (*known, *without_scheme, *parts) for form in _forms(word)}
        self._forms = tuple(sorted(forms, key=len, reverse=True))
        self._pattern = re.compile("|".join(map(_pattern, self._forms)), re.IGNORECASE) if forms else None
        self._long = tuple(part.lower() for part in parts if len(part) > _CUT)

    def __call__(self, text: str) -> str:
        """Return `text` with every secret in it masked."""
        if "://" in text:
            text = _TOKEN_AS_USER.sub(f"{MASK}@", _USERINFO.sub(rf"\1:{MASK}@", text))
        if ":" in text:
            text = _HEADER.sub(rf"\1\2{MASK}", text)
        if self._pattern is None:
            return text
        lower = text.lower()
        if any(form in lower for form in self._forms):
            text = self._pattern.sub(MASK, text)
        return self._without_cut(text)

    def of(self, value: _Value) -> _Value:
        """Return `value` with every text in it masked: a mapping, sequence, set or dataclass, at any depth."""
        return self._of(value)  # type: ignore[no-any-return]

    def _of(self, value: Any) -> Any:  # noqa: ANN401 - a value of any type comes out as the same type
        if isinstance(value, str):
            return value if type(value) is not str else self(value)  # an enumeration is no foreign text
        if isinstance(value, Mapping):
            return {self._of(key): self._of(item) for key, item in value.items()}
        if isinstance(value, tuple | list | set | frozenset):
            return type(value)(map(self._of, value))
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{one.name: self._of(getattr(value, one.name)) for one in fields(value) if one.init})
        return value

    def _without_cut(self, text: str) -> str:
        """Mask the first or last part of a secret at the end or beginning of `text`: it was cut there."""
        for part in self._long:
            lower = text.lower()
            if len(lower) != len(text):
                return text
            begin = lower.rfind(part[:_CUT], max(0, len(lower) - len(part)))
            if begin >= 0 and part.startswith(lower[begin:]):
                text = text[:begin] + MASK
            end = lower.find(part[-_CUT:], 0, len(part))
            if end >= 0 and part.endswith(lower[: end + _CUT]):
                text = MASK + text[end + _CUT :]
        return text


def without_secrets(text: str, url: str) -> str:
    """Return the beginning of `text` in one line, with every part of `url` masked, also those that look harmless."""
    scheme, _, rest = url.partition("://")
    parts = [part for marks in (r"[/:@?&=,;#\s]+", r"[/:@?&=,;#\s+]+") for part in re.split(marks, rest or scheme)]
    plain = {rest, *parts, *map(unquote_plus, parts)}
    forms = {form for word in plain for form in _forms(word) if len(form) >= _SHORT}
    longest_first = sorted(forms, key=len, reverse=True)
    if longest_first:
        text = re.sub("|".join(map(re.escape, longest_first)), MASK, text, flags=re.IGNORECASE)
    return " ".join(text.split())[:LONGEST_LINE]


def _parts(secret: str) -> Iterator[str]:
    """Yield what is secret by itself: the whole, in one line as well, each long line of a key, and parts of a URL."""
    if url := _URL.fullmatch(secret.strip()):
        for part in _url_parts(url["scheme"].lower(), url["rest"]):
            yield from (part, unquote_plus(part))
        return
    yield from (secret.strip(), " ".join(secret.split()))
    lines = [line.strip() for line in secret.splitlines()]
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= _SHORTEST_LINE and not line.startswith("-----"))


def _url_parts(scheme: str, rest: str) -> Iterator[str]:
    """Yield what looks secret in a URL: passwords, keys, and what is neither a word nor the name of a host."""
    is_web = scheme in ("http", "https")
    try:
        parts = urlsplit(f"//{rest}")
        password, query = parts.password, parts.query
    except ValueError:
        password, query = None, ""
    if password and len(password) >= _SHORT:
        yield password
    yield from _query_parts(query)
    pieces = re.split(r"[/:@?&=,;#\s]+", rest)
    yield from (piece for piece in pieces[is_web:] if _looks_secret(piece, is_web=is_web))


def _query_parts(query: str) -> Iterator[str]:
    """Yield the query of a URL, which may contain a key, and those of its values that are keys."""
    if len(query) >= _SHORT:
        yield from (query, unquote_plus(query))
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if len(value) >= _PART or (len(value) >= _SHORT and _KEY_NAME.search(name)):
            yield from (value, unquote_plus(value))


def _looks_secret(piece: str, *, is_web: bool) -> bool:
    if len(piece) < _PART or _HOST.fullmatch(piece):
        return False
    mixed = any(map(str.isdigit, piece)) or (piece != piece.lower() and piece != piece.upper())
    return mixed or len(piece) >= _LONG or not (is_web or piece.isalpha())


def _forms(word: str) -> set[str]:
    """Return `word` as programs write it: as it is, escaped in JSON, Python, a shell, HTML and URLs."""
    as_json = {json.dumps(word)[1:-1], json.dumps(word, ensure_ascii=False)[1:-1]}
    quoted = {quote(word, errors="replace"), quote(word, "", errors="replace"), quote_plus(word, errors="replace")}
    in_shell = word.replace("'", "'\"'\"'")
    return {word, printable(word), repr(word)[1:-1], in_shell, word.translate(_IN_HTML)} | as_json | quoted


def _pattern(form: str) -> str:
    return re.escape(form) if len(form) >= _SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"
