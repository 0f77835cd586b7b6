"""TFRecord framing against TensorFlow's own reader and writer, and the records recovered from damaged files."""

import io
import itertools
import os

import numpy as np
import pytest
import tensorflow as tf

from transforms.records import framing, tfrecord
from transforms.records.tfrecord import Damage, Record

SIZES = (0, 1, 11, 100, 5_000, 70_000, 1_500_000)


@pytest.fixture(scope="module")
def records():
    random = np.random.RandomState(0)
    return [random.bytes(size) for size in SIZES]


@pytest.fixture(scope="module")
def content(records):
    return b"".join(map(tfrecord.frame, records))


@pytest.fixture(scope="module")
def starts(records):
    return [int(at) for at in np.cumsum([0] + [len(record) + 16 for record in records])]


def read(content, start=0, end=None):
    stream = io.BytesIO(content)
    stream.seek(start)
    return list(tfrecord.read(stream, start, end))


def test_tensorflow_reads_what_we_write(tmp_path, records, content):
    (tmp_path / "a.tfrecord").write_bytes(content)
    assert [item.numpy() for item in tf.data.TFRecordDataset(str(tmp_path / "a.tfrecord"))] == records


def test_we_read_what_tensorflow_writes(tmp_path, records, content):
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for record in records:
            writer.write(record)
    assert (tmp_path / "a.tfrecord").read_bytes() == content


def test_records_with_their_offsets(records, content, starts):
    assert read(content) == [Record(start, record) for start, record in zip(starts, records, strict=False)]
    assert read(b"") == []


@pytest.mark.parametrize("victim", range(len(SIZES)))
@pytest.mark.parametrize("part", ["length", "length checksum", "data", "data checksum"])
def test_a_flipped_bit_costs_one_record(records, content, starts, victim, part):
    size = len(records[victim])
    at = {"length": 0, "length checksum": 8, "data": 12, "data checksum": 12 + size}[part]
    damaged = bytearray(content)
    damaged[starts[victim] + at] ^= 4
    expected = [Record(start, record) for start, record in zip(starts, records, strict=False)]
    items = read(bytes(damaged))
    assert [item for item in items if isinstance(item, Record)] == expected[:victim] + expected[victim + 1 :]
    (damage,) = [item for item in items if isinstance(item, Damage)]
    assert (damage.offset, damage.length) == (starts[victim], starts[victim + 1] - starts[victim])


def test_a_cut_tail(records, content, starts):
    for cut in (1, 11, 12, 13, 20, 200, 60_000):
        whole = sum(start <= cut for start in starts[1:])
        *items, damage = read(content[:cut]) if cut not in starts else [*read(content[:cut]), None]
        assert [item.data for item in items] == records[:whole]
        if damage:
            assert (damage.offset, damage.length) == (starts[whole], cut - starts[whole])


@pytest.mark.parametrize("size", [1, 1000, 3_000_000])
def test_garbage_in_the_middle(records, content, starts, size):
    at = starts[3]
    items = read(content[:at] + os.urandom(size) + content[at:])
    assert [item.data for item in items if isinstance(item, Record)] == records
    assert [item for item in items if isinstance(item, Damage)] == [Damage(at, size, tfrecord.NO_HEADER)]


@pytest.mark.parametrize("victim", range(2, len(SIZES)))
@pytest.mark.parametrize("missing", [1, 9, 60])
def test_missing_bytes_cost_one_record(records, content, starts, victim, missing):
    at = starts[victim] + 14
    missing = min(missing, len(records[victim]) - 4)
    damaged = content[:at] + content[at + missing :]
    items = read(damaged)
    assert [item.data for item in items if isinstance(item, Record)] == records[:victim] + records[
        victim + 1 :
    ]
    (damage,) = [item for item in items if isinstance(item, Damage)]
    assert (damage.offset, damage.length) == (starts[victim], len(records[victim]) + 16 - missing)
    offsets = list(tfrecord.starts(io.BytesIO(damaged), len(damaged)))
    assert offsets == [item.offset for item in items]


def test_a_record_cut_short_by_the_next_ones_costs_itself_alone(records):
    """Its length points past the end of the file."""
    content = tfrecord.frame(records[3]) + tfrecord.frame(bytes(5000))[:400] + tfrecord.frame(records[2]) * 3
    items = read(content)
    assert [item.data for item in items if isinstance(item, Record)] == [records[3], *[records[2]] * 3]
    assert [item.offset for item in items] == list(tfrecord.starts(io.BytesIO(content), len(content)))


def test_garbage_behind_an_intact_record_leaves_it_alone(records):
    content = tfrecord.frame(records[3]) + os.urandom(500) + tfrecord.frame(records[2])
    items = read(content)
    assert [type(item) for item in items] == [Record, Damage, Record]
    assert [item.offset for item in items] == list(tfrecord.starts(io.BytesIO(content), len(content)))


def test_nothing_but_garbage_or_zeros():
    for content in (os.urandom(5_000_000), bytes(5_000_000), b"text " * 1000):
        assert read(content) == [Damage(0, len(content), tfrecord.NO_HEADER)]


def test_a_length_beyond_all_bounds_is_damage(monkeypatch, records):
    monkeypatch.setattr(framing, "MAX_RECORD_BYTES", 1000)
    content = tfrecord.frame(records[5]) + tfrecord.frame(records[2])
    assert [type(item) for item in read(content)] == [Damage, Record]


def test_byte_ranges_share_the_records_out_without_loss(records, content):
    for step in (7_001, 70_000, 400_000):
        edges = [*range(0, len(content), step), len(content)]
        parts = [read(content, start, end) for start, end in itertools.pairwise(edges)]
        assert [item.data for part in parts for item in part] == records


def test_byte_ranges_share_the_damage_out_too(content, starts):
    damaged = bytearray(content)
    damaged[starts[6] + 3] ^= 1  # the header of the longest record, which spans several ranges
    whole = read(bytes(damaged))
    edges = [*range(0, len(content), 200_000), len(content)]
    items = [item for start, end in itertools.pairwise(edges) for item in read(bytes(damaged), start, end)]
    assert items == whole
