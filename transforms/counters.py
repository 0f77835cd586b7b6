"""Counts and times of this process: what its progress is drawn from, and what `transforms.metrics` hands to Beam.

Any thread adds to PROCESS. They are an account of work done, not of results: a bundle that is repeated counts again,
so the receipts and the manifest say what the output holds.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

_FAILURES = "failures-"


@dataclass(frozen=True)
class Counts:
    """Sums, of a process or of a whole run. Each is a metric as well, named as `metrics` says."""

    in_images: int = 0  # inputs read, failed ones included
    out_features: int = 0
    failures_by_code: Mapping[str, int] = field(default_factory=dict)
    shards: int = 0  # committed
    units: int = 0  # of input: bytes of record files, rows of lists; comparable with the plan's total
    models_loaded: int = 0
    pixels: int = 0  # of all decoded images
    scalable_pixels: int = 0  # of these, in JPEGs that `scaled_decoding` would decode smaller
    # Time in which each kind of thread was at work, summed over the threads of that kind.
    read_seconds: float = 0.0
    fetch_seconds: float = 0.0
    queue_seconds: float = 0.0  # of fetch_seconds, waiting for a turn at a host that serves as many as it may
    decode_seconds: float = 0.0
    model_seconds: float = 0.0
    write_seconds: float = 0.0
    commit_seconds: float = 0.0
    # Time in which the threads that call the model waited for the others instead, and what for.
    wait_seconds: float = 0.0
    wait_read_seconds: float = 0.0
    wait_decode_seconds: float = 0.0
    wait_write_seconds: float = 0.0
    wait_commit_seconds: float = 0.0  # of wait_write_seconds

    @property
    def failures(self) -> int:
        return sum(self.failures_by_code.values())

    def metrics(self) -> dict[str, int]:
        """The sums by the names of their metrics, as whole numbers: 'in-images', 'failures-bad_row', 'read-msec'."""
        sums = {f"{_FAILURES}{code}": count for code, count in self.failures_by_code.items()}
        for name, value in vars(self).items():
            if name != "failures_by_code":
                sums[_metric(name)] = int(1000 * value) if name.endswith("_seconds") else value
        return sums


def from_metrics(sums: Mapping[str, int]) -> Counts:
    """The counts that `Counts.metrics` gave; other names are passed over."""
    codes = {name.removeprefix(_FAILURES): n for name, n in sums.items() if name.startswith(_FAILURES)}
    values: dict[str, Any] = {}
    for one in fields(Counts):
        if _metric(one.name) in sums:
            value = sums[_metric(one.name)]
            values[one.name] = value / 1000 if one.name.endswith("_seconds") else value
    return Counts(failures_by_code=codes, **values)


@functools.cache
def _metric(name: str) -> str:
    stem = name.removesuffix("_seconds")
    return (stem if stem == name else f"{stem}_msec").replace("_", "-")


class Tally:
    """Thread-safe running totals of a process."""

    def __init__(self):
        self._lock = threading.Lock()
        self._sums: dict[str, Any] = asdict(Counts())
        self._failures: Counter[str] = Counter()
        self._drained: dict[str, int] = {}
        self.loaded_at = 0.0  # time.monotonic() when the last model was ready
        self.batch_fitted = (
            0  # images per call, where the device's memory did not hold as many as were asked for
        )

    def add(self, **amounts: float) -> None:
        """Adds to the fields of Counts that are named."""
        with self._lock:
            for name, amount in amounts.items():
                self._sums[name] += amount

    def waited(self, stage: str, began: float) -> None:
        """A thread that calls the model waited for a stage since `began`, a time.monotonic()."""
        seconds = time.monotonic() - began
        self.add(**{f"wait_{stage}_seconds": seconds, "wait_seconds": seconds})

    def failed(self, codes: Mapping[str, int]) -> None:
        """Adds failures by code."""
        with self._lock:
            self._failures.update(codes)

    def loaded(self) -> None:
        """A model is ready; rates count from here on."""
        self.loaded_at = time.monotonic()
        self.add(models_loaded=1)

    def counts(self) -> Counts:
        """The totals since the process began."""
        with self._lock:
            return self._counts()

    def drain(self) -> dict[str, int]:
        """By metric, what was added since the last call. Whichever thread asks, each amount is given out once."""
        with self._lock:
            totals = self._counts().metrics()
            new = {name: total - self._drained.get(name, 0) for name, total in totals.items()}
            self._drained = totals
        return {name: amount for name, amount in new.items() if amount}

    def _counts(self) -> Counts:
        return Counts(**{**self._sums, "failures_by_code": dict(self._failures)})


PROCESS = Tally()
