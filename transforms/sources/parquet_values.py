"""Values in the rows of Parquet files that hold images: the image, the key, and what is passed through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transforms.errors import ItemError
from transforms.fetching.uris import public_uri
from transforms.records.values import as_json
from transforms.sources.uri_list import key_of_uri


def value(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or with dots in `name` of a field of a struct."""
    if name in row:
        return row[name]
    column, *fields = name.split(".")
    inner = row[column]
    for field in fields:
        inner = inner and inner.get(field)
    return inner


def image(row: Mapping[str, Any], column: str) -> bytes:
    """The bytes of the row's image. Raises ItemError 'missing_feature'."""
    stored = row[column]
    image = image_bytes(stored)
    if image is not None:
        return image
    path = stored.get("path") if isinstance(stored, dict) else None
    if path:
        raise ItemError(
            "missing_feature",
            f"column {column!r} holds no bytes here, only the path {public_uri(path)}: write the data set with its "
            "images embedded, or list these paths as URIs",
        )
    raise ItemError("missing_feature", f"the row has nothing in its image column {column!r}")


def image_bytes(value: Any) -> bytes | None:
    """The bytes of a value of the image column, if it holds any."""
    return value.get("bytes") if isinstance(value, dict) else value


def key(row: Mapping[str, Any], column: str) -> bytes:
    """The row's key. Raises ItemError 'missing_feature'."""
    key = value(row, column)
    if key is None or key in ("", b""):
        raise ItemError("missing_feature", f"the row has nothing in its key column {column!r}")
    return key if isinstance(key, bytes) else key_of_uri(str(key))


def flat(row: Mapping[str, Any], name: str) -> Any:
    """A value, or a list of values, as a feature can hold it: what is nested deeper becomes JSON."""
    whole = value(row, name)
    inner = whole if isinstance(whole, list) else [whole]
    return as_json(whole) if any(isinstance(one, (dict, list, tuple)) for one in inner) else whole
