"""ShardWriter: the first of two attempts wins, and the receipt is correct."""

import json

import google_crc32c

from tests import helpers
from tests.fakes import SHARD, bad, feature_chunk
from transforms.commit import receipts
from transforms.commit.layout import Layout
from transforms.commit.writer import ShardWriter
from transforms.elements import FeatureChunk


def test_the_attempt_that_commits_first_wins(tmp_path):
    layout = Layout(str(tmp_path))
    slow, fast = ShardWriter(layout, SHARD, {}), ShardWriter(layout, SHARD, {})
    slow.append(feature_chunk(0, 2, last=True))
    fast.append(feature_chunk(0, 4, last=True))
    won = fast.commit()
    before = helpers.contents(tmp_path)
    assert slow.commit() == won
    assert helpers.contents(tmp_path) == before
    assert won.features == 4


def test_a_receipt_tells_size_and_checksum_of_its_files(tmp_path):
    writer = ShardWriter(Layout(str(tmp_path)), SHARD, {"precision": "float32"})
    writer.append(feature_chunk(0, 2))
    writer.append(FeatureChunk(SHARD, 2, True, (bad(2),), {}, {}))
    receipt = writer.commit()
    assert receipt == receipts.read_receipt(Layout(str(tmp_path)), SHARD.label)
    assert (receipt.inputs, receipt.features, receipt.failures, receipt.failures_by_code) == (
        3,
        2,
        1,
        {"code": 1},
    )
    for file in receipt.files:
        data = (tmp_path / file.name).read_bytes()
        assert (file.bytes, file.crc32c) == (len(data), f"{google_crc32c.value(data):08x}")
    (line,) = (tmp_path / "failures-00001-of-00003.jsonl").read_text().splitlines()
    assert json.loads(line) == {"key": "k2", "position": 2, "stage": "read", "code": "code", "message": "why"}
