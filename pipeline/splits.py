"""`--split_bytes`: large TFRecord files -> byte ranges, each a shard of its own."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.io.filesystem import BeamIOError, FileMetadata

from pipeline.flags import RequestError
from pipeline.options import JobConfig
from transforms.elements import RecordFile
from transforms.fetching.uris import public_uri
from transforms.records import tfrecord
from transforms.storage import door

_NAMED = 3  # files in a note


def cut(files: Sequence[FileMetadata], config: JobConfig) -> tuple[list[list[RecordFile]], tuple[str, ...]]:
    """The shards of each file, in order, and notes on files that had to be left whole.

    Default keys count the records from the start of the file. So without --key_feature each file to be cut is walked
    through, header by header: on a local disk 12 bytes and a seek a record; on an object store as good as a read of the
    whole file. With --key_feature nothing is read, and each range begins at the first header that its worker finds.
    """
    out, whole = [], []
    for file in files:
        one = RecordFile(file.path, file.size_in_bytes, file.last_updated_in_seconds or 0.0)
        if not config.split_bytes or one.size_bytes <= config.split_bytes:
            out.append([one])
        elif _is_compressed(one):
            out.append([one])
            whole.append(public_uri(one.uri))
        elif config.read.key_feature:
            out.append(list(_blind(one, config.split_bytes)))
        else:
            out.append(list(_counted(one, config.split_bytes)))
    named = ", ".join(whole[:_NAMED]) + (", ..." if len(whole) > _NAMED else "")
    note = f"--split_bytes: {len(whole)} compressed files stay one shard each, they cannot be cut: {named}"
    return out, (note,) if whole else ()


def _is_compressed(file: RecordFile) -> bool:
    try:
        with door.open_input(file.uri) as stream:
            return door.is_compressed(stream)
    except (OSError, BeamIOError, ValueError, EOFError, zlib.error) as error:
        raise RequestError(f"{file.uri} cannot be read: {door.explain(file.uri, error)}") from error


def _blind(file: RecordFile, split_bytes: int) -> Iterator[RecordFile]:
    for start in range(0, file.size_bytes, split_bytes):
        end = min(start + split_bytes, file.size_bytes)
        yield RecordFile(file.uri, file.size_bytes, file.modified, start, end, None)


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
                    yield RecordFile(file.uri, file.size_bytes, file.modified, start, offset, first)
                    start, first = offset, position
                    border = (offset // split_bytes + 1) * split_bytes
            yield RecordFile(file.uri, file.size_bytes, file.modified, start, file.size_bytes, first)
    except (OSError, BeamIOError) as error:
        raise RequestError(f"{file.uri} cannot be read: {door.explain(file.uri, error)}") from error
