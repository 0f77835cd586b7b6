"""TFRecord framing against TensorFlow's own reader and writer, and the records recovered from damaged files."""

import io
import itertools
import os
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import native
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
    unchecked = tfrecord.read(io.BytesIO(tfrecord.frame(records[2]) + content), check=False)
    assert [type(item) for item in unchecked] == [Record, Damage, Record]


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


# checksums that are compared later


class ByBlocks:
    """A stream with `read_block`, as that of a file in a store: the blocks are of the given sizes, again and again."""

    def __init__(self, content: bytes, sizes):
        self._stream, self._sizes = io.BytesIO(content), itertools.cycle(sizes)

    def read_block(self) -> bytes:
        return self._stream.read(next(self._sizes))

    def read(self, count: int) -> bytes:
        raise AssertionError("read_block is preferred")

    read1 = read


class ByRead1(ByBlocks):
    """A stream with `read1`, as that of a compressed file."""

    read_block = None

    def read1(self, count: int) -> bytes:
        return self._stream.read(min(count, next(self._sizes)))


class ByRead:
    """A stream that has nothing else."""

    def __init__(self, content: bytes, sizes):
        self._stream = ByRead1(content, sizes)

    def read(self, count: int) -> bytes:
        return self._stream.read1(count)


@st.composite
def damaged_files(draw) -> bytes:
    """Records, some within others, with bytes flipped, cut out, inserted or set to zero; perhaps cut off."""
    inner = tfrecord.frame(b"inner")
    bodies = st.binary(max_size=40) | st.just(inner) | st.just(3 * inner + b"x") | st.just(bytes(70))
    content = bytearray(b"".join(map(tfrecord.frame, draw(st.lists(bodies, max_size=6)))))
    for _ in range(draw(st.integers(0, 3))):
        at, count = draw(st.integers(0, len(content))), draw(st.integers(1, 30))
        how = draw(st.sampled_from(["flip", "cut", "insert", "zero", "end"]))
        if how == "flip" and at < len(content):
            content[at] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del content[at : at + count]
        elif how == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=30) | st.just(inner) | st.just(inner[:14]))
        elif how == "zero":
            content[at : at + count] = bytes(len(content[at : at + count]))
        elif how == "end":
            del content[at:]
    return bytes(content)


def compared_later(items) -> list:
    """What a caller makes of records whose checksums it compares itself."""

    def compared(item):
        if isinstance(item, Damage):
            return item
        if item.crc and not framing.is_sum_of(item.crc, item.data):
            return Damage(item.offset, len(item.data) + 16, tfrecord.WRONG_CHECKSUM)
        return Record(item.offset, bytes(item.data))

    return list(map(compared, items))


@settings(max_examples=1000, deadline=None)
@given(
    damaged_files(),
    st.sampled_from([ByBlocks, ByRead1, ByRead]),
    st.lists(st.integers(1, 100), min_size=1, max_size=5),
    st.data(),
)
def test_checksums_that_are_compared_later_give_the_same_records_and_damage(content, kind, sizes, data):
    whole = read(content)
    assert list(tfrecord.read(kind(content, sizes))) == whole
    assert compared_later(tfrecord.read(kind(content, sizes), check=False)) == whole
    with mock.patch.object(native, "LIBRARY", None):
        assert compared_later(tfrecord.read(kind(content, sizes), check=False)) == whole
    offsets = sorted(
        {0, len(content), *(item.offset for item in whole), *(item.offset + 1 for item in whole)}
    )
    start, end = (data.draw(st.sampled_from(offsets)) for _ in range(2))
    for aligned in (False, True):
        in_range = [
            compared_later(tfrecord.read(kind(content[start:], sizes), start, end, aligned, check=check))
            for check in (True, False)
        ]
        assert in_range[0] == in_range[1]


def test_most_records_are_views_of_the_blocks_that_were_read(records, content, starts):
    read = list(tfrecord.read(ByBlocks(content, [1 << 20]), check=False))
    assert compared_later(read) == [Record(*pair) for pair in zip(starts, records, strict=False)]
    assert [type(item.data) for item in read] == [memoryview] * len(SIZES)
    assert all(item.crc for item in read)
    small = [item.data.obj for item in read if len(item.data) <= 70_000]
    assert len({id(block) for block in small}) == 1  # of which nothing was copied


def test_headers_are_found_without_python(records, content, monkeypatch):
    monkeypatch.setattr(framing, "_HEADERS", 4)
    seen, length = [], framing.record_length
    monkeypatch.setattr(framing, "record_length", lambda header: seen.append(header) or length(header))
    small = b"".join(map(tfrecord.frame, records[:4] * 5))
    read = list(tfrecord.read(ByBlocks(small, [1 << 20]), check=False))
    assert [bytes(item.data) for item in read] == records[:4] * 5
    assert all(item.crc for item in read)
    assert len(seen) <= 1 + 2 * 20 / 4  # of the last of each four, whether another one follows


def test_the_first_error_of_a_compressed_stream_is_told_and_damage_at_its_end_once():
    class Broken:
        """Two records, the second with a wrong checksum, and then nothing but errors, each another one."""

        def __init__(self):
            good, bad = tfrecord.frame(b"good"), bytearray(tfrecord.frame(b"bad"))
            bad[-1] ^= 1
            self.parts = [good + bad]
            self.errors = 0

        def read(self, count):
            if self.parts:
                return self.parts.pop()
            self.errors += 1
            raise EOFError(f"error {self.errors}")

    for check in (True, False):
        first, damage, *rest = tfrecord.read(Broken(), check=check)
        assert (bytes(first.data), first.crc) == (b"good", b"" if check else first.crc)
        assert (damage.reason, damage.offset) == ("wrong data checksum", 20)
        assert not rest
    cut = tfrecord.frame(b"good")[:-1]
    stream = Broken()
    stream.parts = [cut]
    (damage,) = tfrecord.read(stream)
    assert "the compressed file is damaged (error 1)" in damage.reason
