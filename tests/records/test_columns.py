"""The types of columns follow from all records, and no value is lost in them."""

import numpy as np
import pyarrow as pa
import pytest

from tests import helpers
from transforms.errors import ItemError
from transforms.records import columns, examples, features

KEY = {"key": b"k", "image/width": 4, "image/height": 3, "image/sha256": "ab"}


def record(**more):
    return helpers.example({**KEY, **more})


def column(name, records, parts=2):
    """The type of a column, and its values, with the records summed up in several parts."""
    cut = len(records) // parts
    seen = columns.merge([columns.summarize(records[:cut], ()), columns.summarize(records[cut:], ())])
    schema = columns.schema(seen, len(records), {}, [name] if name != "key" else [])
    return schema.field(name).type, columns.batch(records, schema).column(name).to_pylist()


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2, -3], pa.int64(), [1, 2, -3]),
        ([1.5, 2.5], pa.float32(), [1.5, 2.5]),
        (["a", "ü", ""], pa.string(), ["a", "ü", ""]),
        ([b"a", b"\xff"], pa.binary(), [b"a", b"\xff"]),
        ([1, 2.5, 2**40], pa.float64(), [1.0, 2.5, 2.0**40]),
        ([1, "a", 0.5], pa.string(), ["1", "a", "0.5"]),
        ([1, b"\xff"], pa.binary(), [b"1", b"\xff"]),
        ([1, [2, 3], []], pa.list_(pa.int64()), [[1], [2, 3], []]),
        ([[1.5], [2.5, 1]], pa.list_(pa.float32()), [[1.5], [2.5, 1]]),
        ([["a", "b"], "c"], pa.list_(pa.string()), [["a", "b"], ["c"]]),
        ([["a", "b"], [b"\xff"]], pa.list_(pa.binary()), [[b"a", b"b"], [b"\xff"]]),
        ([1, [1.5, 2]], pa.list_(pa.float64()), [[1], [1.5, 2]]),
        ([[], []], pa.list_(pa.string()), [[], []]),
    ],
)
def test_a_single_value_in_every_record_is_a_scalar_all_else_a_list(values, kind, expected):
    assert column("x", [record(x=value) for value in values]) == (kind, expected)


def test_a_record_without_the_feature_has_null():
    assert column("x", [record(x=1), record(), record(x=[])]) == (pa.list_(pa.int64()), [[1], None, []])
    assert column("x", [record(), record()]) == (pa.list_(pa.string()), [None, None])


@pytest.mark.parametrize(
    ("kind", "type"), [("int64", pa.int64()), ("float", pa.float32()), ("bytes", pa.string())]
)
def test_a_type_that_the_job_has_settled_holds_where_no_value_tells_it(kind, type):
    records = [record(), record(x=[])]
    schema = columns.schema(columns.summarize(records, ()), 2, {}, ["x"], {"x": kind})
    assert schema.field("x").type == pa.list_(type)
    assert columns.batch(records, schema).column("x").to_pylist() == [None, []]


def test_keys_are_text_where_all_are():
    assert column("key", [record(), record(key="ü")]) == (pa.string(), ["k", "ü"])
    assert column("key", [record(), record(key=b"\xff")]) == (pa.binary(), [b"k", b"\xff"])


def test_columns_are_in_the_order_of_outputs_sizes_and_what_was_passed():
    seen = columns.summarize([record(b=1, a=2)], ())
    dimensions = {"embedding": 3, "logits": 2, "top_k/class": 2, "top_k/name": 2, "top_k/probability": 2}
    schema = columns.schema(seen, 1, dimensions, ["b", "a", "c"])
    assert schema.names == [
        "key",
        *(name.replace("/", "_") for name in dimensions),
        "width",
        "height",
        "sha256",
        "b",
        "a",
        "c",
    ]
    assert schema.field("embedding").type == pa.list_(pa.field("element", pa.float32(), False), 3)
    assert schema.field("top_k_class").type == pa.list_(pa.int64())
    assert schema.field("top_k_probability").type == pa.list_(pa.float32())
    assert schema.field("top_k_name").type == pa.list_(pa.string())


def test_features_with_the_names_of_the_jobs_columns_have_columns_of_their_own():
    """img2dataset, for one, gives its records the features width, height and sha256."""
    passed = {"width": 640, "sha256": "cd", "input/width": 1, "top_k_class": 9}
    records = [record(**passed, **{"top_k/class": [3, 4]})] * 2
    schema = columns.schema(columns.summarize(records, ()), 2, {"top_k/class": 2}, [*passed])
    rows = columns.batch(records, schema).to_pylist()
    assert rows[0] == rows[1]
    assert rows[0] == {
        "key": "k",
        "top_k_class": [3, 4],
        "width": 4,
        "height": 3,
        "sha256": "ab",
        "input/input/width": 640,
        "input/sha256": "cd",
        "input/width": 1,
        "input/top_k_class": 9,
    }


def test_vectors_keep_their_bits():
    values = np.array([[1.1, np.nan, -0.0], [np.inf, 1e-45, 3]], np.float32)
    records = [record(embedding=row.tolist()) for row in values]
    schema = columns.schema(columns.summarize(records, (("embedding", 3),)), 2, {"embedding": 3}, ())
    out = columns.to_numpy(columns.batch(records, schema).column("embedding"))
    assert out.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ({"embedding": [1.0]}, "1 values in 'embedding', expected 3"),
        ({}, "0 values in 'embedding', expected 3"),
    ],
)
def test_a_vector_of_another_length_is_refused(bad, what):
    good = record(embedding=[1.0, 2.0, 3.0])
    schema = columns.schema(columns.summarize([good], (("embedding", 3),)), 1, {"embedding": 3}, ())
    with pytest.raises(ValueError, match=f"record 1: {what}"):
        columns.batch([good, record(**bad)], schema)


def test_a_record_that_does_not_fit_the_columns_is_refused():
    schema = columns.schema(columns.summarize([record(x=1)], ()), 1, {}, ["x"])
    with pytest.raises(ValueError, match="record 0: 2 values in 'x', expected one"):
        columns.batch([record(x=[1, 2])], schema)


VECTOR = np.arange(5, dtype=np.float32)


def the_same(data, name="v"):
    """What `split` makes of a record is what parsing it gives."""
    found, rest = features.split(data, ((name, 5),))
    expected = features.Record(0, bytes(data)).values()
    assert {
        **{n: v.tolist() for n, v in found.items()},
        **{n: list(features.values_of(f)) for n, f in rest.items()},
    } == {n: list(v) for n, v in expected.items()}
    return found


@pytest.mark.parametrize("wrap", [bytes, memoryview])
def test_vectors_are_found_without_parsing(wrap):
    data = helpers.example({"a": b"x", "v": VECTOR.tolist(), "z": 1})
    assert np.shares_memory(the_same(wrap(data))["v"], np.frombuffer(data, np.uint8)) or wrap is memoryview
    assert the_same(wrap(helpers.example({"v": VECTOR.tolist()})))["v"].tolist() == VECTOR.tolist()


def test_records_of_other_writers_are_parsed():
    example = examples.Example()
    example.features.feature["v"].float_list.value.extend(VECTOR.tolist())
    example.features.feature["z"].int64_list.value.append(1)
    data = example.SerializeToString()
    unpacked = b"".join(b"\x0d" + value.tobytes() for value in VECTOR)  # as proto2 writes repeated floats
    feature = b"\x12" + bytes([len(unpacked)]) + unpacked
    entry = b"\x0a\x01v\x12" + bytes([len(feature)]) + feature
    features_ = b"\x0a" + bytes([len(entry)]) + entry
    for record in (data, b"\x0a" + bytes([len(features_)]) + features_):
        assert the_same(record)["v"].tolist() == VECTOR.tolist()


def test_bytes_that_look_like_a_vector_are_not_taken_for_one():
    bait = features._head("v", features._FLOATS, 20) + b"\0" * 20
    found = the_same(helpers.example({"a": bait, "v": VECTOR.tolist()}))
    assert found["v"].tolist() == VECTOR.tolist()


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05\x0a", b"\x0a\x03\x0a\x01\xff", b"\x12\x00\xff"])
def test_what_is_no_example_is_an_error(data):
    with pytest.raises(ItemError, match=r"not a tf\.Example"):
        features.split(data, (("v", 5),))


def test_a_vector_of_another_size_stays_among_the_others():
    found, rest = features.split(helpers.example({"v": [1.0, 2.0]}), (("v", 5),))
    assert (found, list(rest)) == ({}, ["v"])
