"""tf.Example without TensorFlow: its message classes, and access to the features of a record.

The message classes are built from the public schema (tensorflow/core/example/{example,feature}.proto), so that a
host that only submits the job can read a record without importing TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from transforms.errors import ItemError


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
    """The tf.Example in `record`. Raises ItemError 'bad_example' if it is not one."""
    try:
        return Example.FromString(record)
    except message.DecodeError as error:
        raise ItemError("bad_example", f"the record is not a tf.Example ({error})") from error


def one_bytes(example, name: str) -> bytes:
    """The single bytes value of feature `name`. Raises ItemError 'missing_feature' if there is not exactly one."""
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
    """The value of feature `name` as a key: bytes unchanged, an integer in decimal. Raises ItemError 'missing_feature'."""
    feature = example.features.feature
    if name in feature and len(feature[name].int64_list.value) == 1:
        return b"%d" % feature[name].int64_list.value[0]
    return one_bytes(example, name)


def select(example, names: Sequence[str]) -> bytes:
    """Those of the features `names` that the record has, unchanged, as a serialized Features message."""
    selected = Features()
    for name in names:
        if name in example.features.feature:
            selected.feature[name].CopyFrom(example.features.feature[name])
    return selected.SerializeToString(deterministic=True)


def from_columns(columns: Mapping[str, object]) -> bytes:
    """Column values as a serialized Features message: text as UTF-8 bytes, bool and int as int64, float as float.

    Raises ValueError for text that is not Unicode or an integer beyond 64 bits."""
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
    """Bytes unchanged, text as UTF-8; bytes that are not UTF-8 in a list keep their value."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
