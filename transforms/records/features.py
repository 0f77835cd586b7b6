"""Feature files: TFRecords, one tf.Example per image, as TensorFlow reads and writes them. Only this module knows that.

Records are serialized with protobuf's deterministic option, which sorts the features by name. (tfx_bsl's
RecordBatchToExamplesEncoder orders them differently in each call, so its bytes differ from run to run;
`python -m benchmarks.encode` shows this, and times both.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transforms.elements import Decoded
from transforms.records import examples, tfrecord
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
            name: _values(feature) for name, feature in examples.parse(self.data).features.feature.items()
        }


def encode(item: Decoded, outputs: Mapping[str, np.ndarray]) -> bytes:
    """The record of one image, framed as stored in the file.

    Args:
      item: the image's key, size, checksum and passed-through features.
      outputs: this image's value of each output, one-dimensional: float32, int64 or bytes.
    """
    return tfrecord.frame(serialize(item, outputs))


def serialize(item: Decoded, outputs: Mapping[str, np.ndarray]) -> bytes:
    """The record of `encode` without its frame: a serialized tf.Example."""
    example = examples.Example()
    if item.passed:
        example.features.MergeFromString(item.passed)
    feature = example.features.feature
    feature[KEY].bytes_list.value.append(item.key)
    feature[WIDTH].int64_list.value.append(item.width)
    feature[HEIGHT].int64_list.value.append(item.height)
    feature[SHA256].bytes_list.value.append(item.sha256.encode())
    for name, values in outputs.items():
        if values.dtype.kind == "f":
            # The wire format of a packed repeated float: extend() would box each of the thousands of values.
            data = values.astype("<f4", copy=False).tobytes()
            feature[name].float_list.MergeFromString(b"\x0a" + _varint(len(data)) + data)
        elif values.dtype.kind in "iu":
            feature[name].int64_list.value.extend(values.tolist())
        else:
            feature[name].bytes_list.value.extend(values.tolist())
    return example.SerializeToString(deterministic=True)


def read(stream: Readable) -> Iterator[Record | Damage]:
    """The records of a feature file, in order, and the damage between them."""
    for item in tfrecord.read(stream):
        yield item if isinstance(item, Damage) else Record(item.offset, item.data)


def _values(feature) -> np.ndarray | list[Any]:
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
