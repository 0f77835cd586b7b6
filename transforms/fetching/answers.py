"""Reads the head of an HTTP answer as browsers do, where http.client would give up or misread it."""

from __future__ import annotations

import http.client
from typing import Any

_SWITCHING_PROTOCOLS = 101


class Answer(http.client.HTTPResponse):
    """An answer whose interim answers, such as 103 Early Hints, and malformed header lines are passed over."""

    def begin(self) -> None:
        """Reads up to the body."""
        if self.headers is not None:
            return
        below: Any = self.fp
        self.fp = lines = _HeaderLines(below)
        try:
            super().begin()
        finally:
            if self.fp is lines:
                self.fp = below
        if not self.chunked and _is_chunked(self.headers):
            self.chunked, self.chunk_left, self.length = True, None, None
            self.will_close = self._check_close()
        elif not self.chunked and self.length is None:
            self._take_repeated_length()

    def _read_status(self) -> tuple[str, int, str]:
        lines: Any = self.fp
        if not isinstance(lines, _HeaderLines):  # of a proxy's answer to CONNECT
            return super()._read_status()  # type: ignore[misc]
        while True:
            lines.in_headers = False
            version, status, reason = super()._read_status()  # type: ignore[misc]
            lines.in_headers = True
            if not 100 <= status < 200 or status == _SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(lines)

    def _take_repeated_length(self) -> None:
        """`Content-Length: 5, 5` is 5; without a length, the connection would have to end."""
        lengths = {length.strip() for length in (self.headers.get("Content-Length") or "").split(",")}
        only = lengths.pop() if len(lengths) == 1 else ""
        if only.isascii() and only.isdigit() and self.status not in (204, 304):
            self.length = int(only)
            self.will_close = self._check_close()  # type: ignore[attr-defined]


def _is_chunked(headers: http.client.HTTPMessage) -> bool:
    codings = ",".join(headers.get_all("Transfer-Encoding") or ()).lower().split(",")
    return {coding.strip() for coding in codings} - {"", "identity"} == {"chunked"}


class _HeaderLines:
    """A stream without blank lines before the status, and without what is no header line, where http.client would end."""

    def __init__(self, stream: Any):
        self._stream = stream
        self.in_headers = False
        self._continues = False  # whether the next line may continue a header

    def readline(self, limit: int = -1) -> bytes:
        """The next line that counts; b"" at the end. Their number is limited by the bytes of the exchange."""
        while line := self._stream.readline(limit):
            is_blank = not line.strip(b"\r\n")
            if not self.in_headers:
                self._continues = False
                if not is_blank:
                    return line
            elif is_blank or len(line) >= limit:  # http.client refuses lines that are cut at its limit
                return line
            elif line[:1] in b" \t":
                if self._continues:
                    return line
            else:
                name, colon, value = line.partition(b":")
                name = name.rstrip(b" \t")
                self._continues = bool(colon) and _is_token(name)
                if self._continues:
                    return name + colon + value
        return b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_token(name: bytes) -> bool:
    return bool(name) and all(33 <= byte <= 126 for byte in name)
