"""Prints the features of a job's output: each image's key, dimension and norm, and the most similar image.

python -m samples.show local/features
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bit.command import exit_with
from transforms.commit.layout import features_name
from transforms.records import features


class Record(NamedTuple):
    """The key and the embedding of one feature record."""

    key: str
    embedding: NDArray[np.float32]  # [dimension]


def read_records(folder: Path) -> Iterator[Record]:
    """The feature records of a job's output folder, in input order. Raises ValueError for a damaged file."""
    paths = folder.glob(features_name("*"))
    for path in sorted(
        paths, key=lambda path: (len(path.name), path.name)
    ):  # 100000-of-... after 99999-of-...
        with path.open("rb") as stream:
            for record in features.read(stream):
                if isinstance(record, features.Damage):
                    raise ValueError(f"{path}: {record.reason} at offset {record.offset}")
                values = record.values()
                yield Record(values[features.KEY][0].decode(errors="replace"), values["embedding"])


def nearest(embeddings: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each row of [n, dimension], n > 1: the other row with the highest cosine similarity, and the cosine; [n]."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines.argmax(axis=1), cosines.max(axis=1)


def describe(records: Sequence[Record]) -> Iterator[str]:
    """One line per record, below a line of headings."""
    width = max(3, *(len(record.key) for record in records))
    yield f"{'key':{width}}  dimension    norm  cosine  nearest"
    embeddings = np.stack([record.embedding for record in records])
    norms = np.linalg.norm(embeddings, axis=1)
    if len(records) == 1:
        yield f"{records[0].key:{width}}  {embeddings.shape[1]:9d}  {norms[0]:6.2f}"
        return
    for record, norm, other, cosine in zip(records, norms, *nearest(embeddings), strict=True):
        measures = f"{record.embedding.size:9d}  {norm:6.2f}  {cosine:6.3f}"
        yield f"{record.key:{width}}  {measures}  {records[other].key}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 if the folder holds no record."""
    parser = argparse.ArgumentParser(prog="python -m samples.show", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the --output folder of a job")
    parser.add_argument(
        "--limit", type=int, default=100, help="maximum number of records to read (default: 100)"
    )
    args = parser.parse_args(argv)
    records = [record for record, _ in zip(read_records(args.folder), range(args.limit), strict=False)]
    if not records:
        print(
            f"no record in {args.folder}/{features_name('*')}: pass the --output folder of a job",
            file=sys.stderr,
        )
        return 2
    print("\n".join(describe(records)))
    return 0


if __name__ == "__main__":
    exit_with(main)
