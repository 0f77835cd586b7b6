"""One committed shard against its receipt: what is wrong, in which file. `verify` as a whole: tests/pipeline/test_verify.py."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from transforms.commit import audit, ledger
from transforms.commit.files import FileSummary
from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.commit.writer import ShardWriter
from transforms.elements import Decoded, Failure, FeatureChunk, Shard
from transforms.records import features
from transforms.sources.tfrecord import RecordFile

SHARD = Shard(0, 1, RecordFile("in", 100, 5.0), "in")
FEATURES, LEDGER = "features-00000-of-00001.tfrecord", "failures-00000-of-00001.jsonl"
SHA256 = hashlib.sha256(b"image").hexdigest()


def key_at(position: int) -> bytes:
    return b"in#%d" % position


def failure(position: int, code: str = "not_image") -> Failure:
    return Failure(key_at(position), position, "decode", code, "why")


def record(position: int, row: int = 0, value: float = 1.0) -> bytes:
    item = Decoded(key_at(position), position, row, 4, 3, SHA256)
    return bytes(features.encode([item], {"embedding": np.full((4, 4), value, np.float32)}))


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path))


@pytest.fixture
def receipt(layout):
    """Of a shard of five inputs, of which those at 1 and 3 have failed."""
    items = [failure(i) if i in (1, 3) else Decoded(key_at(i), i, i // 2, 4, 3, SHA256) for i in range(5)]
    outputs = {"embedding": np.ones((4, 4), np.float32)}
    writer = ShardWriter(layout, SHARD, {"schema": {"pass_through": [], "key_feature": ""}})
    writer.append(FeatureChunk(SHARD, 0, True, tuple(items), outputs, {}))
    return writer.commit()


def problems(layout: Layout, receipt: Receipt, keys=key_at) -> list[tuple[str, str]]:
    """(file below the output folder, what is wrong)."""
    found = audit.check_shard(layout, receipt, keys)
    return [(problem.path[len(layout.folder) + 1 :], problem.what) for problem in found]


def replaced(layout: Layout, receipt: Receipt, name: str, data: bytes) -> Receipt:
    """The receipt for other bytes of a file, which are written."""
    Path(layout.folder, name).write_bytes(data)
    summary = FileSummary(name, len(data), f"{google_crc32c.value(data):08x}")
    files = tuple(summary if file.name == name else file for file in receipt.files)
    return dataclasses.replace(receipt, files=files)


def test_a_committed_shard_has_no_problems(layout, receipt):
    assert (receipt.inputs, receipt.features, receipt.failures) == (5, 3, 2)
    assert problems(layout, receipt) == []
    assert problems(layout, receipt, lambda position: None) == []


def test_records_are_those_of_the_inputs_that_did_not_fail(layout, receipt):
    changed = replaced(layout, receipt, FEATURES, record(0) + record(4) + record(2))
    assert [what.partition(": ")[2] for _, what in problems(layout, changed)] == [
        "key b'in#4', expected b'in#2': out of order, or not this shard's",
        "key b'in#2', expected b'in#4': out of order, or not this shard's",
    ]
    assert problems(layout, changed, lambda position: None) == []
    own_keys = dataclasses.replace(changed, fingerprint={"schema": {"key_feature": "id"}})
    assert problems(layout, own_keys) == []


def test_damage_is_told_with_its_place(layout, receipt):
    first = record(0)
    changed = replaced(layout, receipt, FEATURES, first + b"\1" * 7 + record(2) + record(4, value=np.nan))
    assert problems(layout, changed) == [
        (FEATURES, f"7 bytes at offset {len(first)} are not a record: no valid record header"),
        (FEATURES, f"record 2 at offset {2 * len(first) + 7}: output 'embedding' is not finite"),
    ]


def test_a_lost_record(layout, receipt):
    changed = replaced(layout, receipt, FEATURES, record(0) + record(2))
    assert problems(layout, changed) == [(FEATURES, "2 records, the receipt says 3")]


@pytest.mark.parametrize("name", [FEATURES, LEDGER])
def test_a_lost_file(layout, receipt, name):
    Path(layout.folder, name).unlink()
    assert (name, "is missing") in problems(layout, receipt)


def test_a_ledger_is_checked_line_by_line(layout, receipt):
    lines = [ledger.encode(failure(3)), b"[]\n", ledger.encode(failure(3)), b"{\n"]
    lines.append(ledger.encode(dataclasses.replace(failure(4), key=b"other")))
    changed = replaced(layout, receipt, LEDGER, b"".join(lines))
    of_ledger = [what for name, what in problems(layout, changed) if name == LEDGER]
    assert [what.partition(": ")[0] for what in of_ledger] == [
        "line 2",
        "line 3",
        "line 4 is not a ledger line",
        "line 5",
        "failures by code {'not_image'",
    ]
    assert of_ledger[1] == "line 3: position 3 is not between 3 and 5"
    assert of_ledger[3] == "line 5: key 'other', expected b'in#4'"
    assert of_ledger[4] == "failures by code {'not_image': 1}, the receipt says {'not_image': 2}"


def test_many_problems_of_a_file_are_counted_not_listed(layout, receipt):
    changed = replaced(layout, receipt, FEATURES, b"".join(record(9) for _ in range(100)))
    of_features = [what for name, what in problems(layout, changed) if name == FEATURES]
    assert len(of_features) == 6
    assert of_features[-1] == "96 more problems like these"  # 100 keys and the number of records


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"inputs": 6}, "3 features and 2 failures do not add up to 6 inputs"),
        (
            {"failures_by_code": {"not_image": 1}},
            "failures_by_code {'not_image': 1} do not add up to 2 failures",
        ),
        ({"input": {"rows": 4}}, "5 inputs, but the slice of the list has 4 rows"),
        ({"files": ()}, f"lists the files [], expected ['{FEATURES}', '{LEDGER}']"),
    ],
)
def test_a_receipt_that_contradicts_itself(layout, receipt, change, what):
    changed = dataclasses.replace(receipt, **change)
    assert ("receipts/00000-of-00001.json", what) in problems(layout, changed)
