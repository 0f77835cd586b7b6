"""The distinct vectors of an output in a file: memory holds their norms, and the blocks in use."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Numbers = slice | np.ndarray | Sequence[int]

# Cosines are compared after rounding: their last digits depend on the processor.
DIGITS = 9


@dataclass(frozen=True)
class Block:
    """Some of the vectors."""

    raw: np.ndarray  # float32 (vectors, dimensions), as the model gave them
    norms: np.ndarray  # float64 (vectors,); infinite for a vector without a direction
    unit: np.ndarray  # float32 (vectors, dimensions), divided by their norms

    def cosines(
        self, others: Block, ours: Numbers = slice(None), theirs: Numbers = slice(None)
    ) -> np.ndarray:
        """Cosine similarities of `ours` of these vectors with `theirs` of the others, in float64, rounded: (ours, theirs)."""
        products = self.raw[ours].astype(np.float64) @ others.raw[theirs].astype(np.float64).T
        return rounded(products / self.norms[ours][:, None] / others.norms[theirs][None, :])


class Vectors:
    """Vectors that are appended to an empty file one by one, then read in blocks. One that has no direction becomes zero."""

    def __init__(self, file: Any, dimensions: int):
        self._file, self._dimensions = file, dimensions
        self._norms = array("d")
        self._mapped: np.ndarray | None = None

    @classmethod
    def of(cls, values: np.ndarray) -> Vectors:
        """Vectors that are in memory, float32 (vectors, dimensions)."""
        out, found = cls(None, values.shape[1]), norms(values)
        known = np.isfinite(found) & (found > 0)
        out._mapped = values if known.all() else np.where(known[:, None], values, np.float32(0))
        out._all_norms = np.where(known, found, np.inf)
        out._norms = array("d", out._all_norms.tobytes())
        return out

    def __len__(self) -> int:
        return len(self._norms)

    @property
    def shape(self) -> tuple[int, int]:
        """(vectors, dimensions)."""
        return len(self), self._dimensions

    def append(self, vector: np.ndarray, norm: float) -> int:
        """Adds a float32 vector, whose L2 norm is `norm`; returns its number."""
        if has_direction(norm):
            self._file.write(np.asarray(vector, np.float32).tobytes())
        else:
            self._file.write(bytes(4 * self._dimensions))
        self._norms.append(norm if has_direction(norm) else np.inf)
        return len(self._norms) - 1

    def freeze(self) -> None:
        """Ends the appending; now there are blocks. The file may be closed: it stays mapped, even if it has no name."""
        self._file.flush()
        self._mapped = np.memmap(self._file, np.float32, "r", shape=self.shape)
        self._all_norms = np.array(self._norms)

    def block(self, numbers: Numbers) -> Block:
        """The vectors of these numbers, in memory."""
        assert self._mapped is not None
        raw, norms = np.ascontiguousarray(self._mapped[numbers]), self._all_norms[numbers]
        unit = np.empty_like(raw)
        np.divide(raw, norms[:, None], out=unit, casting="same_kind")  # in float64, rounded once
        return Block(raw, norms, unit)

    def cosines(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Cosine similarities of the pairs left[i], right[i] of vectors, in float64, rounded; 0 without a direction."""
        assert self._mapped is not None
        out = np.empty(len(left))
        step = max(1, (32 << 20) // (8 * self._dimensions))  # 32 MiB for each side
        for at in range(0, len(left), step):
            ours, theirs = left[at : at + step], right[at : at + step]
            a, b = (self._mapped[numbers].astype(np.float64) for numbers in (ours, theirs))
            products = np.einsum("ij,ij->i", a, b)
            out[at : at + step] = rounded(products / self._all_norms[ours] / self._all_norms[theirs])
        return out


def norms(vectors: np.ndarray) -> np.ndarray:
    """L2 norms of float32 (vectors, dimensions), in float64, where no sum of squares overflows."""
    return np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))


def has_direction(norm: float) -> bool:
    """Whether the vector of this norm has a cosine with others: it is neither zero nor has a value that is not finite."""
    return bool(np.isfinite(norm) and norm > 0)


def rounded(cosines: np.ndarray) -> np.ndarray:
    """Cosines as they are compared and written."""
    return np.clip(np.round(cosines, DIGITS), -1, 1)
