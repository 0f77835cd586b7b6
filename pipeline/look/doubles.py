"""Exact duplicates: images of the same bytes, by `image/sha256`, among all features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.look import scan
from pipeline.look.scan import Row, Scan
from pipeline.outputs import Committed

GROUPS = 24  # shown
MEMBERS = 8  # shown of each


@dataclass(frozen=True)
class Exact:
    """Groups of equal images, the largest first."""

    rows: list[Row]  # the sample, and those of `groups` that are not in it
    vectors: np.ndarray  # of these rows
    groups: list[list[int]]  # indices into `rows`
    sizes: list[int]  # of the groups, shown or not
    total: int  # groups
    superfluous: int  # images beyond the first of each group
    share: float  # of all images that were compared


def find(scanned: Scan, committed: Committed, vector: str) -> Exact:
    """The exact duplicates of an output. Reads the shards of those that are shown again. Raises Damaged."""
    order = np.argsort(scanned.digests, kind="stable")
    digests, rows = scanned.digests[order], scanned.digest_rows[order]
    starts = np.flatnonzero(np.r_[True, digests[1:] != digests[:-1]])
    sizes = np.diff(np.r_[starts, len(digests)])
    multiple = np.flatnonzero(sizes > 1)
    largest = multiple[np.lexsort((rows[starts[multiple]], -sizes[multiple]))][:GROUPS]
    members = [rows[starts[at] : starts[at] + min(MEMBERS, sizes[at])].tolist() for at in largest]
    place = {row.number: index for index, row in enumerate(scanned.rows)}
    more = [number for group in members for number in group if number not in place]
    all_rows, vectors = list(scanned.rows), [scanned.vectors]
    for row, values in scan.look_up(committed, vector, more) if more else ():
        place[row.number] = len(all_rows)
        all_rows.append(row)
        vectors.append(values[np.newaxis])
    return Exact(
        all_rows,
        np.concatenate(vectors),
        [[place[number] for number in group] for group in members],
        sizes[largest].tolist(),
        len(multiple),
        int((sizes[multiple] - 1).sum()),
        scanned.share,
    )
