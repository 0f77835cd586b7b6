"""The launcher: flags, plan, graph, progress and report. `python -m pipeline.main --help` says how to use it.

From Python: `from pipeline import extract, read`. What a function needs is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import bit  # noqa: F401  # before TensorFlow, for which it settles how it starts

if TYPE_CHECKING:
    from pipeline.extracting import AnImage, Extracted
    from pipeline.reading import Features

__all__ = ["extract", "read"]


def extract(
    images: Iterable[AnImage], *, model: str = "bit/m-r101x3", output: str = "embedding", **flags: Any
) -> Extracted:
    """The vectors of images, to the bit those that the job writes with the same flags on the same device.

    The model is loaded in the first call and kept for further ones with the same settings. Thread-safe; calls with the
    same settings take turns.

    Args:
      images: paths, URIs, the bytes of image files, PIL images, or uint8 arrays (height, width[, 1, 3 or 4]). They are
        taken as they are needed, so a generator of millions holds memory for their vectors only. The orientation in a PIL
        image's EXIF block is treated as that of its file; TIFFs alone are turned by PIL itself.
      model: as in --model.
      output: 'embedding', or 'logits' of a model with a head.
      **flags: others of the job's flags about the model, decoding and fetching, such as precision="bfloat16",
        batch_size=128, image_size=480 or allow_private_networks="10.0.0.0/8". No other flag is taken.

    Raises:
      ValueError: the value of a flag is wrong, or the model is unknown or cannot do this.
      TypeError: an image is of no known type, or a flag is none of these. What cannot be read or decoded raises nothing: it
        is among the failures.
      RuntimeError: this process was forked from one that has called `extract`: start processes with "spawn".
    """
    from pipeline import extracting

    return extracting.extract(images, model, output, **flags)


def read(
    output: str | Sequence[str], columns: Sequence[str] | None = None, partial: bool = False
) -> Features:
    """The features that a job has written: iterate for Arrow record batches, or call `to_numpy()` or `keys()`.

    Args:
      output: the --output folder of the job, a path or URI; or several, in a list or by a glob such as "features/*", which
        have the same model and columns.
      columns: names of the columns that iteration yields; None for all that a Parquet export has.
      partial: also of a job that has not finished: the shards that are committed.

    Raises ValueError if there is no such output, KeyError if it has no such column.
    """
    from pipeline.reading import Features

    return Features(output, columns, partial)
