"""tf.Example without TensorFlow: its message classes, and access to the features of a record.

The message classes are built from the public schema (tensorflow/core/example/{example,feature}.proto), so that a
host that only submits the job can read a record without importing TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from transforms.errors import ItemError
from transforms.records.values import coerced


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


def kinds(example) -> dict[str, str | None]:
    """The type of each feature of a record: see `values.KINDS`. None where it holds no list."""
    return {
        name: (feature.WhichOneof("kind") or "").removesuffix("_list") or None
        for name, feature in example.features.feature.items()
    }


def select(example, names: Sequence[str], kinds: Mapping[str, str]) -> tuple[bytes, int]:
    """Those of the features `names` that the record has, as a serialized Features message, and how many did not fit.

    `kinds` holds the type of each column: see `values.coerced`. A feature of that type, or without one, is unchanged.
    """
    selected, unfit = Features(), 0
    for name in names:
        if name not in example.features.feature:
            continue
        feature = example.features.feature[name]
        kind, wanted = feature.WhichOneof("kind"), kinds.get(name)
        if wanted is None or kind in (None, f"{wanted}_list"):
            selected.feature[name].CopyFrom(feature)
        else:
            unfit += not _fill(selected.feature[name], list(getattr(feature, kind).value), wanted)
    return selected.SerializeToString(deterministic=True), unfit


def typed(columns: Mapping[str, object], kinds: Mapping[str, str]) -> tuple[bytes, int]:
    """Column values as a serialized Features message, and how many of them did not fit.

    `kinds` holds the type of each column: see `values.coerced`. A column without one is stored as by `from_columns`.
    """
    features, unfit = Features(), 0
    for name, value in columns.items():
        if name in kinds:
            unfit += not _fill(features.feature[name], value, kinds[name])
        else:
            _fill_by_itself(features.feature[name], value)
    return features.SerializeToString(deterministic=True), unfit


def from_columns(columns: Mapping[str, object]) -> bytes:
    """Column values as a serialized Features message, each with a type of its own, as in outputs of earlier versions.

    Text is UTF-8 bytes, bool and int are int64, float is float. Raises ValueError for text that is not Unicode or an integer
    beyond 64 bits.
    """
    return typed(columns, {})[0]


def _fill_by_itself(feature, value: object) -> None:
    values = [v for v in (value if isinstance(value, (list, tuple)) else (value,)) if v is not None]
    if not values:
        return
    if all(isinstance(v, (bool, int)) for v in values):
        feature.int64_list.value.extend(int(v) for v in values)
    elif all(isinstance(v, (bool, int, float)) for v in values):
        feature.float_list.value.extend(float(v) for v in values)
    else:
        feature.bytes_list.value.extend(map(_as_bytes, values))


def _fill(feature, value: object, kind: str) -> bool:
    """Stores a value, or a list of values; returns whether it fits. An empty list has no type: parsers accept it for any."""
    values, fits = coerced(value, kind)
    if values:
        getattr(feature, f"{kind}_list").value.extend(values)
    return fits


def _as_bytes(value: object) -> bytes:
    """Bytes unchanged, text as UTF-8; bytes that are not UTF-8 in a list keep their value."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
