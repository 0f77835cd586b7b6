"""ReadPlan: elements of the graph in, the shards or parts of the plan out. Of a long plan the elements are ranges of a file.

What `Create` holds is part of the description of the job, and engines limit its size: Dataflow's limit for a graph is
10 MB (its page "Request quotas"), where a shard takes 120 bytes or more. So a plan of more than IN_GRAPH items is a file in
a folder of the output, which every worker reaches, and an element names a range of it.
"""

from __future__ import annotations

import hashlib
import pickle
import posixpath
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import apache_beam as beam

from transforms.storage import door
from transforms.storage.door import StoreSettings

IN_GRAPH = 10_000  # elements: less than 2 MB of shards, less than 4 MB of an export's parts

Item = TypeVar("Item")


class Place(Protocol):
    """Where plan files are: the layout of a job, or the place of an export. Picklable."""

    def plan(self, digest: str) -> str:
        """The path of the plan with this digest."""

    def is_finished(self) -> bool:
        """Whether nothing of any plan is left to do, so that plan files may have been deleted."""


@dataclass(frozen=True)
class Range:
    """Consecutive items of a plan file: `size` bytes from `start` on."""

    path: str
    start: int
    size: int


def elements(place: Place, items: Sequence[Item]) -> Sequence[Item | Range]:
    """At most IN_GRAPH elements from which ReadPlan makes the items; writes the plan file if there are more items.

    The name of the file is a digest of its content, so runs with others to do leave each other's files alone.
    """
    if len(items) <= IN_GRAPH:
        return items
    per_range = -(-len(items) // IN_GRAPH)
    packed = [
        zlib.compress(pickle.dumps(items[at : at + per_range], pickle.HIGHEST_PROTOCOL))
        for at in range(0, len(items), per_range)
    ]
    content = b"".join(packed)
    path = place.plan(hashlib.sha256(content).hexdigest()[:16])
    door.write_atomic(path, content)
    ranges, start = [], 0
    for part in packed:
        ranges.append(Range(path, start, len(part)))
        start += len(part)
    return ranges


class ReadPlan(beam.DoFn):
    """Item or Range -> items, in order.

    Without its plan file nothing is left to do if the place is finished: another run with the same request has ended, and
    deleted its files. The last step of a job, and the launcher of an export, check that nothing is missing.
    """

    def __init__(
        self,
        place: Place,
        stores: StoreSettings = StoreSettings(),  # noqa: B008  # frozen
    ):
        self._place = place
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

    def process(self, element: Any) -> Iterator[Any]:
        """Emits the items. Raises FileNotFoundError if the plan file was deleted while the run was going on."""
        if not isinstance(element, Range):
            yield element
        elif door.exists(element.path):
            yield from _read(element)
        elif not self._place.is_finished():
            raise FileNotFoundError(
                f"{element.path} was deleted while the job was running, and holds its plan: nothing else may clean up in "
                f"{posixpath.dirname(element.path)}; run the same command again to do the shards that are left"
            )


def _read(element: Range) -> tuple[Any, ...]:
    with door.open_unbuffered(element.path, element.size) as stream:
        stream.seek(element.start)
        data = b""
        while len(data) < element.size and (part := stream.read(element.size - len(data))):
            data += part
    return pickle.loads(zlib.decompress(data))


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
