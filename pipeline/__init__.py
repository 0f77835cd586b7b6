"""The launcher: flags, plan, graph, progress and report. `python -m pipeline.main --help` says how to use it.

From Python: `from pipeline import read`. What a function needs is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.reading import Features

__all__ = ["read"]


def read(output: str, columns: Sequence[str] | None = None, partial: bool = False) -> Features:
    """The features that a job has written: iterate for Arrow record batches, or call `to_numpy()` or `keys()`.

    Args:
      output: the --output folder of the job, a path or URI.
      columns: names of the columns that iteration yields; None for all that a Parquet export has.
      partial: also of a job that has not finished: the shards that are committed.

    Raises ValueError if there is no such output.
    """
    from pipeline.reading import Features

    return Features(output, columns, partial)
