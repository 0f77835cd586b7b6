"""The feature records of a committed shard, read once, in order, and compared with its receipt."""

from __future__ import annotations

from collections.abc import Iterator

from transforms.commit.files import CheckedBlocks, FileSummary
from transforms.records import tfrecord
from transforms.storage import door


class Damaged(RuntimeError):
    """A feature file is not the one that was committed."""


def records(path: str, file: FileSummary) -> Iterator[bytes | memoryview]:
    """The serialized tf.Examples of a feature file. Views are into blocks of the file, which they keep in memory.

    Raises Damaged, at the latest at the end, if the file does not match its summary. StorageFailed if it cannot be read.
    """
    with door.open_unbuffered(path) as stream:
        checked = CheckedBlocks(stream)
        # The checksum of the whole file says the same as those of the records.
        for record in tfrecord.read(checked, check=False):
            if isinstance(record, tfrecord.Damage):
                raise _damaged(path, f"{record.reason} at offset {record.offset}")
            yield record.data
    if difference := checked.difference(file):
        raise _damaged(path, difference)


def _damaged(path: str, what: str) -> Damaged:
    return Damaged(
        f"{path}: {what}; it was changed or damaged after it was committed: `python -m pipeline.verify` lists all such files"
    )
