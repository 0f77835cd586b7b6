"""How many rows a shard has where no flag says so: a function of rows and batch size, so the same on every machine."""

from __future__ import annotations

import math

_SHARDS = 200  # that a medium input is cut into: a run that is stopped loses half a percent
_MOST = 1024  # images per shard; larger ones hardly lower the cost of commits per image
COUNTED = _SHARDS * _MOST  # rows; more make no difference


def rows_per_shard(rows: int, batch_size: int, at_least: int = 1) -> int:
    """A whole number of batches that gives about 200 shards of at most 1,024 rows, or the batches that hold so many.

    `at_least`: rows that had better stay together, if they are no more than that.
    """
    batches = max(1, math.ceil(rows / (_SHARDS * batch_size)), math.ceil(at_least / batch_size))
    return batch_size * min(batches, math.ceil(_MOST / batch_size))
