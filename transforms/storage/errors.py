"""What an error of storage means: whether it may pass, what to say of it, and what to do about it."""

from __future__ import annotations

import errno
from typing import Any

from apache_beam.io.filesystem import BeamIOError


class StorageFailed(BeamIOError):
    """Storage does not do what the job needs; the message says what, where, why and what to do."""

    def __init__(self, message: str, path: str, cause: BaseException | None):
        super().__init__(message, {path: cause} if cause else None)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> Any:
        return StorageFailed, (self.message, "", None)


class CutShort(OSError):
    """Fewer bytes came or were kept than there are; another try may give them all."""


class Changed(OSError):
    """An input is not the one that the job was planned with, or changed while it was read."""


def cause_of(error: Any) -> Any:
    """What is at the bottom of an error that Beam wrapped: an exception, or the status of an answer."""
    while True:
        inner: Any = None
        if details := getattr(error, "exception_details", None):
            inner = next(iter(details.values()))
        elif isinstance(error, OSError) and error.errno is None and error.args:
            inner = error.args[0] if isinstance(error.args[0], BaseException) else None
        if inner is None:
            return error
        error = inner


def status_of(cause: Any) -> int | None:
    """The HTTP status that an error of a client of a store stands for, if any."""
    if isinstance(cause, int):
        return cause
    response = getattr(cause, "response", None)
    for found in (
        response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None,
        getattr(cause, "code", None),
        getattr(response, "status_code", None),
    ):
        if isinstance(found, int):
            return int(found)
    return None


def means_missing(error: BaseException) -> bool:
    """Whether an error says that there is no such file."""
    cause = cause_of(error)
    return isinstance(cause, FileNotFoundError) or 404 in (cause, getattr(cause, "code", None))


_PASSING_ERRORS = (
    "EIO EAGAIN EINTR EBUSY ESTALE ETIMEDOUT ECONNRESET ECONNREFUSED ECONNABORTED EPIPE ENETDOWN ENETUNREACH "
    "ENETRESET EHOSTDOWN EHOSTUNREACH EREMOTEIO ENOBUFS ENOTCONN ESHUTDOWN ETXTBSY"
)
_PASSING_ERRNO = {getattr(errno, name) for name in _PASSING_ERRORS.split() if hasattr(errno, name)}
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_PASSING_CODES = {"SlowDown", "RequestTimeout", "InternalError", "Throttling", "ServiceUnavailable"}
# By name, as their packages are heavy and not all are always there.
_PASSING_CLASSES = {
    "botocore": "HTTPClientError ConnectionError IncompleteReadError FlexibleChecksumError",
    "boto3": "S3UploadFailedError",
    "s3transfer": "RetriesExceededError",
    "requests": "ConnectionError Timeout ChunkedEncodingError",
    "urllib3": "ProtocolError TimeoutError IncompleteRead",
    "http": "HTTPException",
    "google": "RetryError DataCorruption TransportError",
}


def is_transient(error: Any) -> bool:
    """Whether an error may pass: a store that is busy or broke off, a network or disk that stutters."""
    cause = cause_of(error)
    status = status_of(cause)
    if status is not None:
        response = getattr(cause, "response", None)
        code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
        return status in _PASSING_STATUS or code in _PASSING_CODES
    if isinstance(cause, Changed):
        return False
    if isinstance(cause, (CutShort, ConnectionError, TimeoutError)):
        return True
    for kind in type(cause).__mro__:
        if kind.__name__ in _PASSING_CLASSES.get(kind.__module__.partition(".")[0], "").split():
            if "S3UploadFailed" in kind.__name__:  # holds the true cause as its context
                return cause.__context__ is None or is_transient(cause.__context__)
            return True
    return isinstance(cause, OSError) and cause.errno in _PASSING_ERRNO


def is_of_storage(cause: Any) -> bool:
    """Whether an error tells of storage, and not of a mistake."""
    if isinstance(cause, (OSError, EOFError)) or status_of(cause) is not None:
        return True
    return type(cause).__module__.partition(".")[0] in _PASSING_CLASSES


def said(cause: Any) -> str:
    """An error in a few words."""
    if isinstance(cause, int):
        return f"status {cause}"
    if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
        return f"{cause.strerror} ({errno.errorcode.get(cause.errno, cause.errno)})"
    text = str(cause).strip()
    return text.splitlines()[0] if text else type(cause).__name__


def advice(cause: Any) -> str:
    """What to do about an error, to stand behind what was said; '' where there is nothing to say."""
    number = cause.errno if isinstance(cause, OSError) else None
    again = "run the same command again: it goes on where it stopped"
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"; make room there, then {again}"
    if number == errno.EROFS:
        return f"; the disk is mounted read-only, often after errors of its own: mend that, then {again}"
    if isinstance(cause, FileNotFoundError) or status_of(cause) == 404:
        return f"; it is not there, or not any more: bring it back, then {again}"
    return f"; {again}" if is_transient(cause) else ""
