"""This process's clients for object stores.

Beam creates a client and makes three requests for each object that it opens, and lists before it deletes; on S3 its failed
copies look successful, and it cannot write an empty object. Here each store has one client per process, and makes one
request per operation.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage.errors import cause_of, describe, status_of

POOLED_CONNECTIONS = 1024  # more than a process has threads: connections are opened as needed, and kept
_OBJECT = re.compile(r"(?s)\s*[a-z0-9]+://([^/]+)/(.+)", re.IGNORECASE)


class Clients:
    """Creates a client when it is first needed, and again when its settings have changed. Thread-safe.

    Args:
      make: returns a client and whether it is anonymous, from the options of Beam's own file systems: those passed to
        FileSystems.set_options at launch, the worker's on a worker.
      other_settings: returns whatever else the client depends on.

    Attributes:
      anonymous: whether the client has no credentials.
    """

    def __init__(
        self,
        make: Callable[[PipelineOptions], tuple[Any, bool]],
        other_settings: Callable[[], Any] = lambda: None,
    ):
        self._make, self._other_settings = make, other_settings
        self._lock = threading.Lock()
        self._key: Any = None
        self._client: Any = None
        self.anonymous = False

    def get(self) -> Any:
        """This process's client."""
        with self._lock:
            options = FileSystems._pipeline_options
            key = options, self._other_settings()
            if self._key != key:
                self._client, self.anonymous = self._make(options or PipelineOptions([]))
                self._key = key
            return self._client


def split(path: str) -> tuple[str, str]:
    """Bucket and object of SCHEME://BUCKET/OBJECT. Raises ValueError for other paths."""
    match = _OBJECT.fullmatch(path)
    if match is None:
        raise ValueError(f"{path} is not the path of an object, SCHEME://BUCKET/OBJECT")
    return match[1], match[2]


def bucket_of(path: str) -> str:
    """The bucket of SCHEME://BUCKET or SCHEME://BUCKET/OBJECT."""
    return path.split("/")[2] if path.count("/") > 1 else path


def explain(path: str, error: BaseException, where: str = "") -> str:
    """Explains errors common to all object stores, for the user. `where` is the setting that names the store's address."""
    cause = cause_of(error)
    if status_of(cause) == 404:
        return f"there is no bucket {bucket_of(path)}, or it is not visible from here"
    if "onnection" in f"{type(cause).__name__} {describe(cause)}":
        return f"the store cannot be reached{f' at {where}' if where else ''}: {describe(cause)}"
    return str(error)
