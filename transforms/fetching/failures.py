"""Maps errors of an HTTP exchange to failure codes of the ledger."""

from __future__ import annotations

import http.client
import ssl

from urllib3.exceptions import LocationValueError, ProtocolError, ProxyError, ReadTimeoutError, SSLError

from transforms.errors import ItemError
from transforms.fetching.deadline import TransientError


def classified(error: Exception, host: str) -> ItemError:
    """The ItemError for an error of an exchange with `host`. Never quotes urllib3, whose messages contain complete URLs."""
    cause = error.args[1] if isinstance(error, ProtocolError) and len(error.args) > 1 else error
    if isinstance(error, ReadTimeoutError) or isinstance(cause, TimeoutError):
        return TransientError("timeout", f"{host} was silent too long, or the image's time ran out")
    if isinstance(error, SSLError | ssl.SSLError):
        reason = error.args[0] if isinstance(error, SSLError) and error.args else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            return ItemError("tls", f"the certificate of {host} was refused: {reason.verify_message}")
        description = getattr(reason, "reason", None) or type(reason).__name__
        return TransientError("tls", f"TLS with {host} failed: {description}")
    if isinstance(error, LocationValueError | http.client.InvalidURL | UnicodeError):
        return ItemError("bad_uri", f"{host} cannot be asked for that URL")
    if isinstance(cause, http.client.IncompleteRead):
        return TransientError("truncated", f"{host} ended the answer early")
    if isinstance(error, ProxyError):
        return TransientError("connect", f"the proxy for {host} could not be used")
    if isinstance(cause, OSError):  # http.client.RemoteDisconnected too
        return TransientError("connect", f"{host} broke the connection off")
    return ItemError("bad_response", f"{host} did not answer in valid HTTP ({type(cause).__name__})")
