"""How fast features become Parquet: `python -m benchmarks.export`.

The export's own path, from the bytes of a feature file to those of a Parquet file, beside pyarrow writing the same table,
which it has in memory, with the same options and with its defaults; and tfx-bsl's decoding beside the export's. All in
turns in one process, on one thread, by CPU time. Nothing is read from or written to a disk, but by --memory.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import figures, machine, memory
from transforms.commit.files import CheckedBlocks, FileWriter
from transforms.commit.layout import Layout, features_name
from transforms.commit.receipts import Receipt
from transforms.elements import Decoded
from transforms.exporting import parquet
from transforms.exporting.base import batch_rows
from transforms.manifest import manifest
from transforms.records import columns, examples, features, tfrecord
from transforms.storage import door

_DISTINCT = 64  # vectors; more would only take memory
_WRITTEN = 2048  # records of the smallest output of --memory


class Sink:
    """Counts bytes."""

    def __init__(self):
        self.closed, self.size = False, 0

    def write(self, data: bytes) -> int:
        """Returns their number."""
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self.size

    def writable(self) -> bool:
        """True."""
        return True

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def feature_file(rows: int, dimensions: int) -> bytes:
    """The bytes of a feature file, with a label and a caption passed through."""
    vectors = np.random.default_rng(0).gamma(0.5, 1, (_DISTINCT, dimensions)).astype(np.float32)
    items = [
        Decoded(
            b"in-00000-of-00001.tfrecord#%d" % row,
            row,
            row % _DISTINCT,
            500,
            375,
            f"{row:064x}",
            examples.from_columns({"label": row % 1000, "caption": f"picture number {row}"}),
        )
        for row in range(rows)
    ]
    return features.encode(items, {"embedding": vectors})


def blocks(data: bytes) -> list[bytes]:
    """As a disk's reader returns them."""
    return [data[at : at + (4 << 20)] for at in range(0, len(data), 4 << 20)]


class Stream:
    """A feature file in memory, as the door opens one."""

    def __init__(self, parts: list[bytes]):
        self._parts = iter(parts)

    def read_block(self) -> bytes:
        """The next block; none at the end."""
        return next(self._parts, b"")

    def read(self, count: int, /) -> bytes:
        """Not called."""
        raise NotImplementedError


def ours(parts: list[bytes], schema: pa.Schema) -> int:
    """Reads, decodes and writes all; returns the size."""
    sink = Sink()
    parquet.write(sink, schema, decoded(parts, schema))
    return sink.size


def decoded(parts: list[bytes], schema: pa.Schema):
    """The file as record batches."""
    size, pending = batch_rows(schema), []
    for record in tfrecord.read(CheckedBlocks(Stream(parts)), check=False):
        pending.append(record.data)
        if len(pending) == size:
            yield columns.batch(pending, schema)
            pending = []
    if pending:
        yield columns.batch(pending, schema)


def from_memory(table: pa.Table, **options) -> int:
    """pyarrow writes the table in row groups of the export's size; returns the size."""
    sink = Sink()
    rows = parquet.group_rows(table.schema)
    pq.write_table(table, sink, row_group_size=rows, **options)
    return sink.size


def tfx_bsl_decoder(schema: pa.Schema) -> Callable[[list[bytes]], object] | None:
    """tfx-bsl's decoding of these columns; None where it is not installed."""
    try:
        from tensorflow_metadata.proto.v0 import schema_pb2
        from tfx_bsl.coders import example_coder
    except ImportError:
        return None
    proto = schema_pb2.Schema()
    for field in schema:
        if pa.types.is_fixed_size_list(field.type):
            kind = schema_pb2.FLOAT
        else:
            kind = schema_pb2.INT if pa.types.is_integer(field.type) else schema_pb2.BYTES
        proto.feature.add(name=field.name, type=kind)
    decoder = example_coder.ExamplesToRecordBatchDecoder(proto.SerializeToString())
    return decoder.DecodeBatch


def output_of(folder: Path, rows: int, dimensions: int) -> Path:
    """The output folder of a job of one shard, as far as an export reads it."""
    layout, label = Layout(str(folder)), "00000-of-00001"
    writer = FileWriter(layout.features(label), features_name(label))
    for _ in range(rows // _WRITTEN):
        writer.write(feature_file(_WRITTEN, dimensions))
    writer.close()
    shown = {"name": "untrained/tiny", "weights": "tiny, seeded"}
    schema = {"image_feature": "", "uri_column": "", "key_feature": "", "pass_through": ["label", "caption"]}
    fingerprint = {"model": shown, "precision": "float32", "preprocessing": {}, "schema": schema}
    receipt = Receipt(
        label,
        "in.tfrecord",
        input={},
        inputs=rows,
        features=rows,
        failures=0,
        failures_by_code={},
        files=(writer.summary(),),
        outputs={"embedding": dimensions},
        fingerprint=fingerprint,
        model={},
    )
    door.write_atomic(layout.receipt(label), receipt.to_json())
    door.write_atomic(layout.manifest, manifest([receipt], fingerprint, 1))
    return folder


def growth(dimensions: int) -> None:
    """Prints the memory of exports of one shard, by its size."""
    sizes = (_WRITTEN, 4 * _WRITTEN, 16 * _WRITTEN)
    print(f"\n| peak MiB of an export | {' | '.join(f'{rows} records' for rows in sizes)} |")
    print(f"|---|{'---|' * len(sizes)}")
    with tempfile.TemporaryDirectory() as name:
        outputs = [output_of(Path(name) / str(rows), rows, dimensions) for rows in sizes]
        for format in ("parquet", "npy", "tensorboard"):
            peaks = [
                memory.peak_mib(
                    [str(output), f"--to={name}/{format}-{output.name}", f"--format={format}"],
                    "pipeline.export",
                )
                for output in outputs
            ]
            print(f"| {format} | {' | '.join(f'{peak:.0f}' for peak in peaks)} |", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--dimensions", type=int, default=6144)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--memory", action="store_true", help="also the memory of complete exports, on a disk"
    )
    args = parser.parse_args()
    data = feature_file(args.rows, args.dimensions)
    parts = blocks(data)
    records = [bytes(record.data) for record in tfrecord.read(io.BytesIO(data))]
    vectors = columns.vectors_of({"embedding": args.dimensions})
    schema = columns.schema(
        columns.summarize(records, vectors),
        len(records),
        {"embedding": args.dimensions},
        ("label", "caption"),
    )
    table = pa.Table.from_batches(list(decoded(parts, schema)), schema)
    size = batch_rows(schema)
    chunks = [records[at : at + size] for at in range(0, len(records), size)]
    tasks: dict[str, Callable[[], object]] = {
        "the export, from feature records": lambda: ours(parts, schema),
        "pyarrow, the same table in memory": lambda: from_memory(table, **parquet.options(schema)),
        "pyarrow with its default options": lambda: from_memory(table),
        "reading and decoding alone": lambda: [None for _ in decoded(parts, schema)],
        "decoding alone": lambda: [columns.batch(chunk, schema) for chunk in chunks],
        "summing up the types of the columns": lambda: columns.summarize(records, vectors),
    }
    if decode := tfx_bsl_decoder(schema):
        tasks["decoding alone, tfx-bsl"] = lambda: [decode(chunk) for chunk in chunks]
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(args.rounds):
        for name, task in tasks.items():
            began = time.process_time()
            task()
            seconds[name].append(time.process_time() - began)
    micros = {name: 1e6 * statistics.median(times) / args.rows for name, times in seconds.items()}
    print(machine.describe())
    print(f"pyarrow {version('pyarrow')}, {args.rows} records of {args.dimensions} floats\n")
    print("| | microseconds of CPU time per record |\n|---|---|")
    for name, value in micros.items():
        print(f"| {name} | {value:.1f} |")
    own, *others = list(tasks)[:3]
    print()
    for other in others:
        ratios = [theirs / ours for ours, theirs in zip(seconds[own], seconds[other], strict=True)]
        ratio = statistics.median(ratios)
        print(
            f"rate of the export over that of {other}: {ratio:.2f} (from {min(ratios):.2f} to {max(ratios):.2f})"
        )
        figures.report(**{f"over {other}": ratio})
    if args.memory:
        growth(args.dimensions)


if __name__ == "__main__":
    main()
