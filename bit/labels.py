"""The classes of a head by index: synsets and readable names. Sources of the official ones: bit/data/README.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bit.outputs import TOP_NAME, TOP_SYNSET

_NAMED_HEADS = ("imagenet21k", "ilsvrc2012")


@dataclass(frozen=True)
class Labels:
    """WordNet synset ('n01440764') and names ('tench, Tinca tinca') of each class; UTF-8 bytes, (classes,) each."""

    synsets: np.ndarray | None  # None: a tuned head has names only
    names: np.ndarray

    def of(self, classes: np.ndarray) -> dict[str, np.ndarray]:
        """The features TOP_SYNSET and TOP_NAME of classes (n, k)."""
        named = {TOP_NAME: self.names[classes]}
        return named if self.synsets is None else {TOP_SYNSET: self.synsets[classes]} | named


def of_names(names: Sequence[str]) -> Labels:
    """The classes of a tuned head."""
    return Labels(None, np.array([name.encode() for name in names]))


def read_labels(head: str) -> Labels | None:
    """The classes of a key of bit.models.HEADS; None for heads whose class names are not published."""
    if head not in _NAMED_HEADS:
        return None
    lines = (Path(__file__).parent / "data" / f"{head}.tsv").read_bytes().splitlines()
    synsets, names = zip(*(line.split(b"\t") for line in lines), strict=True)
    return Labels(np.array(synsets), np.array(names))
