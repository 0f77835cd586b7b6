"""This process's clients for object stores.

Beam makes a client and three requests for each object that it opens, lists before it deletes, and on S3 a copy that
failed looks like one that succeeded and an empty object cannot be written. Here each store has one client per process, and
makes one request.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage.errors import cause_of, said, status_of

POOLED_CONNECTIONS = 1024  # more than threads of a process: connections are made as they are needed, and kept
_OBJECT = re.compile(r"(?s)\s*[a-z0-9]+://([^/]+)/(.+)", re.IGNORECASE)


class Clients:
    """Makes a client when it is first needed, and again where what it was made of has changed. Thread-safe.

    Args:
      make: a client, and whether it is anonymous, from the options that Beam's own file systems use: those given to
        FileSystems.set_options at launch, the worker's on a worker.
      made_of: what else decides how it is made.

    Attributes:
      anonymous: the client has no credentials.
    """

    def __init__(
        self, make: Callable[[PipelineOptions], tuple[Any, bool]], made_of: Callable[[], Any] = lambda: None
    ):
        self._make, self._made_of = make, made_of
        self._lock = threading.Lock()
        self._key: Any = None
        self._client: Any = None
        self.anonymous = False

    def get(self) -> Any:
        """This process's client."""
        with self._lock:
            options = FileSystems._pipeline_options
            key = options, self._made_of()
            if self._key != key:
                self._client, self.anonymous = self._make(options or PipelineOptions([]))
                self._key = key
            return self._client


def split(path: str) -> tuple[str, str]:
    """Bucket and object of SCHEME://BUCKET/OBJECT."""
    match = _OBJECT.fullmatch(path)
    if match is None:
        raise ValueError(f"{path} names no object: SCHEME://BUCKET/OBJECT is expected")
    return match[1], match[2]


def bucket_of(path: str) -> str:
    """The bucket of a path that may name no object."""
    return path.split("/")[2] if path.count("/") > 1 else path


def explain(path: str, error: BaseException, where: str = "") -> str:
    """What errors mean that any object store may give. `where` is what named its address."""
    cause = cause_of(error)
    if status_of(cause) == 404:
        return f"there is no bucket {bucket_of(path)}, or it is not visible from here"
    if "onnection" in f"{type(cause).__name__} {said(cause)}":
        return f"the store cannot be reached{f' at {where}' if where else ''}: {said(cause)}"
    return str(error)
