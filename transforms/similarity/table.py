"""Groups of duplicates as a table, and as a list of the keys to drop."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.exporting.files import placed
from transforms.similarity.pictures import Pictures
from transforms.storage import door


@dataclass(frozen=True)
class Members:
    """The rows of an output that have a duplicate, group by group, each with its group's representative first.

    Groups are in the order of their first rows. Within one come the largest picture, then the first key, then the first row.
    """

    rows: np.ndarray  # int64, of the whole output
    kept: np.ndarray  # int64, the row of the representative of each
    groups: np.ndarray  # int64, from 0

    @property
    def dropped(self) -> np.ndarray:
        """The rows that are no representative."""
        return self.rows[self.rows != self.kept]


def members(pictures: Pictures, group_of: np.ndarray) -> Members:
    """The groups of two or more pictures; `group_of` has the group of each distinct vector."""
    groups = group_of[pictures.vector_of]
    _, places, inverse, counts = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[inverse] > 1)
    first = places[inverse[rows]]
    columns = {"first": first, "area": pictures.areas[rows], "key": _keys(pictures, rows), "row": rows}
    order = [("first", "ascending"), ("area", "descending"), ("key", "ascending"), ("row", "ascending")]
    rows = rows[pc.sort_indices(pa.table(columns), order).to_numpy()]
    _, starts, numbers = np.unique(places[inverse[rows]], return_index=True, return_inverse=True)
    return Members(rows, rows[starts[numbers]], numbers)


def table(pictures: Pictures, found: Members, labels: Sequence[str], firsts: np.ndarray) -> pa.Table:
    """A row for each picture that has a duplicate, in the order of `found`.

    Args:
      pictures: all of the output.
      found: those that have a duplicate.
      labels: of the shards that have rows.
      firsts: int64, the row of the whole output that is the first one of each of these shards.
    """
    rows, kept = found.rows, found.kept
    shards = np.searchsorted(firsts, rows, "right") - 1
    keys, representatives = _keys(pictures, rows), _keys(pictures, kept)
    kind = pa.string() if all(map(_is_text, keys.to_pylist())) else pa.binary()
    return pa.table(
        {
            "group": pa.array(found.groups, pa.int64()),
            "key": keys.cast(kind),
            "representative": representatives.cast(kind),
            "is_representative": pa.array(rows == kept),
            "same_bytes": pc.equal(
                pictures.digests.take(pa.array(rows)), pictures.digests.take(pa.array(kept))
            ),
            "similarity": pa.array(_similarities(pictures, rows, kept), pa.float64()),
            "shard": pa.array([labels[shard] for shard in shards], pa.string()),
            "row": pa.array(rows - firsts[shards], pa.int64()),
        }
    )


def drop_keys(pictures: Pictures, found: Members) -> tuple[list[bytes], int]:
    """The keys to drop, each once, and how many rows cannot be dropped by their key: a row that is kept has it, too."""
    is_kept = np.ones(len(pictures), bool)
    is_kept[found.dropped] = False
    dropped = _keys(pictures, found.dropped)
    also_kept = pc.is_in(dropped, value_set=pictures.keys.filter(pa.array(is_kept)))
    keys = dropped.filter(pc.invert(also_kept)).to_pylist()
    return list(dict.fromkeys(keys)), len(dropped) - len(keys)


def _keys(pictures: Pictures, rows: np.ndarray) -> pa.ChunkedArray:
    return pictures.keys.take(pa.array(rows, pa.int64()))


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


def _similarities(pictures: Pictures, rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Cosine similarities with the representative; 1 for the same vector or bytes."""
    pairs = np.stack([pictures.vector_of[rows], pictures.vector_of[kept]], axis=1)
    distinct, inverse = np.unique(pairs, axis=0, return_inverse=True)
    out = np.ones(len(distinct))
    others = np.flatnonzero(distinct[:, 0] != distinct[:, 1])
    out[others] = pictures.vectors.cosines(distinct[others, 0], distinct[others, 1])
    return out[inverse.ravel()]


def line(key: bytes) -> bytes:
    """A line of the list of keys to drop: the key as a JSON string, so that it may hold newlines.

    Bytes that are not UTF-8 become the surrogates of PEP 383, which `json.loads(line).encode(errors="surrogateescape")` turns
    into the bytes again.
    """
    return json.dumps(key.decode(errors="surrogateescape")).encode() + b"\n"


def write(
    found: pa.Table, keys: Iterable[bytes], about: Mapping[str, Any], path: str, list_path: str
) -> None:
    """Writes the list of keys, then the Parquet file, whose presence means that all is done. Raises StorageFailed."""
    metadata = {f"bit_features.{name}": json.dumps(value, sort_keys=True) for name, value in about.items()}
    with placed(list_path) as out:
        for key in keys:
            out.write(line(key))
    with placed(path) as out:
        pq.write_table(found.replace_schema_metadata(metadata), out, compression="zstd")


def request_of(path: str) -> str | None:
    """The request that the file at `path` was made for, as JSON; '' if this module did not write it; None if it is not there."""
    if not door.exists(path):
        return None
    with door.open_binary(path) as stream:
        try:
            return ((pq.read_schema(stream).metadata or {}).get(b"bit_features.duplicates") or b"").decode()
        except pa.ArrowException:
            return ""
