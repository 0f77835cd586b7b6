"""Values that are passed through, as a column of one type holds them: the types are the three lists of tf.Example's Feature."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from typing import Any

INT64, FLOAT, BYTES = KINDS = ("int64", "float", "bytes")
_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # the others stand for bytes that are not UTF-8


def kind_of(value: object) -> str | None:
    """The type that holds a value, or a list of values; None if it says nothing, as a null does."""
    if isinstance(value, (list, tuple)):
        if any(isinstance(one, (list, tuple)) for one in value):
            return BYTES
        return common(map(kind_of, value))
    if value is None:
        return None
    if isinstance(value, int):
        return INT64 if -(1 << 63) <= value < 1 << 63 else BYTES
    return FLOAT if isinstance(value, float) else BYTES


def common(kinds: Iterable[str | None]) -> str | None:
    """The type that holds the values of all these types; None if there are none."""
    seen = {kind for kind in kinds if kind}
    if len(seen) == 1:
        return seen.pop()
    return None if not seen else FLOAT if seen == {INT64, FLOAT} else BYTES


def coerced(value: object, kind: str) -> tuple[list[Any], bool]:
    """A value, or a list of values, as a list of one type; and whether all of it fits.

    Nulls are left out. A number in text is a number. Nested values are JSON, which only `bytes` holds. What does not fit is an
    empty list; only half a pair of surrogates in a text becomes U+FFFD there.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    if kind == BYTES:
        if any(isinstance(one, (dict, list, tuple)) for one in values):
            values = [as_json(value)]
        texts = [_as_bytes(one) for one in values if one is not None]
        return [text for text, _ in texts], all(fits for _, fits in texts)
    convert: Any = _as_int64 if kind == INT64 else _as_float
    try:
        return [convert(one) for one in values if one not in (None, "", b"")], True
    except (ValueError, TypeError, OverflowError):
        return [], False


def as_json(value: object) -> str:
    """A nested value as JSON."""
    return json.dumps(value, ensure_ascii=False, default=_text)


def json_type(value: object) -> str:
    """What JSON calls the type of a value, with its article, for messages."""
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "a text"}
    return names.get(type(value), "a number")


def _as_int64(value: Any) -> int:
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, str) and not _INTEGER.fullmatch(value):
        raise ValueError(value)
    number = int(value)
    if (not isinstance(value, str) and number != value) or not -(1 << 63) <= number < 1 << 63:
        raise OverflowError(value)
    return number


def _as_float(value: Any) -> float:
    if isinstance(value, str) and ("_" in value or not value.isascii()):  # which float() takes
        raise ValueError(f"{value!r} is not a number")
    number = float(value)
    struct.pack("<f", number)  # OverflowError for what 32 bits do not hold
    return number


def _as_bytes(value: object) -> tuple[bytes, bool]:
    if isinstance(value, bytes):
        return value, True
    text = as_json(value) if isinstance(value, bool) else str(value)
    clean = _LONE_SURROGATE.sub("\ufffd", text)
    return clean.encode("utf-8", "surrogateescape"), clean == text


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
