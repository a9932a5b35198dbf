"""Whom messages go to: Apprise URLs, which are secrets from end to end."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}(?=://)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Channel:
    """One Apprise URL; `key` stands for it where it has to be remembered which channels have taken a message."""

    key: str
    url: str = field(repr=False)

    @classmethod
    def of(cls, url: str) -> "Channel":
        """Return the channel behind `url`."""
        return cls(sha256(url.encode(errors="replace")).hexdigest()[:16], url)

    @property
    def masked(self) -> str:
        """The service alone, such as `tgram://[secret]`: with some services host or path is the secret."""
        scheme = _SCHEME.match(self.url)
        return f"{scheme[0].lower()}://[secret]" if scheme else "[secret]"


def channels_of(urls: Iterable[str]) -> tuple[Channel, ...]:
    """Return each channel once."""
    return tuple({channel.key: channel for channel in map(Channel.of, urls)}.values())
