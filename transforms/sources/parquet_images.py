"""Parquet files that hold the images themselves, as data sets on Hugging Face do: a source is a run of rows.

The image column is a struct with a field `bytes` (Hugging Face's Image feature: {bytes, path}) or a column of bytes.
Lists of URIs are Parquet files, too: `accepts` tells them apart by their columns.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import google_crc32c
from apache_beam.io.filesystem import BeamIOError, FileMetadata

from transforms import counters
from transforms.elements import Encoded, Failure
from transforms.errors import ItemError
from transforms.fetching.uris import public_uri
from transforms.records import examples
from transforms.sources import summed
from transforms.sources.base import BadInput, Cut, Cutting, Item, KeyAt, Kind, Reading, ReadSettings
from transforms.sources.names import short_names
from transforms.sources.parquet_rows import group_batches, open_parquet
from transforms.sources.uri_list import key_of_uri
from transforms.storage import door

_BATCH_ROWS = 16  # in memory at once: images can be megabytes
_THREADS = 32  # that read footers at launch
_CHOICE = "--input_format=parquet takes the list of URIs, --image_feature=COLUMN the images"

Row = Mapping[str, Any] | ItemError  # what a row holds by column, or why it cannot be read


@dataclass(frozen=True)
class ImageRows:
    """The rows [start, end) of a Parquet file that holds images in its column `image`."""

    uri: str
    image: str
    others: tuple[str, ...]  # the columns, or fields of structs, that are read besides
    start: int
    end: int
    size_bytes: int  # of the file
    modified: float  # seconds since the epoch, as the file system gives it; 0 where it gives none
    crc32c: str = (
        ""  # of what the rows hold in these columns, eight hexadecimal digits; '' until they have been read
    )

    cut_by = "--images_per_shard"

    @property
    def units(self) -> int:
        return self.end - self.start

    @property
    def inputs(self) -> int:
        return self.end - self.start

    def items(self, reading: Reading) -> Generator[Item, None, ImageRows]:
        """The images of the rows that are due; what cannot be read as failures. All rows are read, for the sum."""
        crc = 0
        with self._open() as file:
            for position, row in enumerate(itertools.islice(self._rows(file), reading.limit)):
                crc = self._extended(crc, row)
                if position in reading.due:
                    counters.PROCESS.add(units=1)
                    yield self._item(row, position, reading)
        return self if reading.limit else replace(self, crc32c=f"{crc:08x}")

    def _open(self) -> AbstractContextManager[Any]:
        # Neither all columns of a row group at once nor all of one column, but a buffer of each.
        streamed = {"pre_buffer": False, "buffer_size": door.block_bytes(self.uri)}
        return open_parquet(self.uri, self.size_bytes, page_checksum_verification=True, **streamed)

    def _rows(self, file: Any) -> Iterator[Row]:
        """Every row; those of a row group behind damage are errors, for nothing tells where its next page begins."""
        import pyarrow

        columns = self._columns(file.schema_arrow)
        first = 0  # row of the group
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            at, end = max(self.start - first, 0), min(self.end - first, size)
            first += size
            if at >= end:
                continue
            reason = "it ends early"
            try:
                for batch in group_batches(file, group, columns, at, end, _BATCH_ROWS):
                    for index in range(len(batch)):
                        yield _row(batch.slice(index, 1))
                    at += len(batch)
            except BeamIOError:  # of storage, and an OSError, too
                raise
            except (OSError, pyarrow.ArrowException) as error:
                reason = str(error).strip()
            damage = f"row group {group} of {public_uri(self.uri)} cannot be read: {reason}"
            for _ in range(at, end):
                yield ItemError("damaged_record", damage)

    def _columns(self, schema: Any) -> list[str]:
        """What is to be read, none of it within another."""
        fields = [f"{self.image}.{field}" for field in ("bytes", "path")]
        image = [field for field in fields if _type_of(schema, field) is not None] or [self.image]
        names = dict.fromkeys((*image, *self.others))
        return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]

    def _extended(self, crc: int, row: Row) -> int:
        """The sum, with one more row."""
        if isinstance(row, ItemError):
            return google_crc32c.extend(crc, row.code.encode())
        image = _image_bytes(row[self.image])
        others = repr((None if image is None else len(image), [_value(row, name) for name in self.others]))
        return google_crc32c.extend(
            google_crc32c.extend(crc, image or b""), others.encode("utf-8", "surrogateescape")
        )

    def _item(self, row: Row, position: int, reading: Reading) -> Item:
        settings = reading.settings
        key = _default_key(reading.name, self.start, position)
        try:
            if isinstance(row, ItemError):
                raise row
            if settings.key_feature:
                key = _key(_value(row, settings.key_feature), settings.key_feature)
            image = self._image(row)
            passed = examples.from_columns({name: _flat(_value(row, name)) for name in settings.pass_through})
        except ItemError as error:
            return Failure(key, position, "read", error.code, str(error))
        except (ValueError, OverflowError) as error:  # a number beyond 64 bits
            return Failure(key, position, "read", "bad_row", f"a value cannot be stored: {error}")
        return Encoded(key, position, image, passed)

    def _image(self, row: Mapping[str, Any]) -> bytes:
        value = row[self.image]
        image = _image_bytes(value)
        if image is not None:
            return image
        path = value.get("path") if isinstance(value, dict) else None
        if path:
            raise ItemError(
                "missing_feature",
                f"column {self.image!r} holds no bytes here, only the path {public_uri(path)}: write the data set with its "
                "images embedded, or list these paths as URIs",
            )
        raise ItemError("missing_feature", f"the row has nothing in its image column {self.image!r}")

    def identity(self) -> dict[str, Any]:
        return {
            "kind": "parquet_images",
            "start": self.start,
            "end": self.end,
            "rows": self.end - self.start,
            "size_bytes": self.size_bytes,
            "modified": self.modified,
            "crc32c": self.crc32c,
        }

    def change(self, before: Mapping[str, Any]) -> str:
        return summed.change(before, self.identity(), self._read_again)

    def _read_again(self) -> str:
        crc = 0
        with self._open() as file:
            for row in self._rows(file):
                crc = self._extended(crc, row)
        return f"{crc:08x}"


def _row(batch: Any) -> Row:
    """The one row of a batch."""
    try:
        return batch.to_pylist()[0]
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a time beyond the year 9999
        return ItemError("bad_row", f"a value cannot be read: {error}")


def _value(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or with dots in `name` of a field of a struct."""
    if name in row:
        return row[name]
    column, *fields = name.split(".")
    value = row[column]
    for field in fields:
        value = value and value.get(field)
    return value


def _image_bytes(value: Any) -> bytes | None:
    return value.get("bytes") if isinstance(value, dict) else value


def _key(value: Any, name: str) -> bytes:
    if value is None or value in ("", b""):
        raise ItemError("missing_feature", f"the row has nothing in its key column {name!r}")
    return value if isinstance(value, bytes) else key_of_uri(str(value))


def _flat(value: Any) -> Any:
    """A value, or a list of values, as a feature can hold it: what is nested deeper becomes JSON."""
    inner = value if isinstance(value, list) else [value]
    if any(isinstance(one, (dict, list, tuple)) for one in inner):
        return json.dumps(value, ensure_ascii=False, default=_text)
    return value


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _default_key(name: str, start: int, position: int) -> bytes:
    """`name#row`, with the row's number in the whole file."""
    return f"{name}#{start + position}".encode("utf-8", "surrogateescape")


def _keys(name: str, identity: Mapping[str, Any], listing: str) -> KeyAt | None:
    return partial(_default_key, name, identity["start"]) if identity.get("kind") == KIND.name else None


def _accepts(path: str, settings: ReadSettings) -> bool:
    with open_parquet(path) as file:
        schema = file.schema_arrow
    is_list = settings.uri_column in schema.names
    columns = _image_columns(schema, settings)
    if is_list and columns and not settings.image_feature:
        raise BadInput(
            f"{path} has both the column {settings.uri_column!r} of a list of URIs and images in "
            f"{', '.join(map(repr, columns))}: {_CHOICE}"
        )
    if not is_list and not columns and not settings.image_feature:
        raise BadInput(
            f"{path} has no column {settings.uri_column!r}; its columns are {', '.join(schema.names) or 'none'}: name "
            "them with --uri_column and --pass_through, or with --image_feature the one that holds the bytes of images"
        )
    return bool(columns) or not is_list


def _image_columns(schema: Any, settings: ReadSettings) -> list[str]:
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


def _type_of(schema: Any, name: str) -> Any:
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


def _image_column(path: str, schema: Any, settings: ReadSettings) -> str:
    """The column that holds the images. Raises BadInput where there is none, or one of several must be named."""
    columns = _image_columns(schema, settings)
    if len(columns) == 1:
        return columns[0]
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


def _check_others(path: str, schema: Any, settings: ReadSettings) -> None:
    from pyarrow import types

    asked = [*filter(None, [settings.key_feature]), *settings.pass_through]
    missing = [name for name in asked if _type_of(schema, name) is None]
    if missing:
        raise BadInput(
            f"{path} has no column {', '.join(map(repr, missing))}; its columns are {', '.join(schema.names)}: "
            "name them with --key_feature and --pass_through, and fields of structs as COLUMN.FIELD"
        )
    if settings.key_feature and types.is_nested(kind := _type_of(schema, settings.key_feature)):
        raise BadInput(
            f"{path}: column {settings.key_feature!r} is {kind}, and a key is a single value: name another with --key_feature"
        )


def _ranges(group_rows: Iterable[int], rows_per_shard: int) -> Iterator[tuple[int, int]]:
    """Cuts rows into ranges of at most `rows_per_shard`: between row groups where it can, within those that are larger."""
    start = at = 0
    for rows in group_rows:
        if start < at and at + rows - start > rows_per_shard:
            yield start, at
            start = at
        at += rows
        while at - start > rows_per_shard:
            yield start, start + rows_per_shard
            start += rows_per_shard
    if start < at:
        yield start, at


def _cut(files: Sequence[FileMetadata], cutting: Cutting) -> Cut:
    with ThreadPoolExecutor(_THREADS) as pool:  # a request or two each
        cuts = list(pool.map(partial(_cut_file, cutting), files))
    sources, names, largest = [], [], 0
    for name, (of_file, group_rows) in zip(short_names([file.path for file in files]), cuts, strict=True):
        sources += of_file
        names += [name] * len(of_file)
        largest = max(largest, group_rows)
    note = (
        f"row groups hold up to {largest} rows, more than --images_per_shard={cutting.images_per_shard}: each shard that is "
        f"cut from one reads it from its start; --images_per_shard={largest} reads every row group once"
    )
    return Cut(sources, names, (note,) if largest > cutting.images_per_shard else ())


def _cut_file(cutting: Cutting, file: FileMetadata) -> tuple[list[ImageRows], int]:
    """The sources of a file, and the rows of its largest row group."""
    settings = cutting.read
    with open_parquet(file.path) as parquet:
        schema, about = parquet.schema_arrow, parquet.metadata
    image = _image_column(file.path, schema, settings)
    _check_others(file.path, schema, settings)
    others = tuple(dict.fromkeys((*filter(None, [settings.key_feature]), *settings.pass_through)))
    whole = ImageRows(file.path, image, others, 0, 0, file.size_in_bytes, file.last_updated_in_seconds or 0.0)
    rows = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    ranges = _ranges(rows, cutting.images_per_shard)
    return [replace(whole, start=start, end=end) for start, end in ranges], max(rows, default=0)


KIND = Kind(
    "parquet_images",
    is_named=lambda name: name.endswith(".parquet"),
    sniff=lambda head: False,
    cut=_cut,
    keys=_keys,
    accepts=_accepts,
)
