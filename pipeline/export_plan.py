"""What an export has to do: the shards of an output, minus those already exported. Refuses what cannot be."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import of_output, outputs
from pipeline.flags import RequestError
from transforms.commit import receipts
from transforms.exporting import formats, parquet, steps
from transforms.exporting.base import Export, Part, Place
from transforms.plan_file import ReadPlan, elements
from transforms.storage import door
from transforms.storage.door import StoreSettings


@dataclass(frozen=True)
class Plan:
    """The work of one export."""

    export: Export
    parts: tuple[Part, ...]
    todo: tuple[Part, ...]
    request: Mapping[str, Any]  # all that determines the bytes
    is_finished: bool
    has_columns: bool
    notes: tuple[str, ...] = ()

    def define(self, pipeline: beam.Pipeline, stores: StoreSettings) -> None:
        """Adds the graph to `pipeline`: the columns are decided from all parts, unless that is done.

        Writes the plan files of many parts. `stores` are those that the workers are to use."""
        export, files = self.export, steps.PlanFiles(self.export)
        todo = elements(files, self.todo)
        if self.has_columns:
            parts = pipeline | "Parts" >> beam.Create(todo)
        else:
            parts = (
                pipeline
                | "AllParts" >> beam.Create(elements(files, self.parts))
                | "ReadAllParts" >> beam.ParDo(ReadPlan(files, stores)).with_output_types(Part)
                | "SummarizeRecords" >> beam.ParDo(steps.SummarizeRecords(export, stores))
                | "Merge" >> beam.CombineGlobally(steps.Merge())
                | "DecideColumns" >> beam.ParDo(steps.DecideColumns(export, todo, stores))
                | "Spread" >> beam.Reshuffle()
            )
        (
            parts
            | "ReadParts" >> beam.ParDo(ReadPlan(files, stores)).with_output_types(Part)
            | "WriteParts" >> beam.ParDo(steps.WriteParts(export, stores)).with_output_types(str)
            | "AllWritten" >> beam.combiners.Count.Globally()
            | "Finish" >> beam.ParDo(steps.Finish(export, stores)).with_output_types(str)
        )

    @property
    def is_sample(self) -> bool:
        """Whether the export holds a part of the rows only."""
        return bool(formats.of(self.export.format).final)

    def left(self) -> tuple[Part, ...]:
        """The parts that are not exported yet."""
        final = formats.of(self.export.format).final
        if final and door.exists(self.export.place.file(final)):
            return ()
        return _todo(self.export, self.parts)


def make(arguments: argparse.Namespace, beam_options: PipelineOptions) -> Plan:
    """The plan of an export. Writes nothing. Raises RequestError."""
    committed = outputs.committed(arguments.output, arguments.partial)
    format = formats.of(arguments.format)
    dimensions = json.loads(committed.manifest)["dimensions"]
    if format.needs_embedding and "embedding" not in dimensions:
        raise RequestError(
            f"{arguments.output} has no embedding, which --format={format.name} is about; it has {', '.join(dimensions)}"
        )
    place, found = Place(arguments.to), of_output.Found({})
    if format.name == "tensorboard":
        found = of_output.find_pictures(arguments, committed, beam_options)
    request = _request(arguments, committed.digest, found.inputs)
    export = Export(
        committed.layout,
        place,
        arguments.format,
        arguments.dtype,
        arguments.normalize,
        arguments.limit,
        committed.rows,
        committed.manifest,
        json.dumps(request, sort_keys=True),
    )
    parts = tuple(replace(part, pictures=found.pictures.get(part.label)) for part in committed.parts)
    _check_same(place, request)
    is_finished = bool(format.final) and door.exists(place.file(format.final))
    todo = () if is_finished else _todo(export, parts)
    notes = (found.note,) if found.note else ()
    return Plan(export, parts, todo, request, is_finished, door.exists(place.columns), notes)


def _todo(export: Export, parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts whose last file is not there."""
    format = formats.of(export.format)
    paths = {part: format.done(export, part) for part in parts}
    folders = {path.rpartition("/")[0] for path in paths.values() if path}
    there = {file.path for folder in folders for file in door.match(door.join(folder, "*"))}
    return tuple(part for part, path in paths.items() if path and path not in there)


def _request(arguments: argparse.Namespace, digest: str, inputs: Sequence[str]) -> dict[str, Any]:
    """All that determines the bytes of an export."""
    request = {"features": digest, "format": arguments.format, "dtype": arguments.dtype}
    request["normalize"] = arguments.normalize
    if arguments.format == "tensorboard":
        request |= {"limit": arguments.limit, "input": list(inputs)}
    return request


def _check_same(place: Place, request: Mapping[str, Any]) -> None:
    """Raises RequestError if the folder was made for another request, or not by an export."""
    remedy = "use another --to, or delete that folder"
    noted = door.read_if_there(place.request) or _described(place)
    if noted is None:
        globs = [place.file(pattern) for format in formats.FORMATS for pattern in format.files]
        for file in itertools.chain.from_iterable(map(door.match, globs)):
            raise RequestError(f"--to={place.folder} holds {file.path}, which no export wrote: {remedy}")
        return
    for name, (old, new) in receipts.differences(json.loads(noted), request).items():
        if name == "features":
            raise RequestError(
                f"--to={place.folder} was made from other features: the output has changed since, or is another one; {remedy}"
            )
        raise RequestError(
            f"--to={place.folder} was made with {name} = {old!r}, this asks for {new!r}: {remedy}"
        )


def _described(place: Place) -> bytes | None:
    """The request of a finished export, as one of its files tells it."""
    for glob in filter(None, (format.described_by for format in formats.FORMATS)):
        for file in door.match(place.file(glob))[:1]:
            return parquet.request_of(file.path)
    return None


def enter(plan: Plan) -> None:
    """Notes the request in the folder. Raises RequestError if it cannot be written to, or another export was faster."""
    place, data = plan.export.place, plan.export.request.encode()
    try:
        if not door.create_only(place.request, data):
            _check_same(place, plan.request)
    except (OSError, BeamIOError, ValueError, ImportError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(
            f"--to={place.folder} cannot be written to: {door.explain(place.folder, error)}"
        ) from error
