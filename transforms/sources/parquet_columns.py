"""Columns of Parquet files that hold images: which one holds them, and whether the others that are asked for exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transforms.sources.base import BadInput, ReadSettings
from transforms.sources.rows import check_once, listed


def image_columns(schema: Any, settings: ReadSettings) -> list[str]:
    """The column that --image_feature names, if it can hold images; without it, all that can and are not asked for as such."""
    asked = {settings.uri_column, settings.key_feature, *settings.pass_through}
    return [
        field.name
        for field in schema
        if (field.name == settings.image_feature if settings.image_feature else field.name not in asked)
        and _can_hold_images(field.type)
    ]


def _can_hold_images(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _is_bytes(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return str(kind) in ("binary", "large_binary", "binary_view")


def type_of(schema: Any, name: str) -> Any:
    """The type of a column, or with dots in `name` of a field of a struct; None where there is none."""
    from pyarrow import types

    if name in schema.names:
        return schema.field(name).type
    column, *fields = name.split(".")
    kind: Any = schema.field(column).type if column in schema.names else None
    for field in fields:
        has = kind is not None and types.is_struct(kind) and kind.get_field_index(field) >= 0
        kind = kind.field(field).type if has else None
    return kind


def image_column(path: str, schema: Any, settings: ReadSettings) -> str:
    """The column that holds the images. Raises BadInput where there is none, or one of several must be named."""
    columns = image_columns(schema, settings)
    if len(columns) == 1:
        return columns[0]
    check_once(path, columns, schema.names)
    if columns:
        raise BadInput(
            f"{path} has several columns that can hold images, {', '.join(map(repr, columns))}: name one with --image_feature"
        )
    kinds = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
    what = f"column {settings.image_feature!r}" if settings.image_feature else "column of images"
    raise BadInput(
        f"{path} has no {what} with bytes, or structs with a field 'bytes', in it; its columns are {kinds}: name the one "
        "that holds the images with --image_feature"
    )


def check_others(path: str, schema: Any, settings: ReadSettings) -> None:
    """Raises BadInput if a column for keys or to be passed through is missing or there twice, or is none for keys."""
    from pyarrow import types

    asked = [*filter(None, [settings.key_feature]), *settings.pass_through]
    check_once(path, (n if n in schema.names else n.split(".")[0] for n in asked), schema.names)
    missing = [name for name in asked if type_of(schema, name) is None]
    if missing:
        raise BadInput(
            f"{path} has no column {', '.join(map(repr, missing))}; its columns are {listed(schema.names)}: "
            "name them with --key_feature and --pass_through, and fields of structs as COLUMN.FIELD"
        )
    if settings.key_feature and types.is_nested(kind := type_of(schema, settings.key_feature)):
        raise BadInput(
            f"{path}: column {settings.key_feature!r} is {kind}, and a key is a single value: name another with --key_feature"
        )


def to_read(schema: Any, image: str, others: Iterable[str]) -> list[str]:
    """What is to be read for the image column and the others, none of it within another."""
    fields = [f"{image}.{field}" for field in ("bytes", "path")]
    names = dict.fromkeys([field for field in fields if type_of(schema, field) is not None] or [image])
    names |= dict.fromkeys(others)
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
