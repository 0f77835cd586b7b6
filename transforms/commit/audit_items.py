"""Checks one record or one ledger line of a committed shard, and describes what is wrong for the user."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from transforms.commit import ledger
from transforms.commit.receipts import Receipt
from transforms.errors import ItemError
from transforms.records.features import HEIGHT, KEY, SHA256, STANDARD, WIDTH, Record

# Position in the shard -> the key expected there; None where it cannot be known.
KeyAt = Callable[[int], "bytes | None"]


def record_problems(record: Record, receipt: Receipt, key: bytes | None) -> Iterator[str]:
    """What is wrong with a record. Its key must be `key`, unless that is None."""
    try:
        values = record.values()
    except ItemError as error:
        yield str(error)
        return
    expected = {*STANDARD, *receipt.outputs}
    passed_through = receipt.fingerprint.get("schema", {}).get("pass_through", ())
    for name in sorted(expected - set(values)):
        yield f"no feature {name!r}"
    for name in sorted(set(values) - expected - set(passed_through)):
        yield f"a feature {name!r} that was not requested"
    for name in (KEY, SHA256):
        if name in values and len(_of_type(bytes, values, name)) != 1:
            yield f"feature {name!r} does not hold one bytes value"
    for name in (WIDTH, HEIGHT):
        if name in values and [value > 0 for value in _of_type(int, values, name)] != [True]:
            yield f"feature {name!r} does not hold one positive integer"
    if not re.fullmatch(rb"[0-9a-f]{64}", b"".join(_of_type(bytes, values, SHA256))):
        yield f"feature {SHA256!r} is not a SHA-256 in hexadecimal"
    record_key = b"".join(_of_type(bytes, values, KEY))
    if key is not None and record_key != key:
        yield f"key {record_key!r}, expected {key!r}: out of order, or not this shard's"
    for name, size in receipt.outputs.items():
        yield from _vector_problems(name, values.get(name, []), size)


def _of_type(kind: type, values: Mapping[str, Any], name: str) -> list[Any]:
    return [value for value in values.get(name, ()) if isinstance(value, kind)]


def _vector_problems(name: str, values: Any, size: int) -> Iterator[str]:
    if len(values) != size:
        yield f"output {name!r} has {len(values)} values, expected {size}"
    if isinstance(values, np.ndarray) and not np.isfinite(values).all():
        yield f"output {name!r} is not finite"


def line_problem(values: Mapping[str, Any], receipt: Receipt, key_at: KeyAt, before: int) -> str:
    """What is wrong with a ledger line, '' if nothing; `before` is the position of the previous line, -1 for the first."""
    if set(values) - set(ledger.OPTIONAL) != set(ledger.FIELDS):
        return f"fields {sorted(values)}, expected {sorted(ledger.FIELDS)}"
    position = values["position"]
    if not isinstance(position, int) or not before < position < receipt.inputs:
        return f"position {position!r} is not between {before} and {receipt.inputs}"
    if values["stage"] not in ledger.STAGES or not re.fullmatch(r"[a-z][a-z0-9_]*", str(values["code"])):
        return f"stage {values['stage']!r} and code {values['code']!r} are not a known stage and a valid code"
    if type(values.get("http_status", 0)) is not int:
        return f"http_status {values['http_status']!r} is not a number"
    key = key_at(position)
    if key is not None and values["key"] != key.decode("utf-8", "backslashreplace"):
        return f"key {values['key']!r}, expected {key!r}"
    return ""
