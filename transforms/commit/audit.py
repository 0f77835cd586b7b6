"""Checks one committed shard against its receipt, from the output alone. No Beam graph, no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from transforms.commit.audit_items import KeyAt, line_problem, record_problems
from transforms.commit.files import CheckedStream, FileSummary
from transforms.commit.layout import Layout, failures_name, features_name
from transforms.commit.receipts import Receipt
from transforms.records import features
from transforms.records.features import Damage
from transforms.storage import door

_SHOWN = 5  # problems per file; a file of garbage must not print a line per record


@dataclass(frozen=True)
class Problem:
    """Something that differs from what was committed."""

    path: str
    what: str
    is_unfinished: bool = False  # nothing is wrong: it goes when the job is run again

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def check_shard(layout: Layout, receipt: Receipt, key_at: KeyAt) -> Iterator[Problem]:
    """What is wrong with the files of one shard and with its receipt. Reads each file once.

    `key_at` gives the default key at a position in the shard, or None where it cannot be known.
    """
    label = receipt.shard
    yield from (Problem(layout.receipt(label), what) for what in _contradictions(receipt))
    if receipt.fingerprint.get("schema", {}).get("key_feature"):
        key_at = lambda position: None  # noqa: E731  # keys that were read from the input are unknown here
    failed: list[int] = []
    if file := receipt.file(failures_name(label)):
        path = layout.failures(label)
        yield from _first_few(path, _ledger_problems(path, file, receipt, key_at, failed))
    if file := receipt.file(features_name(label)):
        path = layout.features(label)
        yield from _first_few(path, _feature_problems(path, file, receipt, key_at, set(failed)))


def _first_few(path: str, problems: Iterator[str]) -> Iterator[Problem]:
    count = 0
    for what in problems:
        count += 1
        if count <= _SHOWN:
            yield Problem(path, what)
    if count > _SHOWN:
        yield Problem(path, f"{count - _SHOWN} more problems like these")


def _contradictions(receipt: Receipt) -> Iterator[str]:
    if receipt.features + receipt.failures != receipt.inputs:
        yield f"{receipt.features} features and {receipt.failures} failures do not add up to {receipt.inputs} inputs"
    if sum(receipt.failures_by_code.values()) != receipt.failures:
        yield f"failures_by_code {dict(receipt.failures_by_code)} do not add up to {receipt.failures} failures"
    if receipt.input.get("rows", receipt.inputs) != receipt.inputs:
        yield f"{receipt.inputs} inputs, but the slice of the list has {receipt.input['rows']} rows"
    expected = [features_name(receipt.shard)]
    expected += [failures_name(receipt.shard)] if receipt.failures else []
    if sorted(file.name for file in receipt.files) != sorted(expected):
        yield f"lists the files {[file.name for file in receipt.files]}, expected {expected}"


def _feature_problems(
    path: str, file: FileSummary, receipt: Receipt, key_at: KeyAt, failed: set[int]
) -> Iterator[str]:
    if not door.exists(path):
        yield "is missing"
        return
    positions = (position for position in range(receipt.inputs) if position not in failed)
    count = 0
    with door.open_binary(path) as stream:
        checked = CheckedStream(stream)
        for record in features.read(checked):
            if isinstance(record, Damage):
                yield f"{record.length} bytes at offset {record.offset} are not a record: {record.reason}"
                continue
            count += 1
            position = next(positions, receipt.inputs)
            for what in record_problems(record, receipt, key_at(position)):
                yield f"record {count - 1} at offset {record.offset}: {what}"
    if count != receipt.features:
        yield f"{count} records, the receipt says {receipt.features}"
    if difference := checked.difference(file):
        yield difference


def _ledger_problems(
    path: str, file: FileSummary, receipt: Receipt, key_at: KeyAt, failed: list[int]
) -> Iterator[str]:
    """Appends the positions of the ledger's failures to `failed`."""
    if not door.exists(path):
        yield "is missing"
        return
    codes: dict[str, int] = {}
    with door.open_binary(path) as stream:
        checked = CheckedStream(stream)
        content = b"".join(iter(lambda: checked.read(1 << 20), b""))
    for number, line in enumerate(content.splitlines(), 1):
        try:
            values = json.loads(line)
            problem = line_problem(values, receipt, key_at, failed[-1] if failed else -1)
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
    if difference := checked.difference(file):
        yield difference
