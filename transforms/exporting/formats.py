"""All export formats. A new one is one module and one line here."""

from __future__ import annotations

from transforms.exporting import npy, parquet, tensorboard
from transforms.exporting.base import Format

FORMATS: tuple[Format, ...] = (parquet.FORMAT, npy.FORMAT, tensorboard.FORMAT)


def of(name: str) -> Format:
    """The format of this name."""
    return next(format for format in FORMATS if format.name == name)
