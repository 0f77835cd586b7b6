"""Time and memory of the search for near duplicates: `python -m benchmarks.duplicates`.

Exact search and the index of `pipeline.duplicates`, each in a process of its own, on vectors like those of a network: ReLU of 64
hidden factors and noise. One in ten is another one with noise of its own, at a cosine of 0.94 to 0.999. --methods can add an HNSW
index of usearch, where that is installed, with the same check of what it proposes. Memory is what the process allocates: pages of
the temporary file with the vectors, which the system drops when it needs them, are not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import figures, machine
from transforms.similarity import exact, index
from transforms.similarity.groups import Groups
from transforms.similarity.vectors import Vectors, norms

_THRESHOLD = 0.95
_FACTORS = 64
_BLOCK = 1000


def vectors(file, rows: int, dimensions: int) -> Vectors:
    """The vectors of a run, the same for all methods."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((_FACTORS, dimensions), np.float32) / _FACTORS**0.5
    out, kept = Vectors(file, dimensions), np.empty((0, dimensions), np.float32)
    for start in range(0, rows, _BLOCK):
        count = min(_BLOCK, rows - start)
        hidden = random.standard_normal((count, _FACTORS), np.float32) @ weights
        block = np.maximum(hidden + 0.3 * random.standard_normal((count, dimensions), np.float32), 0)
        kept = np.concatenate([kept[-_BLOCK:], block[:100]])
        copies = np.arange(100, count, 9)
        sources = kept[random.integers(0, len(kept), len(copies))]
        noise = random.standard_normal(sources.shape, np.float32)
        noise *= norms(sources)[:, None].astype(np.float32) / dimensions**0.5
        block[copies] = sources + noise * random.uniform(0.04, 0.36, (len(copies), 1)).astype(np.float32)
        for vector, norm in zip(block, norms(block), strict=True):
            out.append(vector, norm)
    out.freeze()
    return out


def usearch(given: Vectors, threshold: float, groups: Groups, tick: exact.Tick) -> None:
    """HNSW over float16 vectors, with usearch's defaults."""
    from usearch.index import Index

    count, dimensions = given.shape
    hnsw = Index(ndim=dimensions, metric="cos", dtype="f16")
    for start in range(0, count, _BLOCK):
        unit = given.block(slice(start, start + _BLOCK)).unit
        hnsw.add(np.arange(start, start + len(unit)), unit)
    for start in range(0, count, _BLOCK):
        found = hnsw.search(given.block(slice(start, start + _BLOCK)).unit, 33)
        rows, places = np.nonzero(1 - found.distances >= threshold - 0.01)
        index._check(given, threshold, groups, start + rows, found.keys[rows, places].astype(np.int64))


METHODS: dict[str, Callable] = {"exact": exact.search, "faiss": index.search, "usearch": usearch}


class Enough(Exception):
    """The part of a search that is to be timed is done."""


def measure(method: str, rows: int, dimensions: int, part: float, results) -> None:
    """In a process of its own: seconds, peak MiB, the part of the steps done, and the recall of a complete search."""
    with tempfile.TemporaryFile() as file:
        given = vectors(file, rows, dimensions)
    groups, peak, ended = Groups(rows), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            peak[0] = max(
                peak[0], *(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
            )

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = 1.0

    def tick(steps: int, total: int) -> None:
        nonlocal done
        if steps < total and (done := steps / total) >= part:
            raise Enough

    began, cpu = time.monotonic(), time.process_time()
    with contextlib.suppress(Enough):
        METHODS[method](given, _THRESHOLD, groups, tick if method == "exact" else lambda steps, total: None)
        done = 1.0
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    ended.set()
    watcher.join()
    found = exact.recall(given, _THRESHOLD, groups, lambda steps, total: None) if done == 1 else None
    results.put((seconds, cpu, peak[0], done, found))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 40_000])
    parser.add_argument("--dimensions", type=int, default=6144)
    parser.add_argument("--methods", nargs="+", default=["exact", "faiss"], choices=METHODS)
    parser.add_argument("--part", type=float, default=1.0, help="of the pairs that exact search compares")
    args = parser.parse_args()
    print(f"{machine.describe()}, load {os.getloadavg()[0]:.1f}\n")
    print(
        "| vectors | search | part | seconds | CPU seconds | peak MiB | recall | pairs |\n|---|---|---|---|---|---|---|---|"
    )
    context = multiprocessing.get_context("spawn")
    for rows in args.rows:
        for method in args.methods:
            results = context.Queue()
            process = context.Process(
                target=measure, args=(method, rows, args.dimensions, args.part, results)
            )
            process.start()
            while process.is_alive() and results.empty():
                time.sleep(0.1)
            if results.empty():
                sys.exit(f"{method} failed at {rows} vectors")
            seconds, cpu, peak, done, recall = results.get()
            process.join()
            of_pairs = f"{recall.share:.4f} | {recall.pairs}" if recall else " | "
            print(
                f"| {rows} | {method} | {done:.1%} | {seconds:.0f} | {cpu:.0f} | {peak:.0f} | {of_pairs} |",
                flush=True,
            )
            if recall:
                figures.report(**{f"{method}: seconds": seconds, f"{method}: recall": recall.share})


if __name__ == "__main__":
    main()
