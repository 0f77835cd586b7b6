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
    "embedding": np.arange(300, dtype=np.float32)[None] / 7,
    "top_class": np.array([[5, 2**40]], np.int64),
    "top_name": np.array([[b"cat", b"dog"]], object),
}


def test_tensorflow_reads_what_is_written(tmp_path):
    path = tmp_path / f"a{features.SUFFIX}"
    path.write_bytes(bytes(features.encode([ITEM], OUTPUTS)) * 2)
    one, other = tf.data.TFRecordDataset(str(path))
    assert one.numpy() == other.numpy() == features.serialize(ITEM, OUTPUTS)
    read = tf.train.Example.FromString(one.numpy()).features.feature
    assert set(read) == {*features.STANDARD, *OUTPUTS, "label", "tags"}
    assert read["key"].bytes_list.value == [b"photos#3"]
    assert read["image/width"].int64_list.value == [640]
    np.testing.assert_array_equal(read["embedding"].float_list.value, OUTPUTS["embedding"][0])


def test_what_is_read_is_what_was_written():
    stored = bytes(features.encode([ITEM], OUTPUTS))
    first, second = features.read(io.BytesIO(stored * 2))
    assert (first.offset, second.offset) == (0, len(stored))
    assert first.stored == stored
    values = first.values()
    assert values["embedding"].dtype == np.float32
    np.testing.assert_array_equal(values.pop("embedding"), OUTPUTS["embedding"][0])
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
    assert bytes(features.encode([ITEM], OUTPUTS)) == features.encode([ITEM], backwards)


def test_damage_is_told_and_the_records_around_it_are_read():
    stored = bytes(features.encode([ITEM], OUTPUTS))
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


@pytest.mark.parametrize(
    "passed", [{}, {"label": 7, "tags": ["x", "y"], "a": [0.5], "\u00e9": "z", "empty": []}]
)
def test_the_bytes_are_those_of_protobufs_deterministic_serialization(passed):
    draw = np.random.default_rng(0)
    outputs = {
        "embedding": draw.standard_normal((9, 6144)).astype(np.float32),
        "logits": draw.standard_normal((9, 33))[:, ::3].astype(np.float32),  # not contiguous
        "top_k/class": draw.integers(-(2**63), 2**63 - 1, (9, 5)),
        "image/text": np.array([[b"a", b"\xff"]] * 9, object),
    }
    sizes = [(1, 1), (127, 128), (16383, 16384), (0, 2**31 - 1), (500, 375)]
    items = [
        Decoded(
            b"k" * (40 * row), row, 8 - row, *sizes[row % 5], f"{row:064x}", examples.from_columns(passed)
        )
        for row in range(9)
    ]
    expected = []
    for item in items:
        example = tf.train.Example()
        example.features.MergeFromString(item.passed)
        feature = example.features.feature
        feature["key"].bytes_list.value.append(item.key)
        feature["image/width"].int64_list.value.append(item.width)
        feature["image/height"].int64_list.value.append(item.height)
        feature["image/sha256"].bytes_list.value.append(item.sha256.encode())
        for name in ("embedding", "logits"):
            feature[name].float_list.value.extend(outputs[name][item.row].tolist())
        feature["top_k/class"].int64_list.value.extend(outputs["top_k/class"][item.row].tolist())
        feature["image/text"].bytes_list.value.extend(outputs["image/text"][item.row].tolist())
        expected.append(example.SerializeToString(deterministic=True))
    assert [features.serialize(item, outputs) for item in items] == expected
    assert features.encode(items, outputs) == b"".join(map(tfrecord.frame, expected))
    assert features.encode([], outputs) == b""
