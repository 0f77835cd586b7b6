"""Counts and times of this process, for its progress line and for `transforms.metrics` to hand to Beam.

Any thread may add to PROCESS. The counts measure work, not results: a repeated bundle counts again. What the output
holds is in the receipts and the manifest.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

_FAILURES = "failures-"


@dataclass(frozen=True)
class Counts:
    """Sums over a process or a complete run. Each is also a Beam metric, named as in `metrics`."""

    in_images: int = 0  # inputs read, failed ones included
    out_features: int = 0
    failures_by_code: Mapping[str, int] = field(default_factory=dict)
    shards: int = 0  # committed
    units: int = 0  # of input: bytes of record files, rows of lists; same unit as the plan's total
    models_loaded: int = 0
    overflowed: int = 0  # images computed again in float32, as they exceed a reduced precision's range
    pixels: int = 0  # of all decoded images
    scalable_pixels: int = 0  # of these, in JPEGs that `scaled_decoding` would decode at reduced size
    # Busy time of each kind of thread, summed over the threads of that kind.
    read_seconds: float = 0.0
    fetch_seconds: float = 0.0
    queue_seconds: float = 0.0  # of fetch_seconds, waiting for a host with `per_host` requests in progress
    decode_seconds: float = 0.0
    model_seconds: float = 0.0
    write_seconds: float = 0.0
    commit_seconds: float = 0.0
    # What a device with memory of its own did between its first batch and its last; all 0 on a CPU.
    device_seconds: float = 0.0  # computing
    device_copy_seconds: float = 0.0  # waiting for a copy to it
    device_host_seconds: float = 0.0  # waiting for the host to launch what had been copied
    device_input_seconds: float = 0.0  # waiting for the next batch
    # Time in which the threads that call the model waited for other threads, by what they waited for.
    wait_seconds: float = 0.0
    wait_read_seconds: float = 0.0
    wait_decode_seconds: float = 0.0
    wait_write_seconds: float = 0.0
    wait_commit_seconds: float = 0.0  # of wait_write_seconds

    @property
    def failures(self) -> int:
        """All failures, whatever their code."""
        return sum(self.failures_by_code.values())

    def metrics(self) -> dict[str, int]:
        """The sums as integers by metric name: 'in-images', 'failures-bad_row', 'read-msec'."""
        sums = {f"{_FAILURES}{code}": count for code, count in self.failures_by_code.items()}
        for name, value in vars(self).items():
            if name != "failures_by_code":
                sums[_metric(name)] = int(1000 * value) if name.endswith("_seconds") else value
        return sums


def from_metrics(sums: Mapping[str, int]) -> Counts:
    """The inverse of `Counts.metrics`; unknown names are ignored."""
    codes = {name.removeprefix(_FAILURES): n for name, n in sums.items() if name.startswith(_FAILURES)}
    values: dict[str, Any] = {}
    for field_ in fields(Counts):
        if _metric(field_.name) in sums:
            value = sums[_metric(field_.name)]
            values[field_.name] = value / 1000 if field_.name.endswith("_seconds") else value
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
        self.doing = "starting"  # what the process does before its first batch is done
        self.first: tuple[float, int] | None = None  # when that was, a time.monotonic(), and its inputs
        self.batch_fitted = 0  # images per call, where the device's memory does not hold --batch_size
        self.runs_ended = 0  # in this process, if it launches runs

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """A context after which steps that still work for the run that it is about stop: see ReadShards."""
        try:
            yield
        finally:
            self.runs_ended += 1

    def add(self, **amounts: float) -> None:
        """Adds each amount to the field of Counts with that name."""
        with self._lock:
            for name, amount in amounts.items():
                self._sums[name] += amount

    def waited(self, stage: str, began: float) -> None:
        """Records that a thread that calls the model waited for `stage` since `began`, a time.monotonic()."""
        seconds = time.monotonic() - began
        self.add(**{f"wait_{stage}_seconds": seconds, "wait_seconds": seconds})

    def failed(self, codes: Mapping[str, int]) -> None:
        """Adds failures by code."""
        with self._lock:
            self._failures.update(codes)

    def does(self, what: str) -> None:
        """Says what happens before the first batch, such as 'loading the model'; a model's first batch is yet to come."""
        self.doing, self.first = what, None

    def loaded(self) -> None:
        """Records that a model is ready."""
        self.does("waiting for the first batch")
        self.add(models_loaded=1)

    def batch_done(self, inputs: int) -> None:
        """Records that a batch is done; rates count from the first one on."""
        with self._lock:
            self.first = self.first or (time.monotonic(), inputs)

    def counts(self) -> Counts:
        """The totals since the process began."""
        with self._lock:
            return self._counts()

    def drain(self) -> dict[str, int]:
        """What was added since the last call, by metric name. Each amount is returned once, whichever thread calls."""
        with self._lock:
            totals = self._counts().metrics()
            new = {name: total - self._drained.get(name, 0) for name, total in totals.items()}
            self._drained = totals
        return {name: amount for name, amount in new.items() if amount}

    def _counts(self) -> Counts:
        return Counts(**{**self._sums, "failures_by_code": dict(self._failures)})


PROCESS = Tally()
