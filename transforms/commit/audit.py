"""Checks one committed shard against its receipt, from the output alone. No Beam graph, no TensorFlow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transforms.commit.receipts import FileSummary, Layout, Receipt, Summed
from transforms.errors import ItemError
from transforms.records import examples, tfrecord
from transforms.storage import door

_SHOWN = 5  # problems of one file; a file of garbage must not print a line a record
_LEDGER_FIELDS = {"key", "position", "stage", "code", "message"}
_STAGES = ("read", "fetch", "decode", "infer")

KeyAt = Callable[
    [int], "bytes | None"
]  # the key that a position in the shard must have, where that can be known


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was committed."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def check_shard(layout: Layout, receipt: Receipt, key_at: KeyAt) -> Iterator[Problem]:
    """What is wrong with the files of one shard, and with the receipt itself. Reads each file once.

    `key_at` tells the default key of a position in the shard, where it can be known.
    """
    path = layout.receipt(receipt.shard)
    yield from (Problem(path, what) for what in _contradictions(receipt))
    files = {file.name: file for file in receipt.files}
    if receipt.fingerprint.get("schema", {}).get("key_feature"):
        key_at = _unknown
    failed: list[int] = []
    for name, file in files.items():
        if name == f"failures-{receipt.shard}.jsonl":
            found = _ledger_problems(layout.failures(receipt.shard), file, receipt, key_at, failed)
            yield from _first_few(layout.failures(receipt.shard), found)
    for name, file in files.items():
        if name == f"features-{receipt.shard}.tfrecord":
            found = _feature_problems(layout.features(receipt.shard), file, receipt, key_at, set(failed))
            yield from _first_few(layout.features(receipt.shard), found)


def _unknown(position: int) -> None:
    """Keys that were read from the input."""


def _first_few(path: str, found: Iterator[str]) -> Iterator[Problem]:
    count = 0
    for what in found:
        count += 1
        if count <= _SHOWN:
            yield Problem(path, what)
    if count > _SHOWN:
        yield Problem(path, f"{count - _SHOWN} more problems like these")


def _contradictions(receipt: Receipt) -> Iterator[str]:
    if receipt.features + receipt.failures != receipt.inputs:
        yield f"{receipt.features} features and {receipt.failures} failures are not {receipt.inputs} inputs"
    if sum(receipt.failures_by_code.values()) != receipt.failures:
        yield f"failures_by_code {dict(receipt.failures_by_code)} do not add up to {receipt.failures} failures"
    if receipt.input.get("rows", receipt.inputs) != receipt.inputs:
        yield f"{receipt.inputs} inputs, but the slice of the list has {receipt.input['rows']} rows"
    due = [f"features-{receipt.shard}.tfrecord"]
    due += [f"failures-{receipt.shard}.jsonl"] if receipt.failures else []
    if sorted(file.name for file in receipt.files) != sorted(due):
        yield f"tells of files {[file.name for file in receipt.files]}, expected {due}"


def _feature_problems(
    path: str, file: FileSummary, receipt: Receipt, key_at: KeyAt, failed: set[int]
) -> Iterator[str]:
    if not door.exists(path):
        yield "is missing"
        return
    positions = (position for position in range(receipt.inputs) if position not in failed)
    count = 0
    with door.open_binary(path) as stream:
        summed = Summed(stream)
        for found in tfrecord.read(summed):  # type: ignore[arg-type]
            if isinstance(found, tfrecord.Damage):
                yield f"{found.length} bytes at offset {found.offset} are no record: {found.reason}"
                continue
            count += 1
            position = next(positions, receipt.inputs)
            for what in _record_problems(found.data, receipt, key_at(position)):
                yield f"record {count - 1} at offset {found.offset}: {what}"
    if count != receipt.features:
        yield f"{count} records, the receipt says {receipt.features}"
    if differs := summed.difference(file):
        yield differs


def _record_problems(data: bytes, receipt: Receipt, key: bytes | None) -> Iterator[str]:
    try:
        example = examples.parse(data)
    except ItemError as error:
        yield str(error)
        return
    feature = example.features.feature
    due = {*examples.STANDARD, *receipt.outputs}
    for name in sorted(due - set(feature)):
        yield f"no feature {name!r}"
    for name in sorted(
        set(feature) - due - set(receipt.fingerprint.get("schema", {}).get("pass_through", ()))
    ):
        yield f"a feature {name!r} that nobody asked for"
    for name in (examples.KEY, examples.SHA256):
        if name in feature and len(feature[name].bytes_list.value) != 1:
            yield f"feature {name!r} does not hold one bytes value"
    for name in (examples.WIDTH, examples.HEIGHT):
        if name in feature and [value > 0 for value in feature[name].int64_list.value] != [True]:
            yield f"feature {name!r} does not hold one positive integer"
    if not re.fullmatch(rb"[0-9a-f]{64}", b"".join(feature[examples.SHA256].bytes_list.value)):
        yield f"feature {examples.SHA256!r} is not a SHA-256 in hexadecimal"
    found_key = b"".join(feature[examples.KEY].bytes_list.value)
    if key is not None and found_key != key:
        yield f"key {found_key!r}, expected {key!r}: out of order, or not this shard's"
    for name, size in receipt.outputs.items():
        yield from _vector_problems(name, feature[name], size)


def _vector_problems(name: str, feature: Any, size: int) -> Iterator[str]:
    kind = feature.WhichOneof("kind")
    count = len(getattr(feature, kind).value) if kind else 0
    if count != size:
        yield f"output {name!r} has {count} values, expected {size}"
    if kind == "float_list" and not np.isfinite(examples.floats(feature)).all():
        yield f"output {name!r} is not finite"


def _ledger_problems(
    path: str, file: FileSummary, receipt: Receipt, key_at: KeyAt, failed: list[int]
) -> Iterator[str]:
    if not door.exists(path):
        yield "is missing"
        return
    codes: dict[str, int] = {}
    with door.open_binary(path) as stream:
        summed = Summed(stream)
        content = b"".join(iter(lambda: summed.read(1 << 20), b""))
    for number, line in enumerate(content.splitlines(), 1):
        try:
            values: Mapping[str, Any] = json.loads(line)
            problem = _line_problem(values, receipt, key_at, failed[-1] if failed else -1)
        except (ValueError, TypeError) as error:
            yield f"line {number} is not a ledger line: {error}"
            continue
        if problem:
            yield f"line {number}: {problem}"
        else:
            failed.append(values["position"])
            codes[values["code"]] = codes.get(values["code"], 0) + 1
    if codes != dict(receipt.failures_by_code):
        yield f"failures by code {codes}, the receipt says {dict(receipt.failures_by_code)}"
    if differs := summed.difference(file):
        yield differs


def _line_problem(values: Mapping[str, Any], receipt: Receipt, key_at: KeyAt, before: int) -> str:
    if set(values) != _LEDGER_FIELDS:
        return f"fields {sorted(values)}, expected {sorted(_LEDGER_FIELDS)}"
    position = values["position"]
    if not isinstance(position, int) or not before < position < receipt.inputs:
        return f"position {position!r} is not between {before} and {receipt.inputs}"
    if values["stage"] not in _STAGES or not re.fullmatch(r"[a-z][a-z0-9_]*", str(values["code"])):
        return f"stage {values['stage']!r} and code {values['code']!r} are not among those that there are"
    key = key_at(position)
    if key is not None and values["key"] != key.decode("utf-8", "backslashreplace"):
        return f"key {values['key']!r}, expected {key!r}"
    return ""
