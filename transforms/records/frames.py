"""Many records with vectors in them, framed as in a TFRecord file: in native code, and in Python with the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from transforms import native
from transforms.records import tfrecord
from transforms.records.framing import FRAME_BYTES


class Parts(NamedTuple):
    """A record: `pieces[0]`, the first vector of row `row`, `pieces[1]`, the second one, ..., the last piece."""

    row: int
    pieces: Sequence[bytes]


def joined(parts: Parts, vectors: Sequence[np.ndarray]) -> bytes:
    """The record without a frame. `vectors`: float32, little-endian, (rows, ...) each."""
    if parts.row < 0:
        raise IndexError(f"row {parts.row}")
    data = [parts.pieces[0]]
    for values, piece in zip(vectors, parts.pieces[1:], strict=True):
        data += values[parts.row].tobytes(), piece
    return b"".join(data)


def framed(records: Sequence[Parts], vectors: Sequence[np.ndarray]) -> memoryview:
    """The records one after the other, each with its header and footer. `vectors`: as in `joined`.

    Raises IndexError for a row that a vector does not have, ValueError for another number of pieces than the vectors need."""
    if not native.has_crc():
        return memoryview(b"".join(tfrecord.frame(joined(parts, vectors)) for parts in records))
    assert native.LIBRARY
    pieces = list(chain.from_iterable([parts.pieces for parts in records]))
    sizes = np.array(list(map(len, pieces)), np.int32)
    rows = np.array([parts.row for parts in records], np.int32)
    arrays = [np.ascontiguousarray(values).reshape(len(values), -1) for values in vectors]
    # The native code looks at no bounds.
    if len(records) and arrays and not 0 <= rows.min() <= rows.max() < min(map(len, arrays)):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {min(map(len, arrays))}")
    if {len(parts.pieces) for parts in records} - {len(arrays) + 1}:
        raise ValueError(f"a record with {len(arrays)} vectors has {len(arrays) + 1} pieces")
    table = (native.Vectors * len(arrays))(*(native.Vectors(v.ctypes.data, v[0].nbytes) for v in arrays))
    frame_bytes = FRAME_BYTES + sum(values[0].nbytes for values in arrays)
    out = np.empty(int(sizes.sum()) + len(records) * frame_bytes, np.uint8)
    native.LIBRARY.frames(
        b"".join(pieces),
        sizes.ctypes.data,
        rows.ctypes.data,
        len(records),
        table,
        len(arrays),
        out.ctypes.data,
    )
    return out.data
