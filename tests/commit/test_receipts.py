"""Receipts: their bytes, and when two of them stand for the same request or input."""

import dataclasses
import json

import pytest

from transforms.commit import receipts
from transforms.commit.files import FileSummary
from transforms.commit.layout import Layout
from transforms.commit.receipts import Receipt
from transforms.storage import door

RECEIPT = Receipt(
    shard="00001-of-00003",
    name="in.tfrecord",
    input={"size_bytes": 100, "modified": 5.0, "crc32c": "0badcafe"},
    inputs=3,
    features=2,
    failures=1,
    failures_by_code={"not_found": 1},
    files=(FileSummary("features-00001-of-00003.tfrecord", 11, "00000001"),),
    outputs={"embedding": 4},
    fingerprint={"precision": "float32", "model": {"name": "bit/m-r50x1", "weights": "sha256:1"}},
    model={"route": "checkpoint"},
)


def write(layout: Layout, label: str, data: bytes = b"") -> None:
    door.write_atomic(layout.receipt(label), data or dataclasses.replace(RECEIPT, shard=label).to_json())


def test_a_receipt_is_read_as_it_was_written():
    data = RECEIPT.to_json()
    assert Receipt.from_json(data) == RECEIPT
    assert Receipt.from_json(data).to_json() == data
    values = json.loads(data)
    assert list(values) == sorted(values)
    assert values["files"] == [
        {"name": "features-00001-of-00003.tfrecord", "bytes": 11, "crc32c": "00000001"}
    ]
    assert values["format"] == 1
    assert "replacing" not in values


def test_states_of_a_shard_have_different_digests():
    marked = dataclasses.replace(RECEIPT, replacing="an-attempt")
    assert RECEIPT.digest == dataclasses.replace(RECEIPT).digest
    assert (
        RECEIPT.digest == "9e5121673773e250"
    )  # of the same bytes in every version: retries name receipts by it
    assert marked.digest != RECEIPT.digest
    assert Receipt.from_json(marked.to_json()).replacing == "an-attempt"


def test_a_receipt_knows_its_files_by_name():
    assert RECEIPT.file("features-00001-of-00003.tfrecord") == RECEIPT.files[0]
    assert RECEIPT.file("failures-00001-of-00003.jsonl") is None


def test_receipts_are_read_in_the_order_of_their_shards(tmp_path):
    layout = Layout(str(tmp_path))
    assert (receipts.read_receipts(layout), receipts.labels(layout)) == ([], [])
    assert receipts.read_receipt(layout, "00001-of-00003") is None
    for label in ("00002-of-00003", "00000-of-00003"):
        write(layout, label)
    assert receipts.labels(layout) == ["00000-of-00003", "00002-of-00003"]
    assert [receipt.shard for receipt in receipts.read_receipts(layout)] == receipts.labels(layout)
    assert receipts.read_receipt(layout, "00002-of-00003").shard == "00002-of-00003"


def test_hidden_files_are_no_receipts(tmp_path):
    layout = Layout(str(tmp_path))
    write(layout, "00000-of-00001")
    for name in (
        "._00000-of-00001.json",
        ".DS_Store",
        ".json",
    ):  # as macOS leaves them on disks of other systems
        (tmp_path / "receipts" / name).write_bytes(b"\0\5\x16\7")
    assert receipts.labels(layout) == ["00000-of-00001"]
    assert [receipt.shard for receipt in receipts.read_receipts(layout)] == ["00000-of-00001"]


def test_receipts_share_what_they_have_in_common_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(receipts, "_AT_ONCE", 2)
    layout = Layout(str(tmp_path))
    changed = {3: {"model": {"route": "module"}}, 4: {"input": {"rows": 7}}}
    for index in range(5):
        receipt = dataclasses.replace(RECEIPT, shard=f"{index:05d}-of-00005", **changed.get(index, {}))
        write(layout, receipt.shard, receipt.to_json())
    read = list(receipts.each(layout))
    assert [r.to_json() for r in read] == [
        door.read_bytes(layout.receipt(f"{index:05d}-of-00005")) for index in range(5)
    ]
    assert all(r.fingerprint is read[0].fingerprint for r in read)
    assert read[2].model is read[0].model
    assert [r.model["route"] for r in read] == ["checkpoint"] * 3 + ["module", "checkpoint"]
    assert [r.input.get("rows") for r in read] == [None] * 4 + [7]


@pytest.mark.parametrize("data", [b"{", b"[]", b"{}", b"3", b'{"files": [{"name": "a"}]}'])
def test_a_damaged_receipt_is_named_with_what_to_do(tmp_path, data):
    layout = Layout(str(tmp_path))
    write(layout, "00000-of-00003", data)
    with pytest.raises(
        ValueError, match=r"receipts/00000-of-00003\.json is not a receipt .*: delete it and run"
    ):
        receipts.read_receipts(layout)


def test_differences_have_dotted_names():
    old = {"a": 1, "b": {"c": 1, "d": {"e": 2}}, "gone": 0}
    new = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "new": {}}
    expected = {"b.c": (1, 2), "b.d.e": (2, 3), "gone": (0, None), "new": (None, {})}
    assert receipts.differences(old, new) == expected


def test_a_model_may_have_another_name_but_not_other_weights():
    model = {"name": "https://tfhub.dev/google/bit/m-r50x1/1", "weights": "sha256:1"}
    renamed = {**RECEIPT.fingerprint, "model": model}
    assert receipts.same_fingerprint(RECEIPT.fingerprint, renamed)
    assert not receipts.same_fingerprint(
        RECEIPT.fingerprint, {**renamed, "model": {**model, "weights": "sha256:2"}}
    )
    assert not receipts.same_fingerprint(RECEIPT.fingerprint, {**renamed, "precision": "bfloat16"})


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"modified": 6.0}, True),
        ({"crc32c": "0badbeef"}, False),
        ({"size_bytes": 101}, False),
        ({"crc32c": ""}, False),
    ],
)
def test_inputs_are_the_same_if_their_bytes_are(change, same):
    assert receipts.same_bytes(RECEIPT.input, {**RECEIPT.input, **change}) == same


def test_without_checksums_the_time_decides():
    unread = {**RECEIPT.input, "crc32c": ""}
    assert receipts.same_bytes(unread, dict(unread))
    assert not receipts.same_bytes(unread, {**unread, "modified": 6.0})
