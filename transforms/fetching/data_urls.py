"""URLs that hold the image themselves (RFC 2397), and the short name that stands for one of them."""

from __future__ import annotations

import base64
import hashlib
import re
from urllib.parse import unquote_to_bytes

_BASE64 = re.compile(r"(?i); *base64\s*$")
_SHORT = re.compile(r"data:(?:malformed:)?sha256:[0-9a-f]{64}")
_DIGITS = re.compile(rb"[A-Za-z0-9+/]*")
_BLANKS = b" \t\r\n\f"


def decode(url: str) -> bytes:
    """The bytes in a data: URL, read as browsers do. Raises ValueError, whose message does not quote it."""
    head, comma, body = url.partition(",")
    if not comma:
        raise ValueError("a data: URL without a comma")
    media_type = head.partition(":")[2]
    data = body.partition("#")[0].rstrip().encode("utf-8", "surrogateescape")
    data = unquote_to_bytes(data) if b"%" in data else data
    if not _BASE64.search(media_type):
        return data
    data = data.translate(bytes.maketrans(b"-_", b"+/"), _BLANKS)
    digits = data.rstrip(b"=")
    if not _DIGITS.fullmatch(digits) or len(digits) % 4 == 1:
        raise ValueError("a data: URL that is not base64")
    return base64.b64decode(digits + b"=" * (-len(digits) % 4))


def short(url: str) -> str:
    """`data:sha256:HEX` of the image's bytes, or `data:malformed:sha256:HEX` of a URL that holds none. Never raises."""
    if _SHORT.fullmatch(url.strip()):
        return url.strip()
    try:
        return f"data:sha256:{hashlib.sha256(decode(url)).hexdigest()}"
    except ValueError:
        return f"data:malformed:sha256:{hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()}"
