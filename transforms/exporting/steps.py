"""The steps of the graph that exports: summarize the records' types, decide the columns, write the parts, finish."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from transforms import counters, metrics
from transforms.commit import committed
from transforms.exporting import formats
from transforms.exporting.base import Export, Part
from transforms.exporting.files import sweep
from transforms.plan_file import Range
from transforms.records import columns
from transforms.storage import door
from transforms.storage.door import StoreSettings

_COUNTED = 256  # records between two counts of progress


class _Step(beam.DoFn):
    """A step of an export; `stores` are those of the launcher."""

    def __init__(
        self,
        export: Export,
        stores: StoreSettings = StoreSettings(),  # noqa: B008  # frozen
    ):
        self._export = export
        self._stores = stores

    def setup(self) -> None:
        """Finds the stores of the launcher."""
        door.adopt(self._stores)


@dataclass(frozen=True)
class PlanFiles:
    """Where the plan files of an export are: see plan_file.py."""

    export: Export

    def plan(self, digest: str) -> str:
        """The path of the plan with this digest; a glob for all of them with '*'."""
        return self.export.place.hidden(f"plan-{digest}")

    def is_finished(self) -> bool:
        """Whether another run has ended this export: its last file is there, or the note of its request no longer is."""
        place, final = self.export.place, formats.of(self.export.format).final
        return door.exists(place.file(final)) if final else not door.exists(place.request)


class SummarizeRecords(_Step):
    """Part -> what its records hold, by feature name."""

    def process(self, part: Part) -> Iterator[dict]:
        """Reads the part once. Raises Damaged."""
        if part.file:
            path = self._export.layout.features(part.label)
            vectors = columns.vectors_of(self._export.dimensions)
            yield columns.summarize(_counted(committed.records(path, part.file)), vectors)
        metrics.hand_over()


def _counted(records: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    count = 0
    for record in records:
        count += 1
        if count == _COUNTED:
            counters.PROCESS.add(in_images=count)
            count = 0
        yield record
    counters.PROCESS.add(in_images=count)


class Merge(beam.CombineFn):
    """Summaries of parts -> the summary of all."""

    def create_accumulator(self) -> dict:
        """Of no records."""
        return {}

    def add_input(self, accumulator: dict, element: dict) -> dict:
        """With one more part."""
        return self.merge_accumulators([accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[dict]) -> dict:
        """Of all."""
        return columns.merge(accumulators)

    def extract_output(self, accumulator: dict) -> dict:
        """As it is."""
        return accumulator


class DecideColumns(_Step):
    """The summary of all records -> the parts that are to be written, or ranges of them, once the columns are."""

    def __init__(
        self,
        export: Export,
        todo: Sequence[Part | Range],
        stores: StoreSettings = StoreSettings(),  # noqa: B008  # frozen
    ):
        super().__init__(export, stores)
        self._todo = todo

    def process(self, seen: dict) -> Iterator[Part | Range]:
        """Writes the columns."""
        write_columns(self._export, seen)
        yield from self._todo


def write_columns(export: Export, seen: dict) -> None:
    """Decides the columns of all parts and writes them down. Equal records give equal bytes."""
    passed = json.loads(export.manifest)["schema"]
    types = passed.get("pass_through_types")
    schema = columns.schema(seen, export.rows, export.dimensions, passed["pass_through"], types)
    door.write_atomic(export.place.columns, schema.serialize().to_pybytes())


class WriteParts(_Step):
    """Part -> its label, once its files are there."""

    _schema: pa.Schema | None = None

    def process(self, part: Part) -> Iterator[str]:
        """Writes the part, unless another attempt has. Raises Damaged, BadExport."""
        format = formats.of(self._export.format)
        path = format.done(self._export, part)
        if path and not door.exists(path):
            if self._schema is None:
                self._schema = self._export.schema()
            format.write(self._export, part, self._schema)
        counters.PROCESS.add(shards=1)
        metrics.hand_over()
        yield part.label


class Finish(_Step):
    """One arbitrary element, once all parts are done -> the folder."""

    def process(self, _) -> Iterator[str]:
        """Writes what is made of all parts, and deletes what attempts that were killed have left."""
        finish(self._export)
        yield self._export.place.folder


def finish(export: Export) -> None:
    """Ends an export; safe to repeat."""
    format = formats.of(export.format)
    format.finish(export)
    sweep(export.place)
    door.delete([file.path for file in door.match(PlanFiles(export).plan("*"))])
    if format.described_by:  # some readers of folders refuse other files in them, hidden ones included
        door.delete([export.place.columns, export.place.request])
        door.remove_folder_if_empty(export.place.hidden())
