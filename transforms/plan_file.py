"""ReadPlan: elements of the graph in, their shards out. Of a long plan the elements are ranges of a file.

What `Create` holds is part of the description of the job, and engines limit its size: Dataflow's limit for a graph is
10 MB (its page "Request quotas"), where a shard takes 120 bytes or more. So a plan of more than IN_GRAPH shards is a file in
the output's temporary folder, which every worker reaches, and an element names a range of it.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam

from transforms.commit.layout import Layout
from transforms.elements import Shard
from transforms.storage import door
from transforms.storage.door import StoreSettings

IN_GRAPH = 10_000  # elements, less than 2 MB


@dataclass(frozen=True)
class Range:
    """Consecutive shards of a plan file: `size` bytes from `start` on."""

    path: str
    start: int
    size: int


def elements(layout: Layout, shards: Sequence[Shard]) -> Sequence[Shard | Range]:
    """At most IN_GRAPH elements from which ReadPlan makes the shards; writes the plan file if there are more shards.

    The name of the file is a digest of its content, so runs with other shards to do leave each other's files alone.
    """
    if len(shards) <= IN_GRAPH:
        return shards
    per_range = -(-len(shards) // IN_GRAPH)
    packed = [
        zlib.compress(pickle.dumps(shards[at : at + per_range], pickle.HIGHEST_PROTOCOL))
        for at in range(0, len(shards), per_range)
    ]
    content = b"".join(packed)
    path = layout.plan(hashlib.sha256(content).hexdigest()[:16])
    door.write_atomic(path, content)
    ranges, start = [], 0
    for part in packed:
        ranges.append(Range(path, start, len(part)))
        start += len(part)
    return ranges


class ReadPlan(beam.DoFn):
    """Shard or Range -> Shards, in order.

    Without a plan file nothing is left to do if the output has its manifest: another run with the same request has
    ended, and deleted temporary files. WriteManifest checks that no shard is missing.
    """

    def __init__(
        self,
        layout: Layout,
        stores: StoreSettings = StoreSettings(),  # noqa: B008  # frozen
    ):
        self._layout = layout
        self._stores = stores
        self._python = sys.version_info[:2]

    def setup(self):
        """Finds the stores of the launcher. Raises RuntimeError if the launcher runs another minor version of Python."""
        here = sys.version_info[:2]
        if here != self._python:
            raise RuntimeError(
                f"this worker runs Python {_dotted(here)}, and the job was launched with Python {_dotted(self._python)}, whose "
                "code it may not be able to run: launch it from an environment with the Python of the workers' image, or "
                "build the image with that of the launcher"
            )
        door.adopt(self._stores)

    def process(self, element: Shard | Range) -> Iterator[Shard]:
        """Emits the shards. Raises FileNotFoundError if the plan file was deleted while the job was running."""
        if isinstance(element, Shard):
            yield element
        elif door.exists(element.path):
            yield from _read(element)
        elif not door.exists(self._layout.manifest):
            raise FileNotFoundError(
                f"{element.path} was deleted while the job was running, and holds its plan: nothing else may clean up in "
                f"{self._layout.temporary}; run the same command again to do the shards that are left"
            )


def _read(element: Range) -> tuple[Shard, ...]:
    with door.open_unbuffered(element.path, element.size) as stream:
        stream.seek(element.start)
        data = b""
        while len(data) < element.size and (part := stream.read(element.size - len(data))):
            data += part
    return pickle.loads(zlib.decompress(data))


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
