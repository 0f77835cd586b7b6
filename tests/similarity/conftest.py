"""Searches beside brute force."""

import numpy as np
import pyarrow as pa

from transforms.records import columns
from transforms.similarity import exact, pictures, table
from transforms.similarity.groups import Groups


def collected(vectors, keys=None, digests=None, sizes=None):
    """The pictures of an output with these vectors; all of different bytes and 2 x 3 pixels if nothing else is said."""
    vectors, count = np.asarray(vectors, np.float32), len(vectors)
    schema = pictures.schema(vectors.shape[1])
    sizes = sizes or [(2, 3)] * count
    rows = {
        "key": keys or [b"%06d" % row for row in range(count)],
        "embedding": columns.vector(vectors, schema.field("embedding").type),
        "sha256": digests or [f"{row:064x}" for row in range(count)],
        "width": [width for width, _ in sizes],
        "height": [height for _, height in sizes],
    }
    whole = pa.RecordBatch.from_arrays(
        [pa.array(rows[f.name], f.type) if isinstance(rows[f.name], list) else rows[f.name] for f in schema],
        schema=schema,
    )
    return pictures.collect([whole.slice(0, count // 3), whole.slice(count // 3)], vectors.shape[1])


def grouped(given, threshold, search=exact.search):
    """The rows of each group of two or more, as sets, by a search."""
    groups = Groups(len(given.vectors))
    search(given.vectors, threshold, groups, lambda done, total: None)
    found = table.members(given, groups.all())
    return [set(found.rows[found.groups == group].tolist()) for group in np.unique(found.groups)]


def cosines(vectors):
    """Of all pairs, in float64, to nine digits."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    return np.round(vectors @ vectors.T / norms[:, None] / norms[None, :], 9)


def components(alike):
    """The sets of two or more that are connected, in the order of their first members: a plain walk."""
    left, out = set(range(len(alike))), []
    while left:
        group, border = set(), [min(left)]
        while border:
            row = border.pop()
            if row not in group:
                group.add(row)
                border.extend(np.flatnonzero(alike[row]).tolist())
        left -= group
        if len(group) > 1:
            out.append(group)
    return out
