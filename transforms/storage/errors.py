"""Errors of storage: what they mean, whether they are transient, and what to do about them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

from apache_beam.io.filesystem import BeamIOError


class StorageFailed(BeamIOError):
    """An operation of storage failed for good; the message says what, where, why and what to do.

    `is_transient`: it was given up, but the same command may succeed later, as when a store does not answer.
    """

    def __init__(self, message: str, path: str, cause: BaseException | None, is_transient: bool = False):
        super().__init__(message, {path: cause} if cause else None)
        self.message, self.is_transient = message, is_transient

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> Any:
        return StorageFailed, (self.message, "", None, self.is_transient)


def is_transient(error: BaseException) -> bool:
    """Whether an error is that of a store that did not answer, or of an input that was just being changed."""
    return isinstance(error, StorageFailed) and error.is_transient


def changed_since_planned(path: str, size_bytes: int, size_now: int) -> StorageFailed:
    """The error for an input that no longer has the size that it had at launch."""
    return StorageFailed(
        f"reading {path} failed: it has changed since the job was planned, {size_bytes} bytes then, {size_now} now; "
        "run the same command again",
        path,
        None,
        is_transient=True,
    )


def elsewhere(scheme: str, here: str, launcher: str, variable: str) -> StorageFailed:
    """The error of a worker that would reach a store at another address than the launcher."""
    return StorageFailed(
        f"worker {socket.gethostname()} would reach {scheme} at {here}, the launcher at {launcher}: set {variable} to the "
        "same on both, or leave it out on the worker, then run the same command again",
        scheme,
        None,
    )


class Fault(Exception):
    """The meaning of an error of storage; a store may also raise it directly.

    Attributes:
      code: its code in the ledger where it costs an image; docs/fetching.md lists the codes.
      transient: whether another try may succeed.
      http_status: of the answer that it stands for, if there was one.
    """

    def __init__(self, code: str, message: str, transient: bool = False, http_status: int | None = None):
        super().__init__(message)
        self.code, self.transient, self.http_status = code, transient, http_status


class CutShort(OSError):
    """Fewer bytes were read or stored than expected; another try may succeed."""


class Changed(OSError):
    """An input has changed since the job was planned, or while it was read."""


def layers(error: Any) -> Iterator[Any]:
    """An error and the errors it wraps, outermost first; the innermost may be an HTTP status."""
    while error is not None:
        yield error
        inner: Any = None
        if details := getattr(error, "exception_details", None):
            inner = next(iter(details.values()))
        elif isinstance(error, OSError) and error.errno is None and error.args:
            inner = error.args[0] if isinstance(error.args[0], BaseException) else None
        error = inner


def cause_of(error: Any) -> Any:
    """The innermost error that Beam wrapped: an exception or an HTTP status."""
    *_, cause = layers(error)
    return cause


def status_of(cause: Any) -> int | None:
    """The HTTP status that an error of a client of a store stands for, if any."""
    if isinstance(cause, int):
        return cause
    response = getattr(cause, "response", None)
    for status in (
        response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None,
        getattr(cause, "code", None),
        getattr(response, "status_code", None),
    ):
        if isinstance(status, int):
            return int(status)
    return None


def code_of_status(status: int) -> str:
    """The code of an HTTP status of 400 or more, of stores and other servers alike."""
    codes = {404: "not_found", 410: "not_found", 401: "forbidden", 403: "forbidden"}
    return codes.get(status) or ("http_5xx" if status >= 500 else "http_4xx")


def status_fault(status: int, message: str) -> Fault:
    """The meaning of an HTTP status of a store."""
    transient = status in (408, 425, 429) or (status >= 500 and status not in (501, 505))
    return Fault(code_of_status(status), message, transient, status)


_TRANSIENT_ERRORS = (
    "EIO EAGAIN EINTR EBUSY ESTALE ETIMEDOUT ECONNRESET ECONNREFUSED ECONNABORTED EPIPE ENETDOWN ENETUNREACH "
    "ENETRESET EHOSTDOWN EHOSTUNREACH EREMOTEIO ENOBUFS ENOTCONN ESHUTDOWN ETXTBSY"
)
_TRANSIENT_ERRNO = {getattr(errno, name) for name in _TRANSIENT_ERRORS.split() if hasattr(errno, name)}
# Errors of the HTTP libraries below many clients. By name, as not all are installed everywhere.
_TRANSPORT_ERRORS = {("requests", "RequestException"), ("urllib3", "HTTPError"), ("http", "HTTPException")}


def plain_fault(cause: Any) -> Fault | None:
    """The meaning of system errors, HTTP statuses and broken connections on any store; None for other errors."""
    if isinstance(cause, (FileNotFoundError, NotADirectoryError)):
        return Fault("not_found", "there is no such file")
    if isinstance(cause, PermissionError):
        return Fault("forbidden", "this worker may not read the file")
    if isinstance(cause, (Changed, EOFError)):
        return Fault("read_error", describe(cause))
    if isinstance(cause, CutShort):
        return Fault("truncated", describe(cause), transient=True)
    if isinstance(cause, TimeoutError):
        return Fault("timeout", "the store was silent too long", transient=True)
    if isinstance(cause, ConnectionError):
        return Fault(
            "connect", f"the store broke the connection off ({type(cause).__name__})", transient=True
        )
    kinds = type(cause).__mro__
    if any((kind.__module__.partition(".")[0], kind.__name__) in _TRANSPORT_ERRORS for kind in kinds):
        return Fault("connect", f"the store could not be reached ({kinds[0].__name__})", transient=True)
    status = status_of(cause)
    if status is not None:
        return status_fault(status, f"the store answered {status}")
    if isinstance(cause, OSError):
        why = cause.strerror or type(cause).__name__
        return Fault("read_error", f"reading the file failed: {why}", cause.errno in _TRANSIENT_ERRNO)
    return None


def describe(cause: Any) -> str:
    """An error in a few words: the first line of its message."""
    if isinstance(cause, int):
        return f"status {cause}"
    if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
        return f"{cause.strerror} ({errno.errorcode.get(cause.errno, cause.errno)})"
    text = str(cause).strip()
    return text.splitlines()[0] if text else type(cause).__name__


def advice(cause: Any, fault: Fault) -> str:
    """What to do about an error, to be appended to its description; '' if there is no advice."""
    number = cause.errno if isinstance(cause, OSError) else None
    again = "run the same command again: it continues where it stopped"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"; make room there, then {again}"
    if number == errno.EROFS:
        return f"; the disk is mounted read-only, often after disk errors: repair it, then {again}"
    if number in (errno.ENOTDIR, errno.EEXIST):  # the latter where the folder itself is to be created
        return "; a part of that path is a file: name another folder"
    if isinstance(cause, FileNotFoundError) or status_of(cause) == 404:
        return f"; it does not exist, or no longer: restore it, then {again}"
    return f"; {again}" if fault.transient else ""
