"""tf.Example in and out, without TensorFlow: the image of an input record, the bytes of a feature record.

The message classes are built from the public schema (tensorflow/core/example/{example,feature}.proto), so that a
host that only submits the job can look into a record without importing TensorFlow.

Records are serialized with protobuf's deterministic option, which sorts the features by name. (tfx_bsl's
RecordBatchToExamplesEncoder orders them anew in each call, so its bytes differ from run to run;
`python -m benchmarks.encode` shows it, and the time that each takes.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from transforms.elements import Decoded
from transforms.errors import ItemError

KEY, WIDTH, HEIGHT, SHA256 = "key", "image/width", "image/height", "image/sha256"
STANDARD = (KEY, WIDTH, HEIGHT, SHA256)


def _message_classes():
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(
            name="value", number=1, type=kind, label=field.LABEL_REPEATED
        )
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), 1):
        feature.field.add(
            name=name.replace("List", "_list").lower(),
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=f".tensorflow.{name}",
            oneof_index=0,
            label=field.LABEL_OPTIONAL,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.Feature",
        label=field.LABEL_OPTIONAL,
    )
    features.field.add(
        name="feature",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )
    file.message_type.add(name="Example").field.add(
        name="features",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.Features",
        label=field.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return tuple(
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.{name}"))
        for name in ("Example", "Features")
    )


Example, Features = _message_classes()


def parse(record: bytes):
    """The tf.Example in `record`; ItemError 'bad_example' if it is none."""
    try:
        return Example.FromString(record)
    except message.DecodeError as error:
        raise ItemError("bad_example", f"the record is not a tf.Example ({error})") from error


def one_bytes(example, name: str) -> bytes:
    """The single bytes value of feature `name`; ItemError 'missing_feature' if there is none."""
    feature = example.features.feature
    if name not in feature:
        raise ItemError(
            "missing_feature", f"no feature {name!r}; the record has {', '.join(sorted(feature)) or 'none'}"
        )
    values = feature[name].bytes_list.value
    if len(values) != 1:
        kind = feature[name].WhichOneof("kind") or "nothing"
        raise ItemError(
            "missing_feature", f"feature {name!r} holds {len(values)} bytes values ({kind}), not one"
        )
    return values[0]


def key_of(example, name: str) -> bytes:
    """The value of feature `name` as a key: bytes as they are, an integer in decimal digits."""
    feature = example.features.feature
    if name in feature and len(feature[name].int64_list.value) == 1:
        return b"%d" % feature[name].int64_list.value[0]
    return one_bytes(example, name)


def select(example, names: Sequence[str]) -> bytes:
    """The features `names` that the record has, unchanged, as a serialized Features body."""
    chosen = Features()
    for name in names:
        if name in example.features.feature:
            chosen.feature[name].CopyFrom(example.features.feature[name])
    return chosen.SerializeToString(deterministic=True)


def from_columns(columns: Mapping[str, object]) -> bytes:
    """Column values as a serialized Features body: text as UTF-8 bytes, bool and int as int64, float as float."""
    features = Features()
    for name, value in columns.items():
        values = [v for v in (value if isinstance(value, (list, tuple)) else (value,)) if v is not None]
        feature = features.feature[name]
        if not values:
            continue
        if all(isinstance(v, (bool, int)) for v in values):
            feature.int64_list.value.extend(int(v) for v in values)
        elif all(isinstance(v, (bool, int, float)) for v in values):
            feature.float_list.value.extend(float(v) for v in values)
        else:
            feature.bytes_list.value.extend(map(_as_bytes, values))
    return features.SerializeToString(deterministic=True)


def _as_bytes(value: object) -> bytes:
    """Bytes as they are, text as UTF-8; bytes of a list that were no UTF-8 come out as they went in."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")


def encode(item: Decoded, outputs: Mapping[str, np.ndarray]) -> bytes:
    """The feature record of one image.

    Args:
      item: what is known of the image.
      outputs: this image's value of each output, one-dimensional: float32, int64 or bytes.
    """
    example = Example()
    if item.passed:
        example.features.MergeFromString(item.passed)
    feature = example.features.feature
    feature[KEY].bytes_list.value.append(item.key)
    feature[WIDTH].int64_list.value.append(item.width)
    feature[HEIGHT].int64_list.value.append(item.height)
    feature[SHA256].bytes_list.value.append(item.sha256.encode())
    for name, values in outputs.items():
        if values.dtype.kind == "f":
            # The wire form of a packed repeated float: extend() would box each of the thousands of values.
            data = values.astype("<f4", copy=False).tobytes()
            feature[name].float_list.MergeFromString(b"\x0a" + _varint(len(data)) + data)
        elif values.dtype.kind in "iu":
            feature[name].int64_list.value.extend(values.tolist())
        else:
            feature[name].bytes_list.value.extend(values.tolist())
    return example.SerializeToString(deterministic=True)


def floats(feature) -> np.ndarray:
    """The float_list of a feature as float32 (n,), without boxing each value."""
    count = len(feature.float_list.value)
    packed = feature.float_list.SerializeToString()
    return np.frombuffer(packed, "<f4", count, len(packed) - 4 * count)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
