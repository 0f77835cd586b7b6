"""Counts of this process, for the progress line; Beam's own metrics stay the account on remote runners.

Runners that work in the launching process share these counts with it. They are never part of any result.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Counts:
    features: int = 0
    failures: int = 0
    shards: int = 0
    units: int = 0  # of input: bytes of record files, rows of lists; comparable with the plan's total
    images_read: int = 0
    models_loaded: int = 0
    batch_fitted: int = 0  # images a call, where the device's memory did not hold as many as were asked for
    loaded_at: float = 0.0  # time.monotonic() when the last model was ready
    read_seconds: float = 0.0  # the stages' times say which of them holds the job back
    decode_wait_seconds: float = 0.0
    model_seconds: float = 0.0
    write_seconds: float = 0.0
    commit_seconds: float = 0.0  # of write_seconds, waiting for the commit of a shard
    fetch_seconds: float = 0.0  # of all fetching threads together
    queue_seconds: float = 0.0  # of these, for a turn at a host that has as many of ours as it may
    pixels: int = 0  # of all decoded images
    scalable_pixels: int = 0  # of these, in JPEGs that `scaled_decoding` would decode smaller


def between(before: Counts, after: Counts) -> Counts:
    """What was counted from `before` to `after`. A time of day or a size is 0 where it did not change."""
    old = asdict(before)
    kept = ("loaded_at", "batch_fitted")
    return Counts(
        **{n: v - old[n] if n not in kept else v if v != old[n] else 0 for n, v in asdict(after).items()}
    )


class Tally:
    """Thread-safe running totals."""

    def __init__(self):
        self._lock = threading.Lock()
        self._values: dict[str, Any] = asdict(Counts())

    def add(self, **amounts: float) -> None:
        with self._lock:
            for name, amount in amounts.items():
                self._values[name] += amount

    def loaded(self) -> None:
        """A model is ready; rates count from here on."""
        with self._lock:
            self._values["models_loaded"] += 1
            self._values["loaded_at"] = time.monotonic()

    def fitted(self, images: int) -> None:
        """The device's memory holds batches of this size, and no larger ones."""
        with self._lock:
            self._values["batch_fitted"] = images

    def counts(self) -> Counts:
        with self._lock:
            return Counts(**self._values)


PROCESS = Tally()
