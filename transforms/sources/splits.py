"""`--split_bytes`: cuts large TFRecord files into byte ranges, each a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transforms.fetching.uris import public_uri
from transforms.records import tfrecord
from transforms.sources.base import as_bad_input
from transforms.storage import door

if TYPE_CHECKING:
    from transforms.sources.tfrecord import RecordFile

_FILES_IN_NOTE = 3


def cut(
    files: Sequence[RecordFile], split_bytes: int, counted: bool
) -> tuple[list[list[RecordFile]], tuple[str, ...]]:
    """The ranges of each file, in order, and notes on files that could not be cut.

    Default keys count the records from the start of the file. Where they are needed (`counted`), each file to be cut is
    walked header by header: 12 bytes and a seek per record on a local disk, nearly the complete file on an object
    store. Otherwise nothing is read, and each range begins at the first header that its worker finds.

    Raises BadInput if a file cannot be read.
    """
    ranges, uncut = [], []
    for file in files:
        if file.size_bytes <= split_bytes:
            ranges.append([file])
        elif _is_compressed(file):
            ranges.append([file])
            uncut.append(public_uri(file.uri))
        else:
            ranges.append(list(_counted(file, split_bytes) if counted else _uncounted(file, split_bytes)))
    examples = ", ".join(uncut[:_FILES_IN_NOTE]) + (", ..." if len(uncut) > _FILES_IN_NOTE else "")
    note = f"--split_bytes: {len(uncut)} compressed files stay one shard each, they cannot be cut: {examples}"
    return ranges, (note,) if uncut else ()


def _is_compressed(file: RecordFile) -> bool:
    with as_bad_input(file.uri), door.open_input(file.uri) as stream:
        return door.is_compressed(stream)


def _uncounted(file: RecordFile, split_bytes: int) -> Iterator[RecordFile]:
    for start in range(0, file.size_bytes, split_bytes):
        yield replace(file, start=start, end=min(start + split_bytes, file.size_bytes), first=None)


def _counted(file: RecordFile, split_bytes: int) -> Iterator[RecordFile]:
    """Ranges that begin with the first record at or after a multiple of `split_bytes`; none is empty."""
    # Buffered, each header would read a block, and so the complete file; on a store, requests per header cost more.
    open_file: Any = door.open_unbuffered if door.is_local(file.uri) else door.open_binary
    with as_bad_input(file.uri), open_file(file.uri) as stream:
        start = first = 0
        border = split_bytes
        for position, offset in enumerate(tfrecord.starts(stream, file.size_bytes)):
            if offset >= border:
                yield replace(file, start=start, end=offset, first=first)
                start, first = offset, position
                border = (offset // split_bytes + 1) * split_bytes
        yield replace(file, start=start, end=file.size_bytes, first=first)
