"""Records parsed all at once give what protobuf gives, record by record, or are left to it."""

import io

import numpy as np
import pytest

from transforms.elements import Decoded
from transforms.records import columns, examples, features, tfrecord, uniform

SIZES = {"embedding": 5, "logits": 3}


def encoded(count, outputs=("embedding",), **passed):
    """Serialized records as a job writes them; `passed` are functions of the row."""
    random = np.random.default_rng(0)
    items = [
        Decoded(
            b"in.tfrecord#%d" % (3**row),
            row,
            row,
            300 + 70 * row,
            2**row,
            f"{row:064x}",
            examples.from_columns({name: value(row) for name, value in passed.items()}),
        )
        for row in range(count)
    ]
    values = {name: random.standard_normal((count, SIZES[name])).astype(np.float32) for name in outputs}
    data = features.encode(items, values)
    return [record.data for record in tfrecord.read(io.BytesIO(data))]


def all_at_once(records, outputs=("embedding",)):
    """Vectors and other features; raises NotUniform."""
    arrays = {name: np.zeros((len(records), SIZES[name]), np.float32) for name in outputs}
    found = features.split_all(records, tuple((name, SIZES[name]) for name in outputs), arrays)
    values = {
        name: value.values() if isinstance(value, uniform.Texts) else value.tolist()
        for name, value in found.items()
    }
    return {name: array.tolist() for name, array in arrays.items()}, values


def one_by_one(records, outputs=("embedding",)):
    """The same by protobuf. Raises whatever it raises."""
    vectors = tuple((name, SIZES[name]) for name in outputs)
    split = [features.split(record, vectors) for record in records]
    arrays = {name: [found[name].tolist() for found, _ in split] for name in outputs}
    names = split[0][1].keys()
    lists = {name: [list(features.values_of(rest[name])) for _, rest in split] for name in names}
    assert all(rest.keys() == names for _, rest in split)
    return arrays, {name: [value for (value,) in rows] for name, rows in lists.items()}


PASSED = {
    "numbers": {"label": lambda row: row * 1000 - 5, "a": lambda row: -(2**63) + row},
    "texts": {"caption": lambda row: "ü" * (row * 90), "bytes": lambda row: b"\xff" * row},
    "floats": {"score": lambda row: row / 7, "zz": lambda row: float("inf")},
    "nothing": {},
}


@pytest.mark.parametrize("passed", PASSED)
@pytest.mark.parametrize("outputs", [("embedding",), ("embedding", "logits"), ()])
def test_records_of_a_job(passed, outputs):
    records = encoded(9, outputs or ("embedding",), **PASSED[passed])
    got = all_at_once(records, outputs) if outputs else None
    if outputs:
        assert got == one_by_one(records, outputs)
        assert len(got[1]) == 4 + len(PASSED[passed])
    else:  # the vector is a feature of several values then
        with pytest.raises(uniform.NotUniform):
            all_at_once(records, ())


def test_views_into_blocks_are_records_too():
    records = encoded(4, **PASSED["texts"])
    block = memoryview(b"x".join(records))
    starts = np.cumsum([0, *(len(record) + 1 for record in records)])
    views = [block[start : start + len(record)] for start, record in zip(starts, records, strict=False)]
    assert all_at_once(views) == one_by_one(records)


def raw(*entries):
    """A tf.Example of these entries of its map."""
    data = b"".join(entries)
    return b"\x0a" + features._varint(len(data)) + data


def entry(name, **values):
    """As protobuf writes it, with its numbers packed."""
    return examples.Features(feature={name: values}).SerializeToString()


def number(name, *values):
    return entry(name, int64_list={"value": values})


VECTOR = entry("embedding", float_list={"value": [1.0] * 5})
X, KEY = number("x", 3), entry("key", bytes_list={"value": [b"k"]})
UNPACKED = b"\x0a\x09\x0a\x01x\x12\x04\x1a\x02\x08\x03"
OTHERS = {
    "a feature is missing": [raw(VECTOR, KEY), raw(VECTOR)],
    "one more feature": [raw(VECTOR), raw(VECTOR, KEY)],
    "another order": [raw(VECTOR, KEY, X), raw(VECTOR, X, KEY)],
    "another place of the vector": [raw(VECTOR, KEY), raw(KEY, VECTOR)],
    "another name": [raw(VECTOR, X), raw(VECTOR, number("y", 3))],
    "another kind": [raw(VECTOR, X), raw(VECTOR, entry("x", float_list={"value": [3.0]}))],
    "several numbers": [raw(VECTOR, number("x", 1, 2))] * 2,
    "several texts": [raw(VECTOR, entry("x", bytes_list={"value": [b"a", b"b"]}))] * 2,
    "several floats": [raw(VECTOR, entry("x", float_list={"value": [1, 2]}))] * 2,
    "no value": [raw(VECTOR, number("x"))] * 2,
    "no kind": [raw(VECTOR, entry("x"))] * 2,
    "a feature twice": [raw(VECTOR, X, X)] * 2,
    "a vector of another size": [raw(VECTOR), raw(entry("embedding", float_list={"value": [1.0] * 6}))],
    "no vector": [raw(VECTOR, X), raw(X)],
    "the vector twice": [raw(VECTOR, VECTOR)] * 2,
    "unpacked numbers": [raw(VECTOR, UNPACKED)] * 2,
    "nothing": [b"", b""],
    "an empty map": [raw(), raw()],
    "cut": [raw(VECTOR, X), raw(VECTOR, X)[:-1]],
    "more behind it": [raw(VECTOR), raw(VECTOR) + b"\x12\x00"],
    "a name that is no text": [raw(VECTOR, X.replace(b"x", b"\xff"))] * 2,
}


def test_the_cases_below_start_from_records_that_are_parsed_at_once():
    records = [raw(VECTOR, KEY, X), raw(VECTOR, KEY, number("x", -4))]
    assert all_at_once(records)[1] == {"key": [b"k", b"k"], "x": [3, -4]}


@pytest.mark.parametrize("case", OTHERS)
def test_other_records_are_left_to_protobuf(case):
    with pytest.raises(uniform.NotUniform):
        all_at_once(OTHERS[case])


@pytest.mark.parametrize("seed", range(4))
def test_damaged_records_never_give_other_values(seed):
    """Whatever byte is changed: either the same as protobuf, or protobuf is asked."""
    random = np.random.default_rng(seed)
    records = encoded(3, **PASSED["numbers"], **PASSED["texts"])
    accepted = 0
    for _ in range(400):
        data = bytearray(records[1])
        for _ in range(random.integers(1, 3)):
            data[random.integers(0, len(data))] = random.integers(0, 256)
        given = [records[0], bytes(data), records[2]]
        try:
            got = all_at_once(given)
        except uniform.NotUniform:
            continue
        accepted += 1
        expected = one_by_one(given)
        np.testing.assert_equal(got, expected)
    assert accepted > 30


@pytest.mark.parametrize("passed", PASSED)
def test_a_batch_is_the_same_either_way(passed):
    records = encoded(7, **PASSED[passed])
    vectors = columns.vectors_of({"embedding": 5})
    schema = columns.schema(columns.summarize(records, vectors), 7, {"embedding": 5}, [*PASSED[passed]])
    batch = columns.batch(records, schema)
    arrays = {"embedding": np.zeros((7, 5), np.float32)}
    assert batch.equals(columns._parsed(records, schema, vectors, arrays))
    batch.validate(full=True)


@pytest.mark.parametrize("passed", PASSED)
@pytest.mark.parametrize("outputs", [("embedding",), ("embedding", "logits")])
def test_types_are_the_same_either_way(monkeypatch, passed, outputs):
    records = encoded(7, outputs, **PASSED[passed])
    records.insert(3, raw(VECTOR, X, KEY))  # which is parsed by itself, as are those around it
    vectors = tuple((name, SIZES[name]) for name in outputs)
    expected = columns.merge(columns.summarize([record], vectors) for record in records)
    for size in (1, 2, 3, 100):
        monkeypatch.setattr(columns, "_SUMMARIZED", size)
        assert columns.summarize(records, vectors) == expected
    assert expected["key"].records == 8
    assert expected["x"].records == 1


def test_the_usual_records_are_parsed_at_once(monkeypatch):
    records = encoded(7, **PASSED["numbers"])
    schema = columns.schema(
        columns.summarize(records, (("embedding", 5),)), 7, {"embedding": 5}, [*PASSED["numbers"]]
    )
    monkeypatch.delattr(columns, "_parsed")
    assert len(columns.batch(records, schema)) == 7
