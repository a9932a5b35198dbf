"""Whom messages go to: Apprise URLs, which are secrets from end to end."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}(?=://)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Channel:
    """One Apprise URL; `key` stands for it where it has to be remembered which channels have taken a message.

    `place` is its number among all, where the service alone does not tell which one it is.
    """

    key: str
    url: str = field(repr=False)
    place: int | None = field(default=None, compare=False)

    @classmethod
    def of(cls, url: str) -> "Channel":
        """Return the channel behind `url`."""
        return cls(sha256(url.encode(errors="replace")).hexdigest()[:16], url)

    @property
    def masked(self) -> str:
        """The service alone, such as `tgram://[secret]`: with some services host or path is the secret."""
        scheme = _SCHEME.match(self.url)
        shown = f"{scheme[0].lower()}://[secret]" if scheme else "[secret]"
        return f"{shown} (URL {self.place})" if self.place else shown


def channels_of(urls: Iterable[str]) -> tuple[Channel, ...]:
    """Return each channel once; those that look the same have a number."""
    channels = tuple({channel.key: channel for channel in map(Channel.of, urls)}.values())
    looks = Counter(channel.masked for channel in channels)
    numbered = enumerate(channels, start=1)
    return tuple(replace(one, place=place if looks[one.masked] > 1 else None) for place, one in numbered)
