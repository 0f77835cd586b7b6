"""Feature files: TFRecords, one tf.Example per image, as TensorFlow reads and writes them. Only this module knows that.

Records have the bytes of protobuf's deterministic option, which sorts the features by name. (tfx_bsl's
RecordBatchToExamplesEncoder orders them differently in each call, so its bytes differ from run to run;
`python -m benchmarks.encode` shows this, and times both.)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf import message

from transforms.elements import Decoded
from transforms.records import examples, frames, tfrecord, uniform
from transforms.records.framing import Readable
from transforms.records.tfrecord import Damage

SUFFIX = ".tfrecord"
KEY, WIDTH, HEIGHT, SHA256 = "key", "image/width", "image/height", "image/sha256"
STANDARD = (KEY, WIDTH, HEIGHT, SHA256)  # features of each record besides the model's outputs


@dataclass(frozen=True)
class Record:
    """One intact record; `offset` is its position in the file, in bytes."""

    offset: int
    data: bytes  # a serialized tf.Example

    @property
    def stored(self) -> bytes:
        """Its bytes as stored in the file, framed."""
        return tfrecord.frame(self.data)

    def values(self) -> dict[str, Any]:
        """Feature name -> a float32 array (n,), or a list of integers or bytes. Raises ItemError 'bad_example'."""
        return {
            name: values_of(feature) for name, feature in examples.parse(self.data).features.feature.items()
        }


def encode(items: Sequence[Decoded], outputs: Mapping[str, np.ndarray]) -> memoryview:
    """The records of images, framed as stored in the file.

    Args:
      items: the images' keys, sizes, checksums, passed-through features, and rows.
      outputs: the model's outputs by name, each (batch, ...): float32, int64 or bytes.
    """
    records, vectors = _records(items, outputs)
    return frames.framed(records, vectors)


def serialize(item: Decoded, outputs: Mapping[str, np.ndarray]) -> bytes:
    """The record of one image without its frame: a serialized tf.Example."""
    (record,), vectors = _records([item], outputs)
    return frames.joined(record, vectors)


def _records(
    items: Sequence[Decoded], outputs: Mapping[str, np.ndarray]
) -> tuple[list[frames.Parts], list[np.ndarray]]:
    """The parts of each record, in the bytes of protobuf's deterministic serialization: its entries sorted by name.

    Put together here, as the message classes would take most of the time in which a batch is written."""
    floats = {
        name: (np.asarray(values, "<f4"), 4 * values[0].size)
        for name, values in outputs.items()
        if values.dtype.kind == "f"
    }
    others = [(name, values) for name, values in outputs.items() if name not in floats]
    entries = {name: _head(name, _FLOATS, size) for name, (_, size) in floats.items()}
    vectors_bytes = sum(size for _, size in floats.values())
    own, with_vectors = (*STANDARD, *outputs), tuple(floats)
    runs_of_own = _runs(own, with_vectors)
    records: list[frames.Parts] = []
    for item in items:
        entries[KEY] = _head(KEY, _BYTES, len(item.key)) + item.key
        entries[SHA256] = _head(SHA256, _BYTES, len(item.sha256)) + item.sha256.encode()
        entries[WIDTH] = _integers(WIDTH, item.width)
        entries[HEIGHT] = _integers(HEIGHT, item.height)
        for name, values in others:
            row = values[item.row].tolist()
            entries[name] = _integers(name, *row) if values.dtype.kind in "iu" else _texts(name, row)
        runs = runs_of_own
        if item.passed:
            passed = dict(_entries(item.passed))
            runs = _runs((*own, *passed), with_vectors)
            entries.update(passed)
        pieces = [b"".join([entries[name] for name in run]) for run in runs]
        pieces[0] = _opening(vectors_bytes + sum(map(len, pieces))) + pieces[0]
        records.append(frames.Parts(item.row, pieces))
    return records, [floats[run[-1]][0] for run in runs_of_own[:-1]]


@functools.lru_cache(256)
def _runs(names: tuple[str, ...], floats: tuple[str, ...]) -> list[list[str]]:
    """The names of a record in order, cut behind each of those with a vector."""
    runs: list[list[str]] = [[]]
    for name in sorted(names, key=_order):
        runs[-1].append(name)
        if name in floats:
            runs.append([])
    return runs


@functools.lru_cache(4096)
def _opening(size: int) -> bytes:
    """What comes before the `size` bytes of all entries."""
    return b"\x0a" + _varint(size)


def _entries(features: bytes) -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of each entry of a serialized Features message. Raises IndexError or ValueError if it is none."""
    at = 0
    while at < len(features):
        start, end = _enter(features, at)
        first, last = _enter(features, start)
        yield features[first:last].decode(), features[at:end]
        at = end
    if at > len(features):
        raise ValueError("the last entry is not complete")


def _order(name: str) -> tuple[int, ...]:
    """Protobuf's order of names: by their bytes, but a name that begins with another one comes before that."""
    return (*name.encode(), 256)


_BYTES, _FLOATS, _INTEGERS = b"\x0a", b"\x12", b"\x1a"  # the tags of Feature's three kinds of list


@functools.lru_cache(4096)
def _head(name: str, kind: bytes, size: int) -> bytes:
    """What comes before the `size` bytes of the only value, or of the packed numbers, in the entry of a feature."""
    value = b"\x0a" + _varint(size)
    values = kind + _varint(len(value) + size) + value
    text = name.encode()
    entry = b"\x0a" + _varint(len(text)) + text + b"\x12" + _varint(len(values) + size) + values
    return b"\x0a" + _varint(len(entry) + size) + entry


@functools.lru_cache(4096)
def _integers(name: str, *values: int) -> bytes:
    packed = b"".join(_varint(value & 0xFFFFFFFFFFFFFFFF) for value in values)
    return _head(name, _INTEGERS, len(packed)) + packed


def _texts(name: str, values: Sequence[bytes]) -> bytes:
    feature = {name: {"bytes_list": {"value": values}}}
    return examples.Features(feature=feature).SerializeToString(deterministic=True)


def read(stream: Readable) -> Iterator[Record | Damage]:
    """The records of a feature file, in order, and the damage between them."""
    for item in tfrecord.read(stream):
        yield item if isinstance(item, Damage) else Record(item.offset, bytes(item.data))


Vectors = tuple[tuple[str, int], ...]  # names, and values of each


def split(data: bytes | memoryview, vectors: Vectors) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
    """The vectors of a serialized tf.Example by name, float32 (values,), and its other features as messages.

    Vectors are not parsed but views into `data`: in bytes that `encode` has written, an entry of the map is known by its
    head, and the rest is a map again. Records in other bytes are parsed as a whole. A vector that has another number of
    values than `vectors` says is among the other features. Raises ItemError 'bad_example'.
    """
    found: dict[str, np.ndarray] = {}
    rest: list[bytes | memoryview] = []
    heads = _vector_heads(vectors)
    try:
        at, end = _enter(data, 0)
        if end != len(data):
            raise ValueError("more than one field")
        kept = at
        while at < end and len(found) < len(heads):
            _, after = _enter(data, at)
            for name, size, head in heads:
                start = after - 4 * size
                if start - len(head) == at and data[at:start] == head:
                    found[name] = np.frombuffer(data, "<f4", size, start)
                    rest.append(data[kept:at])
                    kept = after
            at = after
        rest.append(data[kept:])
        others = examples.Features.FromString(b"".join(rest)).feature
    except (IndexError, ValueError, message.DecodeError):
        found, others = {}, examples.parse(bytes(data)).features.feature
    if len(found) == len(vectors):
        return found, others
    for name, size in vectors:  # in another form, as other writers leave it
        if name not in found and name in others and len(values := values_of(others[name])) == size:
            found[name] = np.asarray(values, "<f4")
    return found, {name: feature for name, feature in others.items() if name not in found}


def split_all(
    records: Sequence[bytes | memoryview], vectors: Vectors, arrays: Mapping[str, np.ndarray] | None = None
) -> dict[str, uniform.Texts | np.ndarray]:
    """As `split`, for many records in the bytes of `encode`, with one value in each feature that is no vector.

    Args:
      records: serialized tf.Examples.
      vectors: names, and values of each.
      arrays: receive the vectors by name, float32 (records, values) each, if they are asked for.

    Returns the other features by name, see `uniform.parse`. Raises NotUniform for other records.
    """
    heads = sorted(_vector_heads(vectors), key=lambda head: _order(head[0]))
    # Where the vectors start: in most records where they did in the one before. `parse` proves that entries start there.
    places = [0] * len(heads)
    parts: list[bytes | memoryview] = []
    # As bytes: NumPy would take longer to look at a row than to copy it.
    rows = {name: values.reshape(-1).data.cast("B") for name, values in (arrays or {}).items()}
    try:
        for row, record in enumerate(records):
            kept, data = 0, memoryview(record)
            for number, (name, size, head) in enumerate(heads):
                place = places[number]
                if data[kept if place < kept + len(head) else place - len(head) : place] != head:
                    place = places[number] = _after(head, data)
                parts.append(data[kept : place - len(head)])
                kept = place + 4 * size
                if rows:
                    rows[name][row * 4 * size : (row + 1) * 4 * size] = data[place:kept]
            parts.append(data[kept:])
    except (IndexError, ValueError) as error:
        raise uniform.NotUniform(str(error)) from error
    removed = sum(len(head) + 4 * size for _, size, head in heads)
    return uniform.parse(parts, len(heads) + 1, removed)


def _after(head: bytes, data: bytes | memoryview) -> int:
    """Where the entry that begins with `head` has its vector. Raises IndexError or ValueError if there is none."""
    at, end = _enter(data, 0)
    while at < end:
        if data[at : at + len(head)] == head:
            return at + len(head)
        _, at = _enter(data, at)
    raise ValueError("no such vector")


@functools.lru_cache(64)
def _vector_heads(vectors: Vectors) -> list[tuple[str, int, bytes]]:
    return [(name, size, _head(name, _FLOATS, 4 * size)) for name, size in vectors]


def _enter(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Where the value of the field at `at`, the first of its message and of variable length, starts and ends.

    Raises IndexError or ValueError if there is none."""
    if data[at] != 0x0A:
        raise ValueError("another field")
    at += 1
    length = shift = 0
    while (byte := data[at]) > 127:
        length |= (byte & 127) << shift
        shift += 7
        at += 1
    at += 1
    return at, at + (length | byte << shift)


def values_of(feature) -> np.ndarray | list[Any]:
    """The values of one feature: a float32 array (n,), or a list of integers or bytes."""
    kind = feature.WhichOneof("kind")
    if kind == "float_list":  # without boxing each value
        count = len(feature.float_list.value)
        packed = feature.float_list.SerializeToString()
        return np.frombuffer(packed, "<f4", count, len(packed) - 4 * count)
    return list(getattr(feature, kind).value) if kind else []


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
