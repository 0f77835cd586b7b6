"""Frames and checksums: native code and Python give the same bytes, and TensorFlow reads them."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf

from transforms import native
from transforms.records import checksums, frames, tfrecord

SIZES = [
    0,
    1,
    7,
    8,
    9,
    255,
    16383,
    16384,
    16391,
    32767,
    32768,
    32769,
    32800,
    100_003,
    1 << 20,
    (1 << 20) + 31,
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", [0, 0x12345678, 0xFFFFFFFF])
def test_a_checksum_goes_on_from_any_other(size, start):
    assert native.has_crc(), "the native code is not built: ./run_tests.sh does it, with a C compiler"
    data = np.random.RandomState(size).bytes(size)
    expected = google_crc32c.extend(start, data)
    assert checksums.crc32c(data, start) == checksums.crc32c(memoryview(data), start) == expected
    assert native.LIBRARY.crc32c(start, data, size) == expected
    assert checksums.crc32c(memoryview(b"x" + data)[1:], start) == expected  # not aligned


def test_a_checksum_without_the_native_code(monkeypatch):
    monkeypatch.setattr(checksums, "_native", None)
    data = bytes(range(256)) * 1000
    assert checksums.crc32c(data) == checksums.crc32c(memoryview(data)) == google_crc32c.value(data)


def parts(random: np.random.RandomState, count: int, kinds: int, rows: int) -> list[frames.Parts]:
    """Records whose pieces have 0 to 299 bytes."""
    return [
        frames.Parts(int(random.randint(rows)), [random.bytes(random.randint(300)) for _ in range(kinds + 1)])
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 64])
@pytest.mark.parametrize("widths", [(), (6144,), (1,), (3, 6144, 5)])
def test_records_are_framed_alike(tmp_path, monkeypatch, count, widths):
    random = np.random.RandomState(count)
    vectors = [random.standard_normal((9, width)).astype(np.float32) for width in widths]
    records = parts(random, count, len(widths), 9)
    stored = bytes(frames.framed(records, vectors))
    path = tmp_path / "a.tfrecord"
    path.write_bytes(stored)
    read = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    assert read == [frames.joined(record, vectors) for record in records]
    monkeypatch.setattr(native, "LIBRARY", None)
    assert frames.framed(records, vectors) == stored


def test_vectors_of_any_layout(monkeypatch):
    random = np.random.RandomState(0)
    wide = random.standard_normal((8, 2, 3)).astype(np.float32)
    layouts = [wide, wide[:, :, ::2], wide[::2], np.asfortranarray(wide)]
    records = parts(random, 6, len(layouts), 4)
    stored = bytes(frames.framed(records, layouts))
    assert stored == b"".join(tfrecord.frame(frames.joined(record, layouts)) for record in records)


@pytest.mark.parametrize("row", [-1, 4, 10**7])
@pytest.mark.parametrize("built", [True, False], ids=["native", "python"])
def test_a_row_that_is_not_there_is_refused(monkeypatch, row, built):
    if not built:
        monkeypatch.setattr(native, "LIBRARY", None)
    vectors = [np.zeros((9, 3), np.float32), np.zeros((4, 2), np.float32)]
    records = [frames.Parts(3, [b"a", b"b", b"c"]), frames.Parts(row, [b"a", b"b", b"c"])]
    with pytest.raises(IndexError):
        frames.framed(records, vectors)


@pytest.mark.parametrize("pieces", [[b"a"], [b"a", b"b", b"c"]])
@pytest.mark.parametrize("built", [True, False], ids=["native", "python"])
def test_pieces_and_vectors_that_do_not_match_are_refused(monkeypatch, pieces, built):
    if not built:
        monkeypatch.setattr(native, "LIBRARY", None)
    with pytest.raises(ValueError, match=r"pieces|argument"):
        frames.framed([frames.Parts(0, pieces)], [np.zeros((1, 3), np.float32)])
