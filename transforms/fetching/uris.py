"""Schemes of URIs, and URIs without credentials, tokens and signatures, for messages and output."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, unquote_plus

from transforms.fetching import data_urls
from transforms.storage.stores import SCHEMES

_SCHEME = re.compile(r"\s*(data(?=:)|https?(?=:)|file(?=:/)|[a-z][a-z0-9+.-]*(?=://)):", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?s)([^:/?#]*:[/\\]*)([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")

_PLAIN_NAMES = frozenset((*SCHEMES, "hdfs"))  # schemes whose paths may contain '?' and '#'
_SECRET_PREFIXES = (
    "x-amz-",
    "x-goog-",
    "x-oss-",
    "x-cos-",
    "x-ms-",
    "q-sign-",
    "q-key-",
    "q-header-",
    "q-url-",
)
_SECRET_NAMES = frozenset(
    (
        "signature", "sig", "sign", "hmac", "expires", "policy", "key-pair-id", "awsaccesskeyid",
        "googleaccessid", "ossaccesskeyid", "q-ak", "security-token", "token", "access_token", "auth_token",
        "id_token", "jwt", "auth", "authorization", "api_key", "apikey", "password",
        "passwd", "pwd", "secret", "client_secret", "credential", "credentials", "session", "sessionid",
        "session_id", "hdnea", "hdnts", "hdntl", "__token__", "__gda__",
    )
)  # fmt: skip
# Azure's shared access signatures: names too short to be taken for secrets unless there is also a `sig`.
_AZURE_NAMES = frozenset(
    (
        "se", "sp", "sv", "sr", "st", "spr", "sip", "si", "skoid", "sktid", "skt", "ske", "sks", "skv",
        "saoid", "suoid", "scid", "sdd", "ss", "srt",
    )
)  # fmt: skip


def scheme_of(uri: str) -> str:
    """The scheme in lower case; 'file' for a plain local path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else "file"


def public_uri(uri: str) -> str:
    """The URI as it may appear in keys, ledgers, logs and manifests. Never raises.

    Userinfo, fragment and the query parameters that sign a URL or carry a token are removed, also those of a URL nested
    in a parameter. The rest stays byte for byte, so `?id=1` and `?id=2` stay distinct, and an image whose URL is signed
    again keeps its key. A data: URL becomes the checksum of its bytes.
    """
    scheme = scheme_of(uri)
    if scheme == "data":
        return data_urls.short(uri)
    if scheme in _PLAIN_NAMES and "://" not in uri[len(scheme) + 1 :].lstrip():
        return uri
    match = _AUTHORITY.fullmatch(uri.strip())
    if match is None:
        return uri
    start, authority, path, query, _ = match.groups()
    kept = _public_query(query[1:]) if query else ""
    return f"{start}{authority.rpartition('@')[2]}{path}{'?' + kept if kept else ''}".rstrip()


def _public_query(query: str) -> str:
    parameters = query.split("&")
    names = [unquote_plus(parameter.partition("=")[0]).strip().lower() for parameter in parameters]
    secret = _SECRET_NAMES | _AZURE_NAMES if "sig" in names else _SECRET_NAMES
    return "&".join(
        _public_parameter(parameter)
        for parameter, name in zip(parameters, names, strict=True)
        if name not in secret and not name.startswith(_SECRET_PREFIXES)
    )


def _public_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    plain = unquote(value)
    if "://" not in plain:
        return parameter
    public = public_uri(plain)
    return parameter if public == plain else f"{name}{equals}{quote(public, safe='')}"
