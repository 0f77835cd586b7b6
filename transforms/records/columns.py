"""Feature records as Arrow record batches, all of one schema.

Records of one output can hold different features, and different kinds of values under one name: what is passed through is
as the input has it. So the types of the columns are decided from all records, see `summarize` and `schema`.

Records of one value per feature are parsed a batch at a time (`uniform`), others with protobuf. tfx-bsl's decoder is slower than
either for vectors (`python -m benchmarks.export` times them), and it has no type for a single value.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.records import features, uniform

Data = bytes | memoryview
WIDTH, HEIGHT, SHA256 = "width", "height", "sha256"
# The job's own features whose columns have another name: one that SQL takes without quotes.
_NAMES = {
    features.WIDTH: WIDTH,
    features.HEIGHT: HEIGHT,
    features.SHA256: SHA256,
    "top_k/class": "top_k_class",
    "top_k/probability": "top_k_probability",
    "top_k/synset": "top_k_synset",
    "top_k/name": "top_k_name",
}
_SUMMARIZED = 256  # records at a time
_FEATURE = b"feature"  # in a field's metadata: the feature that it holds, if that has another name
_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int"}
_LISTS = {
    "top_k/class": pa.list_(pa.int64()),
    "top_k/probability": pa.list_(pa.float32()),
    "top_k/synset": pa.list_(pa.string()),
    "top_k/name": pa.list_(pa.string()),
}
_FIXED = {
    features.WIDTH: pa.int64(),
    features.HEIGHT: pa.int64(),
    features.SHA256: pa.string(),
}


@dataclass(frozen=True)
class Summary:
    """What some records hold under one name."""

    kinds: frozenset[str]  # of 'bytes', 'float', 'int'
    records: int  # that have the feature
    fewest: int  # values per record that has it
    most: int
    is_text: bool  # all bytes are UTF-8

    def __add__(self, other: Summary) -> Summary:
        return Summary(
            self.kinds | other.kinds,
            self.records + other.records,
            min(self.fewest, other.fewest),
            max(self.most, other.most),
            self.is_text and other.is_text,
        )


Summaries = Mapping[str, Summary]


def summarize(records: Iterable[Data], vectors: features.Vectors) -> dict[str, Summary]:
    """What the records hold, by feature name, but for vectors and those features whose types are the same in every output."""
    remaining = iter(records)
    batches = iter(lambda: list(itertools.islice(remaining, _SUMMARIZED)), [])
    return merge(part for batch in batches for part in _summaries(batch, vectors))


def _summaries(records: Sequence[Data], vectors: features.Vectors) -> Iterator[dict[str, Summary]]:
    known = {*_FIXED, *_LISTS}
    try:
        values = features.split_all(records, vectors)
        yield {name: _uniform(value) for name, value in values.items() if name not in known}
    except uniform.NotUniform:
        for record in records:
            rest = features.split(record, vectors)[1]
            yield {name: _summary(feature) for name, feature in rest.items() if name not in known}


def _uniform(values: uniform.Texts | np.ndarray) -> Summary:
    """Of a feature that holds one value in each record."""
    if isinstance(values, uniform.Texts):
        texts = values.values()
        return Summary(frozenset({"bytes"}), len(texts), 1, 1, all(map(_is_text, texts)))
    kind = "float" if values.dtype.kind == "f" else "int"
    return Summary(frozenset({kind}), len(values), 1, 1, True)


def _summary(feature) -> Summary:
    """Of a feature of one record."""
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    is_text = kind != "bytes_list" or all(map(_is_text, values))
    kinds = frozenset({_KINDS[kind]} if values else ())
    return Summary(kinds, 1, len(values), len(values), is_text)


def vectors_of(dimensions: Mapping[str, int]) -> features.Vectors:
    """The outputs that are a vector per record, with their values per record."""
    return tuple((name, size) for name, size in dimensions.items() if name not in _LISTS)


def merge(parts: Iterable[Summaries]) -> dict[str, Summary]:
    """The summaries of all records from those of parts of them."""
    out: dict[str, Summary] = {}
    for part in parts:
        for name, summary in part.items():
            out[name] = out[name] + summary if name in out else summary
    return out


def schema(
    seen: Summaries,
    records: int,
    dimensions: Mapping[str, int],
    passed: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
) -> pa.Schema:
    """The columns for `records` records. What is passed through keeps its name, behind "input/" if the job has such a column.

    Args:
      seen: what the records hold.
      records: how many there are.
      dimensions: values per record of each output: of 'embedding', 'logits' and the features of top_k.
      passed: the features that were passed through, in the order of their columns.
      kinds: the types of those for which the job has settled one: 'int64', 'float' or 'bytes'.
    """
    types: dict[str, pa.DataType] = {features.KEY: _text(seen.get(features.KEY))}
    for name, size in dimensions.items():
        types[name] = _LISTS.get(name) or pa.list_(pa.field("element", pa.float32(), nullable=False), size)
    types |= _FIXED
    names = {name: _NAMES.get(name, name) for name in types}
    for name in (*passed, *sorted(seen)):
        types.setdefault(name, _type(seen.get(name), records, (kinds or {}).get(name, "")))
    own = {*names.values()}
    for name in [name for name in types if name not in names]:
        column = name
        while column in own or (column != name and column in types):
            column = f"input/{column}"
        names[name] = column
    required = {features.KEY, *_FIXED, *(name for name in dimensions if name not in _LISTS)}
    return pa.schema(
        [
            pa.field(
                names[name], kind, name not in required, {_FEATURE: name} if names[name] != name else None
            )
            for name, kind in types.items()
        ]
    )


def _feature(field: pa.Field) -> str:
    """The feature that a column holds."""
    return (field.metadata or {}).get(_FEATURE, field.name.encode()).decode()


def _type(summary: Summary | None, records: int, kind: str) -> pa.DataType:
    """A single value where every record has one, else a list, which is null where a record does not have the feature."""
    value = _NUMBERS.get(kind) or _value_type(summary)
    if summary and summary.records == records and summary.fewest == summary.most == 1:
        return value
    return pa.list_(value)


_NUMBERS = {"int64": pa.int64(), "float": pa.float32()}


def _value_type(summary: Summary | None) -> pa.DataType:
    kinds = summary.kinds if summary else frozenset()
    if kinds == {"int"}:
        return pa.int64()
    if kinds == {"float"}:
        return pa.float32()
    if kinds == {"int", "float"}:
        return pa.float64()  # which holds every float32, and integers up to 2**53
    return _text(summary)  # numbers beside texts as their digits


def _text(summary: Summary | None) -> pa.DataType:
    return pa.string() if summary is None or summary.is_text else pa.binary()


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def vectors(schema: pa.Schema) -> list[str]:
    """The columns that hold a vector of fixed length per record."""
    return [field.name for field in schema if pa.types.is_fixed_size_list(field.type)]


def row_bytes(schema: pa.Schema) -> int:
    """About how many bytes a row takes."""
    return 256 + sum(4 * schema.field(name).type.list_size for name in vectors(schema))


def batch(records: Sequence[Data], schema: pa.Schema) -> pa.RecordBatch:
    """The records as rows. Raises ValueError for a record that does not fit the schema."""
    sizes = tuple((name, schema.field(name).type.list_size) for name in vectors(schema))
    # Arrow's allocator keeps its memory, where NumPy's would have the system provide megabytes of fresh pages each time.
    arrays = {
        name: np.frombuffer(pa.allocate_buffer(4 * size * len(records)), "<f4").reshape(len(records), size)
        for name, size in sizes
    }
    try:
        values = features.split_all(records, sizes, arrays)
        columns = [
            vector(arrays[field.name], field.type)
            if field.name in arrays
            else _single_values(values.get(_feature(field)), field.type)
            for field in schema
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)
    except uniform.NotUniform:
        return _parsed(records, schema, sizes, arrays)


def _single_values(values: uniform.Texts | np.ndarray | None, kind: pa.DataType) -> pa.Array:
    """A column of one value per record. Raises NotUniform if it holds something else."""
    if isinstance(values, uniform.Texts) and kind in _STORED.values():
        return pa.array(values.values(), pa.binary())
    if isinstance(values, uniform.Texts) and kind in _STORED:
        try:
            return pa.array(values.values(), pa.binary()).cast(kind)  # which checks that it is UTF-8
        except pa.ArrowInvalid as error:
            raise uniform.NotUniform(str(error)) from error
    if isinstance(values, np.ndarray) and kind == pa.from_numpy_dtype(values.dtype):
        return pa.array(values, kind)
    raise uniform.NotUniform(f"no single values of the type {kind}")


def _parsed(
    records: Sequence[Data], schema: pa.Schema, sizes: features.Vectors, arrays: Mapping[str, np.ndarray]
) -> pa.RecordBatch:
    """Any records as rows."""
    others: dict[str, list[Any]] = {_feature(field): [] for field in schema if field.name not in arrays}
    for row, record in enumerate(records):
        found, rest = features.split(record, sizes)
        for name, array in arrays.items():
            if name not in found:
                count = len(features.values_of(rest[name])) if name in rest else 0
                raise ValueError(f"record {row}: {count} values in {name!r}, expected {array.shape[1]}")
            array[row] = found[name]
        for name, messages in others.items():
            messages.append(rest.get(name))
    columns = []
    for field in schema:
        if field.name in arrays:
            columns.append(vector(arrays[field.name], field.type))
        else:
            columns.append(_column(others[_feature(field)], field))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def vector(array: np.ndarray, kind: pa.DataType) -> pa.Array:
    """(rows, dimensions) as a column of the type `kind`, a list of fixed size."""
    values = pa.array(np.ascontiguousarray(array).reshape(-1), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(values, type=kind)


def to_numpy(column: pa.Array) -> np.ndarray:
    """A column of vectors as (rows, dimensions), without a copy."""
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def _column(messages: list[Any], field: pa.Field) -> pa.Array:
    """`messages`: the feature of each record, or None where it does not have it."""
    if pa.types.is_list(field.type):
        rows = [
            m if m is None else [*map(_conversion(field.type.value_type), features.values_of(m))]
            for m in messages
        ]
        return pa.array(rows, field.type)
    try:
        lists = map(_VALUES[field.type], messages)
        # Arrow checks that bytes are UTF-8, faster than Python.
        return pa.array([value for (value,) in lists], _STORED.get(field.type, field.type)).cast(field.type)
    except (KeyError, AttributeError, ValueError):  # not the only value of that kind in every record
        convert, values = _conversion(field.type), []
    for index, message in enumerate(messages):
        row: Any = () if message is None else features.values_of(message)
        if len(row) != 1:
            raise ValueError(f"record {index}: {len(row)} values in {field.name!r}, expected one")
        values.append(convert(row[0]))
    return pa.array(values, field.type)


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _conversion(kind: pa.DataType) -> Callable[[Any], Any]:
    """A value of any kind -> what a column of the type `kind` holds."""
    return _CONVERSIONS.get(kind, lambda value: value)


_CONVERSIONS: dict[pa.DataType, Callable[[Any], Any]] = {
    pa.string(): lambda value: _as_bytes(value).decode(),
    pa.binary(): _as_bytes,
    pa.float64(): float,
}
# The values of a feature that holds what it should, by the type of the column, and the type before they are cast.
_VALUES = {
    pa.int64(): operator.attrgetter("int64_list.value"),
    pa.float32(): operator.attrgetter("float_list.value"),
    pa.string(): operator.attrgetter("bytes_list.value"),
    pa.binary(): operator.attrgetter("bytes_list.value"),
}
_STORED = {pa.string(): pa.binary()}
