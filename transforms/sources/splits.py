"""`--split_bytes`: large TFRecord files -> byte ranges, each a source of its own."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from apache_beam.io.filesystem import BeamIOError

from transforms.fetching.uris import public_uri
from transforms.records import tfrecord
from transforms.sources.base import BadInput
from transforms.storage import door

if TYPE_CHECKING:
    from transforms.sources.tfrecord import RecordFile

_NAMED = 3  # files in a note


def cut(
    files: Sequence[RecordFile], split_bytes: int, counted: bool
) -> tuple[list[list[RecordFile]], tuple[str, ...]]:
    """The ranges of each file, in order, and notes on files that had to be left whole.

    Default keys count the records from the start of the file. Where they are needed (`counted`) each file to be cut is
    walked through, header by header: on a local disk 12 bytes and a seek per record; on an object store as good as a read of
    the whole file. Otherwise nothing is read, and each range begins at the first header that its worker finds.
    """
    ranges, whole = [], []
    for file in files:
        if file.size_bytes <= split_bytes:
            ranges.append([file])
        elif _is_compressed(file):
            ranges.append([file])
            whole.append(public_uri(file.uri))
        else:
            ranges.append(list(_counted(file, split_bytes) if counted else _blind(file, split_bytes)))
    named = ", ".join(whole[:_NAMED]) + (", ..." if len(whole) > _NAMED else "")
    note = f"--split_bytes: {len(whole)} compressed files stay one shard each, they cannot be cut: {named}"
    return ranges, (note,) if whole else ()


def _is_compressed(file: RecordFile) -> bool:
    try:
        with door.open_input(file.uri) as stream:
            return door.is_compressed(stream)
    except (OSError, BeamIOError, ValueError, EOFError, zlib.error) as error:
        raise BadInput(f"{file.uri} cannot be read: {door.explain(file.uri, error)}") from error


def _blind(file: RecordFile, split_bytes: int) -> Iterator[RecordFile]:
    for start in range(0, file.size_bytes, split_bytes):
        yield replace(file, start=start, end=min(start + split_bytes, file.size_bytes), first=None)


def _counted(file: RecordFile, split_bytes: int) -> Iterator[RecordFile]:
    """Ranges that begin with the first record at or after a multiple of `split_bytes`; none is empty."""
    # A block for each header would be the whole file; on a store a request for each header costs more than that.
    opened: Any = door.open_unbuffered if door.is_local(file.uri) else door.open_binary
    try:
        with opened(file.uri) as stream:
            start = first = 0
            border = split_bytes
            for position, offset in enumerate(tfrecord.starts(stream, file.size_bytes)):
                if offset >= border:
                    yield replace(file, start=start, end=offset, first=first)
                    start, first = offset, position
                    border = (offset // split_bytes + 1) * split_bytes
            yield replace(file, start=start, end=file.size_bytes, first=first)
    except (OSError, BeamIOError) as error:
        raise BadInput(f"{file.uri} cannot be read: {door.explain(file.uri, error)}") from error
