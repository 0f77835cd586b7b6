"""X-Robots-Tag: a publisher's restrictions on the use of an image."""

from __future__ import annotations

from collections.abc import Iterable

_OPT_OUT = frozenset(("noai", "noimageai", "noindex", "noimageindex", "none"))  # 'none' is noindex, nofollow
_WITH_VALUE = frozenset(("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"))


def opt_out(headers: Iterable[str], agent: str) -> str | None:
    """The first directive that forbids this use, or None.

    Args:
      headers: the values of all X-Robots-Tag headers.
      agent: our product token; a rule `token: directive, ...` applies only to the crawler it names.
    """
    for header in headers:
        applies = True
        for part in header.lower().split(","):
            name, colon, rest = part.partition(":")
            if colon and name.strip() not in _WITH_VALUE:
                applies = name.strip() == agent.lower()
                part = rest
            directive = part.strip()
            if applies and directive in _OPT_OUT:
                return directive
    return None
