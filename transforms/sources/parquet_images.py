"""Parquet files that hold the images themselves, as data sets on Hugging Face do: a source is a run of rows.

The image column is a struct with a field `bytes` (Hugging Face's Image feature: {bytes, path}) or a column of bytes.
Lists of URIs are Parquet files, too: `accepts` tells them apart by their columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from apache_beam.io.filesystem import FileMetadata

from transforms.sources import column_kinds, parquet_columns, shard_size
from transforms.sources.base import BadInput, Cut, Cutting, KeyAt, Kind, ReadSettings, as_bad_input
from transforms.sources.names import short_names
from transforms.sources.parquet_image_rows import ImageRows, default_key
from transforms.sources.parquet_rows import open_parquet

_THREADS = 32  # that read footers at launch
_CHOICE = "--input_format=parquet takes the list of URIs, --image_feature=COLUMN the images"


def _keys(name: str, identity: Mapping[str, Any], listing: str) -> KeyAt | None:
    return partial(default_key, name, identity["start"]) if identity.get("kind") == KIND.name else None


def _accepts(path: str, settings: ReadSettings) -> bool:
    with as_bad_input(path), open_parquet(path) as file:
        schema = file.schema_arrow
    is_list = settings.uri_column in schema.names
    columns = parquet_columns.image_columns(schema, settings)
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
        looked_into = list(pool.map(partial(_look_into, cutting.read), files))
    groups = [rows for _, of_file, _ in looked_into for rows in of_file]
    largest = max(groups, default=0)
    # Each part of a row group costs reading it from its start.
    by_default = shard_size.rows_per_shard(sum(groups), cutting.read.batch_size, at_least=largest)
    rows = cutting.images_per_shard or by_default
    sources, names = [], []
    seen: dict[str, list[str | None]] = {name: [] for name in cutting.read.pass_through}
    short = short_names([file.path for file in files], cutting.among)
    for name, (whole, of_file, schema) in zip(short, looked_into, strict=True):
        for column in seen:
            seen[column].append(column_kinds.of_arrow(parquet_columns.type_of(schema, column)))
        ranges = [replace(whole, start=start, end=end) for start, end in _ranges(of_file, rows)]
        sources += ranges
        names += [name] * len(ranges)
    note = (
        f"row groups hold up to {largest} rows, more than --images_per_shard={rows}: each shard that is "
        f"cut from one reads it from its start; --images_per_shard={largest} reads every row group once"
    )
    notes = (note,) if largest > rows else ()
    return Cut(sources, names, notes, images_per_shard=rows, kinds=column_kinds.settled(cutting.read, seen))


def _again(file: FileMetadata, identity: Mapping[str, Any], settings: ReadSettings) -> ImageRows:
    whole, _, _ = _look_into(settings, file)
    return replace(whole, start=identity["start"], end=identity["end"])


def _look_into(settings: ReadSettings, file: FileMetadata) -> tuple[ImageRows, list[int], Any]:
    """A file as a source without rows, the rows of each of its row groups, and its Arrow schema."""
    with as_bad_input(file.path), open_parquet(file.path) as parquet:
        schema, about = parquet.schema_arrow, parquet.metadata
    image = parquet_columns.image_column(file.path, schema, settings)
    parquet_columns.check_others(file.path, schema, settings)
    others = tuple(dict.fromkeys((*filter(None, [settings.key_feature]), *settings.pass_through)))
    whole = ImageRows(file.path, image, others, 0, 0, file.size_in_bytes, file.last_updated_in_seconds)
    return whole, [about.row_group(group).num_rows for group in range(about.num_row_groups)], schema


KIND = Kind(
    "parquet_images",
    is_named=lambda name: name.endswith(".parquet"),
    sniff=lambda head: False,
    cut=_cut,
    keys=_keys,
    again=_again,
    accepts=_accepts,
)
