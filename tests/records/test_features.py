"""Feature files: TensorFlow reads them, and reading gives what was written."""

import io

import numpy as np
import pytest
import tensorflow as tf

from transforms.elements import Decoded
from transforms.errors import ItemError
from transforms.records import examples, features, tfrecord

ITEM = Decoded(
    b"photos#3", 3, 0, 640, 480, "ab" * 32, examples.from_columns({"label": 7, "tags": ["x", "y"]})
)
OUTPUTS = {
    "embedding": np.arange(300, dtype=np.float32) / 7,
    "top_class": np.array([5, 2**40], np.int64),
    "top_name": np.array([b"cat", b"dog"], object),
}


def test_tensorflow_reads_what_is_written(tmp_path):
    path = tmp_path / f"a{features.SUFFIX}"
    path.write_bytes(features.encode(ITEM, OUTPUTS) * 2)
    one, other = tf.data.TFRecordDataset(str(path))
    assert one.numpy() == other.numpy() == features.serialize(ITEM, OUTPUTS)
    read = tf.train.Example.FromString(one.numpy()).features.feature
    assert set(read) == {*features.STANDARD, *OUTPUTS, "label", "tags"}
    assert read["key"].bytes_list.value == [b"photos#3"]
    assert read["image/width"].int64_list.value == [640]
    np.testing.assert_array_equal(read["embedding"].float_list.value, OUTPUTS["embedding"])


def test_what_is_read_is_what_was_written():
    stored = features.encode(ITEM, OUTPUTS)
    first, second = features.read(io.BytesIO(stored * 2))
    assert (first.offset, second.offset) == (0, len(stored))
    assert first.stored == stored
    values = first.values()
    assert values["embedding"].dtype == np.float32
    np.testing.assert_array_equal(values.pop("embedding"), OUTPUTS["embedding"])
    assert values == {
        "key": [b"photos#3"],
        "image/width": [640],
        "image/height": [480],
        "image/sha256": [b"ab" * 32],
        "top_class": [5, 2**40],
        "top_name": [b"cat", b"dog"],
        "label": [7],
        "tags": [b"x", b"y"],
    }


def test_the_bytes_do_not_depend_on_the_order_of_the_outputs():
    backwards = dict(reversed(OUTPUTS.items()))
    assert features.encode(ITEM, OUTPUTS) == features.encode(ITEM, backwards)


def test_damage_is_told_and_the_records_around_it_are_read():
    stored = features.encode(ITEM, OUTPUTS)
    broken = bytearray(stored)
    broken[20] ^= 1
    first, damage, last = features.read(io.BytesIO(stored + broken + stored))
    assert (first.stored, last.stored) == (stored, stored)
    assert isinstance(damage, features.Damage)
    assert (damage.offset, damage.length) == (len(stored), len(stored))


def test_a_record_that_is_no_example_is_an_error_of_its_own():
    (record,) = features.read(io.BytesIO(tfrecord.frame(b"\xff\xff")))
    with pytest.raises(ItemError, match=r"not a tf\.Example"):
        record.values()
