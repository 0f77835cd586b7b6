"""Fetches a model's weights to local disk, completely or not at all.

`python -m bit.download --model=bit/m-r101x3` fills the cache ahead of a job.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import http.client
import logging
import os
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

import google_crc32c

from bit import home
from bit.command import exit_with
from bit.models import Model, UnknownModel, UnusableModel, resolve

_CONNECT_TIMEOUT_SECONDS = 10
_ATTEMPTS = 4
_PIECE_BYTES = 4 << 20  # 4 MiB
_TARBALLS = (".tar", ".tar.gz", ".tgz")
# Raised by a connection that breaks half-way. An unknown or refusing host is a URLError, which is not retried.
_BROKEN = (http.client.HTTPException, TimeoutError, ConnectionError)
_UNREACHABLE = (urllib.error.URLError, *_BROKEN)

log = logging.getLogger(__name__)


class WeightsUnreachable(OSError):
    """The source of the weights cannot be reached, or returned something else."""


def cache_folder(cache_dir: str | None = None) -> str:
    """`cache_dir`, else this user's folder for caches (`bit.home`)."""
    return os.path.abspath(home.expanded(cache_dir)) if cache_dir else home.cache_folder()


def local_path(model: Model, cache_dir: str | None = None) -> str:
    """The local path of the weights of `model`, fetched first if necessary; '' for untrained ones.

    Raises WeightsUnreachable; OSError if the network is not to blame, as on a full disk; UnusableModel for an unknown
    scheme.
    """
    if model.kind == "untrained":
        return ""
    scheme = urlsplit(model.uri).scheme if "://" in model.uri else ""
    if scheme in ("http", "https"):
        try:
            return (
                _fetch_file(model.uri, cache_dir)
                if model.kind == "npz"
                else _fetch_module(model.uri, cache_dir)
            )
        except _UNREACHABLE as error:
            raise WeightsUnreachable(_unreachable(model, error)) from error
    if scheme:
        raise UnusableModel(f"{model.uri}: copy it to local disk first; {scheme}:// cannot be read directly")
    return (
        _unpacked(model.uri, cache_dir)
        if model.uri.endswith(_TARBALLS) and os.path.isfile(model.uri)
        else model.uri
    )


def _unreachable(model: Model, error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    if str(reason).startswith("unknown url type: socks"):
        reason = "https_proxy or http_proxy names a SOCKS proxy, which is not supported: set it to http://HOST:PORT, or unset it"
    architecture = model.architecture or "r101x3"
    return (
        f"the weights of {_without_query(model.name)} could not be fetched from {_without_query(model.uri)}: "
        f"{reason}. "
        "Check the network and HTTPS_PROXY; or fetch that file on another machine and pass --model=PATH; "
        f"or try the job without trained weights: --model=untrained/{architecture}"
    )


def _without_query(url: str) -> str:
    return url.split("?")[0]


def _fetch_file(url: str, cache_dir: str | None) -> str:
    """Streams `url` into the cache under its own name; a broken connection is resumed where it stopped."""
    parts = urlsplit(url)
    folders = [parts.netloc, *unquote(parts.path).strip("/").split("/")]
    if parts.query:  # another query may mean another file
        folders.insert(-1, hashlib.sha256(parts.query.encode()).hexdigest()[:16])
    target = os.path.join(cache_folder(cache_dir), *folders)
    if os.path.exists(target):
        return target
    os.makedirs(os.path.dirname(target), exist_ok=True)
    partial = f"{target}.partial"
    with _locked(f"{target}.lock"):
        # Another process may have finished while this one waited for the lock.
        if not os.path.exists(target):
            log.info("fetching %s to %s", _without_query(url), target)
            try:
                _stream(url, partial)
                os.replace(partial, target)
            except BaseException:
                if os.path.exists(partial):
                    os.remove(partial)
                raise
    return target


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Locks `path` against other processes of this host; the system releases the lock when a process dies."""
    with open(path, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _stream(url: str, partial: str) -> None:
    """Writes all of `url` to `partial` and verifies its length and the digest that the source states."""
    etag = ""
    with open(partial, "wb") as file:
        for attempt in range(1, _ATTEMPTS + 1):
            headers = {"Accept-Encoding": "identity"}
            if etag and file.tell():
                # If-Range: a source that has changed in between sends everything again.
                headers |= {"Range": f"bytes={file.tell()}-", "If-Range": etag}
            try:
                request = urllib.request.Request(url, headers=headers)
                with urllib.request.urlopen(request, timeout=_CONNECT_TIMEOUT_SECONDS) as reply:
                    if reply.status != 206:
                        file.seek(0)
                        file.truncate()
                    etag = reply.headers.get("ETag", "")
                    digests = ",".join(reply.headers.get_all("x-goog-hash") or [])
                    length = reply.headers.get("Content-Length")
                    total = file.tell() + int(length) if length else None
                    while piece := reply.read(_PIECE_BYTES):
                        file.write(piece)
                if total is not None and file.tell() < total:
                    raise http.client.IncompleteRead(b"", total - file.tell())
                break
            except _BROKEN as error:
                if attempt == _ATTEMPTS:
                    raise ConnectionError(f"the connection broke {attempt} times, last: {error!r}") from error
                log.info("connection broke at %d bytes: retrying", file.tell())
    _verify(partial, digests)


def _verify(path: str, digests: str) -> None:
    """Compares with an `x-goog-hash` value: 'crc32c=...,md5=...', base64."""
    stated = dict(part.strip().split("=", 1) for part in digests.split(",") if "=" in part)
    digest: Any
    if "md5" in stated:
        kind, digest = "md5", hashlib.md5(usedforsecurity=False)
    elif "crc32c" in stated:
        kind, digest = "crc32c", google_crc32c.Checksum()
    else:
        return
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    got = base64.b64encode(digest.digest()).decode()
    if got != stated[kind]:
        raise OSError(
            f"the {kind} of the download is {got}, but the source states {stated[kind]}: damaged on the way, try again"
        )


def _fetch_module(handle: str, cache_dir: str | None) -> str:
    """Fetches a TF-Hub handle or a tarball's URL through TF-Hub's cache: $TFHUB_CACHE_DIR, else a folder in ours."""
    os.environ.setdefault("TFHUB_CACHE_DIR", os.path.join(cache_folder(cache_dir), "tfhub"))
    digest = hashlib.sha1(handle.encode(), usedforsecurity=False).hexdigest()
    if not os.path.isdir(os.path.join(os.environ["TFHUB_CACHE_DIR"], digest)):
        # TF-Hub waits for a host without a time limit: check first that it answers.
        urllib.request.urlopen(handle, timeout=_CONNECT_TIMEOUT_SECONDS).close()
    import tensorflow_hub

    return tensorflow_hub.resolve(handle)


def _unpacked(tarball: str, cache_dir: str | None) -> str:
    """Unpacks a local tarball into a cache folder named after its path, size and modification time."""
    stat = os.stat(tarball)
    name = hashlib.sha256(
        f"{os.path.abspath(tarball)}\n{stat.st_size}\n{stat.st_mtime_ns}".encode()
    ).hexdigest()[:32]
    target = os.path.join(cache_folder(cache_dir), "unpacked", name)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with _locked(f"{target}.lock"):
        if not os.path.isdir(target):
            with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as scratch:
                try:
                    with tarfile.open(tarball) as archive:
                        archive.extractall(f"{scratch}/model", filter="data")
                except (tarfile.TarError, EOFError, OSError) as error:
                    raise UnusableModel(
                        f"{tarball} cannot be unpacked ({error}); was the download cut off?"
                    ) from error
                os.rename(f"{scratch}/model", target)
    return target


def main(argv: list[str] | None = None) -> int:
    """Returns 0; 1 for a full disk or damaged data, 2 for a wrong name, 3 if the source is unreachable."""
    parser = argparse.ArgumentParser(prog="python -m bit.download", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a name of `python -m bit.models`, or a URL")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        path = local_path(resolve(args.model))
    except WeightsUnreachable as error:
        print(error, file=sys.stderr)
        return 3
    except OSError as error:  # a full disk, a damaged download: the network is not to blame
        print(error, file=sys.stderr)
        return 1
    except (UnknownModel, UnusableModel) as error:
        print(error, file=sys.stderr)
        return 2
    log.info("%s is at %s", args.model, path or "no path: its weights are generated from a seed")
    return 0


if __name__ == "__main__":
    exit_with(main)
