"""Do copies to a device hide behind its computing? `python -m benchmarks.overlap`

A stand-in for a GPU takes a fixed time per batch to compute and a fixed time per byte to copy, both without the interpreter's
lock. It is measured as it is, and with TensorFlow's rule that a copy waits for what was launched before it. Chunks pass through
the job's inference and writing steps. The total should be within 5 % of the larger of the two: the copies, or the computing.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks import figures, machine
from bit.command import exit_with
from transforms import counters, infer
from transforms.commit.layout import Layout
from transforms.elements import Decoded, PixelChunk, Shard
from transforms.model.fitting import Fitted
from transforms.sources.tfrecord import RecordFile
from transforms.write import WriteShards

_FEATURES = 6144
_SIDE = 8  # the pixels themselves do not matter: a byte of them stands for many
_CASES = {"as on an H200, bfloat16": (45, 10), "a slow link": (20, 40), "as much of both": (30, 30)}


class StandIn:
    """A `LoadedModel` on a device that sleeps. Seconds per batch."""

    device = "stand-in"

    def __init__(self, batch_size: int, compute_seconds: float, copy_seconds: float, in_order: bool):
        self.batch_size, self.image_size = batch_size, _SIDE
        self.identity: Mapping[str, str] = {"route": "sleeping"}
        self._compute_seconds, self._copy_seconds = compute_seconds, copy_seconds
        self._in_order = in_order
        self._lock = threading.Lock()
        self._free_at = 0.0  # when all that is launched will have been computed
        self._outputs = np.random.RandomState(0).standard_normal((batch_size, _FEATURES)).astype(np.float32)

    def put(self, pixels: np.ndarray) -> np.ndarray:
        """Copies; in order: after what is launched by now."""
        begins = max(time.perf_counter(), self._free_at) if self._in_order else time.perf_counter()
        _sleep_until(begins + self._copy_seconds)
        return pixels

    def launch(self, on_device: np.ndarray) -> float:
        """Returns when the batch will have been computed."""
        with self._lock:
            self._free_at = max(time.perf_counter(), self._free_at) + self._compute_seconds
            return self._free_at

    def fetch(self, launched: float) -> dict[str, np.ndarray]:
        """Waits for the batch; in order: for all that is launched by now."""
        _sleep_until(max(launched, self._free_at) if self._in_order else launched)
        return {"embedding": self._outputs.copy()}

    def back(self, on_device: np.ndarray) -> np.ndarray:
        """The pixels."""
        return on_device

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """One step after the other."""
        return self.fetch(self.launch(self.put(pixels)))

    def resized(self, batch_size: int) -> StandIn:
        """Never called: it has room."""
        raise NotImplementedError


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.perf_counter()))


def chunks(count: int, batch_size: int):
    """Full chunks of one shard."""
    shard = Shard(0, 1, RecordFile("in.tfrecord", 1, 0.0), "in.tfrecord")
    pixels = np.zeros((batch_size, _SIDE, _SIDE, 3), np.float32)
    for index in range(count):
        start = index * batch_size
        items = tuple(Decoded(b"%d" % (start + k), start + k, k, 1, 1, "") for k in range(batch_size))
        yield PixelChunk(shard, start, index == count - 1, items, pixels)


def ahead(model: StandIn, count: int, folder: Path) -> float:
    """Seconds of the job's steps from the first chunk to the commit."""
    handler, step = infer.BitModelHandler(None), WriteShards(Layout(str(folder)), {})  # type: ignore[arg-type]
    loaded = _Loaded(Fitted(model))
    began = time.perf_counter()
    step.start_bundle()
    for chunk in chunks(count, model.batch_size):
        for features in handler.run_inference(chunk, loaded):  # type: ignore[arg-type]
            list(step.process(features))
    list(step.finish_bundle())
    seconds = time.perf_counter() - began
    step.teardown()
    return seconds


class _Loaded:
    def __init__(self, model: Fitted):
        self._model = model

    def ready(self) -> Fitted:
        return self._model


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=128)
    flags = parser.parse_args()
    print(machine.describe())
    print(
        f"{flags.batches} batches of {flags.batch_size}, {_FEATURES} features per image, written to a temporary folder"
    )
    print(
        "| | compute, ms | copy, ms | copies wait | larger | measured | to the larger | one after the other | "
        "device computes |\n|---|---|---|---|---|---|---|---|---|"
    )
    ratios: dict[str, float] = {}
    for name, (compute, copy) in _CASES.items():
        for in_order in (False, True):
            model = StandIn(flags.batch_size, compute / 1000, copy / 1000, in_order)
            larger = flags.batches * max(compute, copy) / 1000
            before = counters.PROCESS.counts()
            with tempfile.TemporaryDirectory() as folder:
                seconds = ahead(model, flags.batches, Path(folder))
            after = counters.PROCESS.counts()
            times = {
                what: getattr(after, what) - getattr(before, what)
                for what in vars(after)
                if what.startswith("device_")
            }
            ratios[f"{name}{', in order' if in_order else ''}"] = seconds / larger
            print(
                f"| {name} | {compute} | {copy} | {'yes' if in_order else 'no'} | {larger:.2f} s | {seconds:.2f} s | "
                f"{seconds / larger:.3f} | {flags.batches * (compute + copy) / 1000:.2f} s | "
                f"{times['device_seconds'] / sum(times.values()):.1%} |",
                flush=True,
            )
    figures.report(**ratios)


if __name__ == "__main__":
    exit_with(main)
