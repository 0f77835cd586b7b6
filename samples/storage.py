"""What smaller forms of the vectors lose, on the output of a job: float16, and PCA to fewer dimensions.

python -m samples.storage local/features [--limit=5000]

Half of an evenly spread sample fits the PCA, the other half measures: the cosine of each vector with what is restored of it, and
how many of its ten nearest neighbours, by cosine, are still among the ten.
"""

import argparse
import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline import read

_SIZES = (2048, 1024, 512, 256, 128, 64)
_NEIGHBOURS = 10


def sample(output: str, limit: int) -> NDArray[np.float32]:
    """At most `limit` embeddings [n, dimension] of an output, evenly spread."""
    features = read(output, columns=["embedding"])
    rows = np.unique(np.linspace(0, len(features) - 1, min(limit, len(features))).astype(int))
    parts, start = [], 0
    for batch in features:
        vectors = batch.column(0).flatten().to_numpy().reshape(len(batch), -1)
        parts.append(vectors[rows[(rows >= start) & (rows < start + len(batch))] - start])
        start += len(batch)
    return np.concatenate(parts)


def neighbours(vectors: NDArray[np.float32]) -> NDArray[np.intp]:
    """The rows of the ten nearest other vectors of each, by cosine; [n, 10]."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return np.argsort(-cosines, axis=1, kind="stable")[:, :_NEIGHBOURS]


def forms(
    fit: NDArray[np.float32], vectors: NDArray[np.float32]
) -> Iterator[tuple[str, int, NDArray[np.float32]]]:
    """Name, bytes per vector, and what is restored of the vectors [n, dimension] in each form."""
    dimension = vectors.shape[1]
    yield "float32", 4 * dimension, vectors
    yield "float16", 2 * dimension, vectors.astype(np.float16).astype(np.float32)
    mean = fit.mean(axis=0)
    directions = np.linalg.svd(fit - mean, full_matrices=False)[2]
    for size in _SIZES:
        if size < min(len(fit), dimension):
            basis = directions[:size]
            yield f"PCA, {size} float32", 4 * size, (vectors - mean) @ basis.T @ basis + mean


def table(vectors: NDArray[np.float32]) -> Iterator[str]:
    """The lines of a Markdown table for embeddings [n, dimension], n > 22."""
    fit, test = vectors[::2], vectors[1::2]
    before, norms = neighbours(test), np.linalg.norm(test, axis=1)
    yield "| form | bytes per vector | cosine with the original, mean (least) | of the ten nearest, still among them |"
    yield "|---|---|---|---|"
    for name, size, restored in forms(fit, test):
        lengths = np.maximum(norms * np.linalg.norm(restored, axis=1), 1e-30)
        cosines = np.einsum("ij,ij->i", test, restored, dtype=np.float64) / lengths
        kept = [len(np.intersect1d(a, b)) for a, b in zip(before, neighbours(restored), strict=True)]
        share = np.mean(kept) / _NEIGHBOURS
        yield f"| {name} | {size} | {cosines.mean():.6f} ({cosines.min():.6f}) | {share:.1%} |"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns 0, or 2 if the output cannot be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m samples.storage", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("output", metavar="OUTPUT", help="the --output folder of a finished job")
    parser.add_argument("--limit", type=int, default=5000, help="vectors at most (default: %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        vectors = sample(arguments.output, arguments.limit)
    except (ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if len(vectors) < 2 * (_NEIGHBOURS + 2):
        print(f"error: {len(vectors)} vectors are too few: {2 * (_NEIGHBOURS + 2)} at least", file=sys.stderr)
        return 2
    if read(arguments.output).manifest["model"]["name"].startswith("untrained/"):
        print("the weights are untrained: these figures say nothing about BiT", file=sys.stderr)
    for line in table(vectors):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
