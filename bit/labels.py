"""The classes of the official heads by index: synsets and readable names. Sources: bit/data/README.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

_NAMED_HEADS = ("imagenet21k", "ilsvrc2012")


@dataclass(frozen=True)
class Labels:
    """WordNet synset ('n01440764') and names ('tench, Tinca tinca') of each class; UTF-8 bytes, (classes,) each."""

    synsets: np.ndarray
    names: np.ndarray


def read_labels(head: str) -> Labels | None:
    """The classes of a key of bit.models.HEADS; None for heads whose class names are not published."""
    if head not in _NAMED_HEADS:
        return None
    lines = (Path(__file__).parent / "data" / f"{head}.tsv").read_bytes().splitlines()
    synsets, names = zip(*(line.split(b"\t") for line in lines), strict=True)
    return Labels(np.array(synsets), np.array(names))
