"""The interface of an export format, and what an export is about: the request, its parts, and where its files are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from transforms import counters
from transforms.commit import committed
from transforms.commit.files import FileSummary
from transforms.commit.layout import Layout
from transforms.records import columns
from transforms.sources.pictures import ShardPictures
from transforms.storage import door

_BATCH_BYTES = 16 << 20  # 16 MiB of vectors; parsing many records at once costs each of them less
_MAX_BATCH_ROWS = 1024


class BadExport(ValueError):
    """An output cannot be exported as requested; the message says what, where and what to do."""


@dataclass(frozen=True)
class Part:
    """A committed shard to be exported."""

    label: str
    rows: int
    first: int  # the row of the whole output that its first row is
    file: FileSummary | None  # its feature file
    pictures: ShardPictures | None = None  # if these can be read again

    @property
    def number(self) -> str:
        """'00003' of '00003-of-00012', '000003' of '00003-of-100001': readers take files in the order of their names."""
        index, of = self.label.split("-of-")
        return index.zfill(len(str(int(of) - 1)))

    @property
    def name(self) -> str:
        """The label with that number."""
        return f"{self.number}-of-{self.label.split('-of-')[1]}"


@dataclass(frozen=True)
class Place:
    """The files of an export below its folder. What is not for readers is in a hidden folder, which is gone at the end."""

    folder: str

    def file(self, *names: str) -> str:
        """A file for readers."""
        return door.join(self.folder, *names)

    def hidden(self, *names: str) -> str:
        """A file of the export itself."""
        return door.join(self.folder, ".export", *names)

    @property
    def request(self) -> str:
        """The request that this folder was made for."""
        return self.hidden("request.json")

    @property
    def columns(self) -> str:
        """The Arrow schema of the records, for all parts alike."""
        return self.hidden("columns.arrow")


@dataclass(frozen=True)
class Export:
    """A request: what is exported, in which form, where."""

    layout: Layout  # of the features
    place: Place
    format: str
    dtype: str  # of vectors: 'float32' or 'float16'
    normalize: str  # 'none' or 'l2', of the embedding
    limit: int  # rows, for formats that take a sample
    rows: int  # of all parts
    manifest: str  # of the features, as JSON
    request: str  # all that determines the bytes, as JSON

    @property
    def metadata(self) -> dict[str, str]:
        """What the schema of a file says about its features: `precision` as a word, all else as JSON."""
        manifest = json.loads(self.manifest)
        about = {name: json.dumps(manifest[name], sort_keys=True) for name in ("model", "preprocessing")}
        about |= {"precision": manifest["precision"], "manifest": self.manifest, "request": self.request}
        return {f"bit_features.{name}": value for name, value in about.items()}

    @property
    def dimensions(self) -> dict[str, int]:
        """Values per record of each output."""
        return json.loads(self.manifest)["dimensions"]

    def schema(self) -> pa.Schema:
        """The columns of the records. Raises FileNotFoundError before they have been decided."""
        return pa.ipc.read_schema(pa.BufferReader(door.read_bytes(self.place.columns)))


class Format(Protocol):
    """An export format; `formats.FORMATS` lists them. Picklable."""

    @property
    def name(self) -> str:
        """The value of --format."""

    @property
    def needs_embedding(self) -> bool:
        """Whether an output without an embedding cannot be exported this way."""

    @property
    def files(self) -> tuple[str, ...]:
        """Globs, below the folder, for all files that it may write there."""

    @property
    def final(self) -> str:
        """The file, below the folder, that `finish` puts in place last; '' if all files are those of parts."""

    @property
    def described_by(self) -> str:
        """A glob, below the folder, for Parquet files that say which request they are of.

        '' if there are none: then the note of the request stays in the hidden folder."""

    def done(self, export: Export, part: Part) -> str:
        """The file whose presence means that a part is done: the last one that `write` puts in place; '' for nothing to do."""

    def write(self, export: Export, part: Part, schema: pa.Schema) -> None:
        """Writes the files of a part. The same part gives the same bytes."""

    def finish(self, export: Export) -> None:
        """Called once all parts are done; safe to repeat."""


def batches(layout: Layout, part: Part, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The records of a part as Arrow, in order. Raises Damaged."""
    size = batch_rows(schema)
    pending: list[Any] = []
    if part.file is None:
        return
    for record in committed.records(layout.features(part.label), part.file):
        pending.append(record)
        if len(pending) == size:
            yield _batch(pending, schema)
            pending = []
    if pending:
        yield _batch(pending, schema)


def _batch(records: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    counters.PROCESS.add(out_features=len(records))
    return columns.batch(records, schema)


def batch_rows(schema: pa.Schema) -> int:
    """Rows per batch: bounded memory, whatever the model's dimensions."""
    return max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // columns.row_bytes(schema)))
