"""Copies one file from a URL to local disk, completely or not at all, and goes on where an earlier attempt stopped."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import http.client
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

import google_crc32c

# Python's own is refused by some hosts, tfhub.dev among them.
USER_AGENT = "bit-features"
_TIMEOUT_SECONDS = 15  # to connect, and between two pieces
_ATTEMPTS = 4
_PIECE_BYTES = 4 << 20  # 4 MiB
# Raised by a connection that breaks half-way. An unknown or refusing host is a URLError, which is not retried.
_BROKEN = (http.client.HTTPException, TimeoutError, ConnectionError)
UNREACHABLE = (urllib.error.URLError, *_BROKEN)

# What file systems without locks answer, as that of many a cluster's home.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

log = logging.getLogger(__name__)


class WrongContent(OSError):
    """The source has sent something else than the file that it promised."""


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Locks `path` against other processes of this host; the system releases the lock when a process dies."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning(
                "%s cannot be locked (%s): make sure that no other process downloads meanwhile", path, error
            )
        yield


def fetch(url: str, target: str, check: Callable[[str], object] = lambda path: None) -> None:
    """Writes the file behind `url` to `target`, in one step; the caller has locked it.

    What an attempt that broke has left, in a file beside `target` with the same suffix, is continued if the source still has
    the same file. `check` gets the path of the whole, before it takes its place, and raises WrongContent if it is something else.
    Raises one of UNREACHABLE; WrongContent; OSError if the disk is to blame.
    """
    base, suffix = os.path.splitext(target)
    partial = f"{base}.partial{suffix}"
    tag = f"{partial}.etag"
    try:
        digests = _stream(url, partial, tag)
        _verify(partial, digests)
        check(partial)
        os.replace(partial, target)
    except BaseException as error:
        if not isinstance(error, (*UNREACHABLE, KeyboardInterrupt)) or not os.path.exists(tag):
            _remove(partial, tag)
        raise
    _remove(tag)


def _remove(*paths: str) -> None:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps what they state of the file: Hugging Face states its digest only there."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        self.digests |= _digests(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _digests(headers: Message) -> dict[str, str]:
    """By algorithm: what Google's stores state ('crc32c=...,md5=...', base64), and Hugging Face (SHA-256, hexadecimal)."""
    parts = ",".join(headers.get_all("x-goog-hash") or []).split(",")
    stated = dict(part.strip().split("=", 1) for part in parts if "=" in part)
    linked = (headers.get("X-Linked-ETag") or "").strip('"')
    return stated | ({"sha256": linked} if re.fullmatch("[0-9a-f]{64}", linked) else {})


def _stream(url: str, partial: str, tag: str) -> Mapping[str, str]:
    """Writes all of `url` to `partial`, and its ETag to `tag`; returns the digests that the source states."""
    etag = _read(tag)
    with open(partial, "ab" if etag else "wb") as file:
        for attempt in range(1, _ATTEMPTS + 1):
            headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
            if etag and file.tell():
                # If-Range: a source that has changed in between sends everything again.
                headers |= {"Range": f"bytes={file.tell()}-", "If-Range": etag}
            redirects = _Redirects()
            opener = urllib.request.build_opener(redirects)
            try:
                request = urllib.request.Request(url, headers=headers)
                with opener.open(request, timeout=_TIMEOUT_SECONDS) as reply:
                    if reply.headers.get_content_type() == "text/html":
                        raise WrongContent("it has sent a web page instead, such as a login")
                    if reply.status != 206:
                        file.truncate(0)
                        file.seek(0)
                        etag = reply.headers.get("ETag", "")
                        etag = "" if etag.startswith("W/") else etag  # If-Range knows no weak ones
                        _write(tag, etag)
                    length = reply.headers.get("Content-Length")
                    total = file.tell() + int(length) if length else None
                    while piece := reply.read(_PIECE_BYTES):
                        file.write(piece)
                if total is not None and file.tell() < total:
                    raise http.client.IncompleteRead(b"", total - file.tell())
                return {**redirects.digests, **_digests(reply.headers)}
            except urllib.error.HTTPError as error:
                error.close()
                if error.code != 416:
                    raise
                etag = ""  # it has less than what is here: from the start again
            except _BROKEN as error:
                if attempt == _ATTEMPTS:
                    raise ConnectionError(f"the connection broke {attempt} times, last: {error!r}") from error
                log.info("connection broke at %d bytes: retrying", file.tell())
    raise ConnectionError("the source has not sent the file in any attempt")


def _read(path: str) -> str:
    with contextlib.suppress(FileNotFoundError), open(path, encoding="latin-1") as file:
        return file.read()
    return ""


def _write(path: str, text: str) -> None:
    _remove(path)
    if text:
        with open(path, "w", encoding="latin-1") as file:
            file.write(text)


def _verify(path: str, stated: Mapping[str, str]) -> None:
    digest: Any
    if "sha256" in stated:
        kind, digest = "sha256", hashlib.sha256()
    elif "md5" in stated:
        kind, digest = "md5", hashlib.md5(usedforsecurity=False)
    elif "crc32c" in stated:
        kind, digest = "crc32c", google_crc32c.Checksum()
    else:
        return
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    got = digest.digest().hex() if kind == "sha256" else base64.b64encode(digest.digest()).decode()
    if got != stated[kind]:
        raise WrongContent(
            f"the {kind} of the download is {got}, but the source states {stated[kind]}: damaged on the way, try again"
        )


def cause(error: BaseException, url: str) -> str:
    """Why a transfer failed, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        advice = ""
        if error.code in (401, 403):
            host = urlsplit(url).hostname
            advice = f"; {host} serves this to some clients only, or a proxy on the way refuses"
        return f"HTTP {error.code} {error.reason}{advice}"
    reason = getattr(error, "reason", None) or error
    if str(reason).startswith("unknown url type: socks"):
        return "https_proxy or http_proxy names a SOCKS proxy, which is not supported: set it to http://HOST:PORT, or unset it"
    return str(reason) or repr(reason)
