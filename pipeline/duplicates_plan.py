"""What a search for duplicates has to do. Refuses what cannot be, or would fail after hours of computing."""

from __future__ import annotations

import argparse
import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from shutil import disk_usage
from typing import Any

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError

from pipeline import outputs
from pipeline.flags import RequestError
from pipeline.outputs import Several
from transforms.commit import receipts
from transforms.exporting import base
from transforms.similarity import index, pictures, table
from transforms.storage import door

SUFFIX = ".parquet"


@dataclass(frozen=True)
class Plan:
    """One search."""

    committed: Several
    to: str
    request: Mapping[str, Any]  # all that determines the result
    is_done: bool
    dimensions: int

    @property
    def list_path(self) -> str:
        """The list of keys beside the Parquet file."""
        return list_path(self.to)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The records, in order, as `pictures.collect` takes them. Raises Damaged."""
        schema = pictures.schema(self.dimensions)
        for output, part in self.committed.parts:
            yield from base.batches(output.layout, part, schema)


def make(arguments: argparse.Namespace) -> Plan:
    """The plan of a search. Raises RequestError."""
    committed = outputs.several([arguments.output], arguments.partial)
    request = {
        "features": committed.digest,
        "threshold": arguments.threshold,
        "exact_limit": arguments.exact_limit,
    }
    dimensions = json.loads(committed.manifest)["dimensions"]
    if "embedding" not in dimensions:
        raise RequestError(
            f"{arguments.output} has no embedding, which is what is compared; it has {', '.join(dimensions)}"
        )
    is_done = _is_done(arguments.to, request)
    if not is_done:
        _check_index(arguments, committed.rows)
        _check_disk(4 * dimensions["embedding"] * committed.rows)
        _check_writable(arguments.to)
    return Plan(committed, arguments.to, request, is_done, dimensions["embedding"])


def list_path(to: str) -> str:
    """The list of keys beside the Parquet file `to`."""
    return to.removesuffix(SUFFIX) + ".drop.jsonl"


def _is_done(to: str, request: Mapping[str, Any]) -> bool:
    """Whether the files of this request are there. Raises RequestError if the file is of another one."""
    remedy = "use another --to, or delete that file"
    try:
        noted = table.request_of(to)
    except (BeamIOError, OSError, ValueError, ImportError) as error:
        raise RequestError(f"--to={to} cannot be read: {door.explain(to, error)}") from error
    if noted is None:
        return False
    if not noted:
        raise RequestError(f"--to={to} is there, and this command did not write it: {remedy}")
    for name, (old, new) in receipts.differences(json.loads(noted), request).items():
        if name == "features":
            raise RequestError(
                f"--to={to} was made from other features: the output has changed since, or is another one; {remedy}"
            )
        raise RequestError(f"--to={to} was made with {name} = {old!r}, this asks for {new!r}: {remedy}")
    return door.exists(list_path(to))


def _check_index(arguments: argparse.Namespace, rows: int) -> None:
    if rows > arguments.exact_limit and not index.is_there():
        raise RequestError(
            f"{arguments.output} has {rows} records, and the index for more than --exact_limit={arguments.exact_limit} needs "
            "faiss: pip install 'bit-features[duplicates]', or raise --exact_limit"
        )


def _check_disk(size: int) -> None:
    folder = tempfile.gettempdir()
    if size > (free := disk_usage(folder).free):
        raise RequestError(
            f"{size / 1e9:.1f} GB of vectors need a temporary file, and {folder} has {free / 1e9:.1f} GB left: set TMPDIR to a "
            "folder with more"
        )


def _check_writable(to: str) -> None:
    probe = f"{to}.{uuid.uuid4().hex}.tmp"
    try:
        door.write_atomic(probe, b"")
        door.delete([probe])
    except (OSError, BeamIOError, ValueError, ImportError) as error:
        raise RequestError(f"--to={to} cannot be written to: {door.explain(to, error)}") from error
