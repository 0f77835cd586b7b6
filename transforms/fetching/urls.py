"""URLs of http(s) as browsers read them: what is asked of which host, and under which name."""

from __future__ import annotations

import base64
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from urllib3.exceptions import LocationValueError
from urllib3.util import Url, parse_url

from transforms.errors import ItemError

_STRIPPED = "".join(map(chr, range(33)))  # at the ends of a URL
_DROPPED = re.compile(r"[\t\r\n]")  # anywhere in a URL
_KEPT = "%/:@!$&'()*+,;=~"  # in a path; quote() itself keeps letters, digits, '_', '.', '-' and '~'
_DOTS = re.compile(r"(?i)/(?:\.|%2e){1,2}(?:/|$)")


class Target(NamedTuple):
    """A URL, taken apart."""

    scheme: str
    host: str
    port: int | None
    url: str  # without userinfo and fragment
    path: str  # with the query, as it is sent
    auth: str | None

    @property
    def authorization(self) -> str | None:
        """The header for the URL's userinfo, if it has one."""
        return "Basic " + base64.b64encode(unquote(self.auth).encode()).decode() if self.auth else None


def parse(url: str) -> Target:
    """Raises ItemError 'bad_uri'."""
    url = with_slashes(_DROPPED.sub("", url.strip(_STRIPPED)))
    try:
        parsed, path = parse_url(url), _path_to_send(url)
    except (LocationValueError, UnicodeError):
        parsed, path = Url(), ""
    if not parsed.host or not parsed.scheme:
        raise ItemError("bad_uri", "not a URL with a host and a valid port")
    bare = f"{parsed.scheme}://{parsed.netloc}{path}"
    return Target(parsed.scheme, parsed.host, parsed.port, bare, path, parsed.auth)


def _path_to_send(url: str) -> str:
    """The path and query as the URL has them, with what must not stand in a request encoded; '%' is left alone.

    As browsers send them, and unlike urllib3, which takes a path with one stray '%' for one with no encoding at all.
    """
    after = url.partition("#")[0].partition("//")[2]
    path, mark, query = after[re.match(r"[^/?]*", after).end() :].partition("?")  # type: ignore[union-attr]
    if _DOTS.search(path):
        path = _resolved(path)
    encoded = quote((path or "/").encode("utf-8", "surrogateescape"), safe=_KEPT)
    return encoded + mark + quote(query.encode("utf-8", "surrogateescape"), safe=_KEPT + "?")


def _resolved(path: str) -> str:
    """A path without its segments '.' and '..' (RFC 3986, 5.2.4), also where their dots are encoded."""
    kept: list[str] = []
    *segments, last = path.split("/")[1:]
    for segment in (*segments, last):
        plain = segment.lower().replace("%2e", ".")
        if plain == "..":
            kept = kept[:-1]
        elif plain != ".":
            kept.append(segment)
    is_folder = last.lower().replace("%2e", ".") in (".", "..")
    return "/" + "/".join(kept) + ("/" if is_folder and kept else "")


def with_slashes(url: str) -> str:
    """A URL with '/' for each backslash before its query, as browsers read it."""
    end = re.search(r"[?#]|$", url).start()  # type: ignore[union-attr]
    return url[:end].replace("\\", "/") + url[end:]
