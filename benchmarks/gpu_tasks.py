"""The measurements of `benchmarks.gpu_product` that load the model, each run in a process of its own."""

from __future__ import annotations

import hashlib
import json
import mmap
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bit import models
from tests import checkpoints
from transforms.elements import Decoded, FeatureChunk, PixelChunk, Shard
from transforms.infer import BitModelHandler, ModelSettings
from transforms.model import compiled
from transforms.model.fitting import Fitted
from transforms.model.loading import Loading
from transforms.sources.tfrecord import RecordFile

_BUFFERS = 4
_WARM_CALLS = 3


@dataclass(frozen=True)
class Measured:
    """What is measured, and how."""

    model: str
    precision: str
    side: int
    batch_size: int
    seconds: float  # of each rate

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a batch of pixels."""
        return self.batch_size, self.side, self.side, 3


@dataclass(frozen=True)
class Loaded:
    """The handler, its model, and how long the weights and the first batch took."""

    handler: BitModelHandler
    loading: Loading
    model: Fitted
    load_seconds: float
    first_seconds: float  # of which compiling is nearly all; 0 on a CPU, where nothing is compiled ahead


def load(what: Measured) -> Loaded:
    """As a worker loads it."""
    first, plain = 0.0, compiled.compile_first

    def timed(model, kept):
        nonlocal first
        began = time.perf_counter()
        try:
            return plain(model, kept)
        finally:
            first = time.perf_counter() - began

    compiled.compile_first = timed
    began = time.perf_counter()
    try:
        handler = BitModelHandler(
            ModelSettings(models.resolve(what.model), what.side, what.batch_size, what.precision)
        )
        loading = handler.load_model()
        model = loading.ready()
    finally:
        compiled.compile_first = plain
    return Loaded(handler, loading, model, time.perf_counter() - began - first, first)


def page_aligned(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Random float32 pixels in [0, 255], where the feed has them: in whole pages."""
    array = np.frombuffer(mmap.mmap(-1, 4 * int(np.prod(shape))), np.float32).reshape(shape)
    array[:] = np.random.default_rng(seed).uniform(0, 255, shape[1:])
    return array


def rate(step: Callable[[int], object], what: Measured, finish: Callable[[], object] = lambda: None) -> float:
    """Images per second of `step`, which is called with 0, 1, 2 and so on, and of `finish` at the end."""
    for index in range(_WARM_CALLS):
        step(index)
    finish()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < what.seconds or count < _WARM_CALLS:
        step(count)
        count += 1
    finish()
    return count * what.batch_size / (time.perf_counter() - began)


def handler_rate(loaded: Loaded, what: Measured) -> float:
    """The handler as RunInference and WriteShards call it: chunks in; their outputs are resolved on another thread."""
    shard = Shard(0, 1, RecordFile("in.tfrecord", 1, 0.0), "in.tfrecord")
    items = tuple(Decoded(b"%d" % row, row, row, 1, 1, "") for row in range(what.batch_size))
    buffers = [page_aligned(what.shape, seed) for seed in range(_BUFFERS)]
    writing: list[Future[FeatureChunk]] = []

    def finish(left: int = 0) -> None:
        while len(writing) > left:
            writing.pop(0).result()

    with ThreadPoolExecutor(1) as writer:

        def step(index: int) -> None:
            chunk = PixelChunk(shard, 0, False, items, buffers[index % _BUFFERS])
            (features,) = loaded.handler.run_inference(chunk, loaded.loading)
            finish(1 if features.pending else 0)
            writing.append(writer.submit(features.resolved))

        return rate(step, what, finish)


def rates(what: Measured, golden: str) -> None:
    """Prints a row of the table of rates; and the errors, if `golden` names the case that the weights are of."""
    loaded = load(what)
    network = loaded.model._fitting
    on_device = network.put(page_aligned(what.shape, 9))
    unaligned = np.empty(np.prod(what.shape) + 1, np.float32)[1:].reshape(what.shape)
    launched: list = []

    def without_gaps(index: int) -> None:
        launched.append(network.launch(on_device))
        finish(1)

    def finish(left: int = 0) -> None:
        while len(launched) > left:
            network.fetch(launched.pop(0))

    handler = handler_rate(loaded, what)
    alone = rate(lambda index: network.fetch(network.launch(on_device)), what)
    back_to_back = rate(without_gaps, what, finish)
    in_turn = rate(lambda index: network(unaligned), what)
    print(
        f"| {network.device or 'CPU'} | {what.precision} | {handler:.0f} | {alone:.0f} | {handler / alone:.3f} | "
        f"{back_to_back:.0f} | {in_turn:.0f} | {loaded.load_seconds:.1f} s | {loaded.first_seconds:.1f} s |",
        flush=True,
    )
    if golden:
        _parity(loaded.model, what, _case(golden))


def _parity(model: Fitted, what: Measured, case: checkpoints.Case) -> None:
    pixels = np.zeros(what.shape, np.float32)
    pixels[: case.count] = case.pictures()
    got, expected = model(pixels)["embedding"][: case.count], case.expected()["embedding"]
    print(
        f"{case.file}, {what.precision}: off by {checkpoints.worst(got, expected):.2e} of the largest feature, "
        f"{checkpoints.relative_l2(got, expected):.2e} relative L2",
        flush=True,
    )


def _case(file: str) -> checkpoints.Case:
    cases = (checkpoints.R50X1, checkpoints.R50X1_ODD, checkpoints.R101X1, checkpoints.R101X3)
    return next(case for case in cases if case.file == file)


def golden_weights(file: str, folder: Path) -> tuple[str, int]:
    """Writes the weights of a case (R101x3: 1.5 GB), unless they are there; returns their path, and the images' side."""
    case = _case(file)
    path = folder / f"{case.file}.npz"
    if not path.exists():
        (folder / "unfinished").mkdir(exist_ok=True)
        Path(case.checkpoint(folder / "unfinished")).rename(path)
    return str(path), case.side


def digest(what: Measured) -> None:
    """Prints as JSON the digest of a batch's vectors, whether a second call gives the same, and the rate.

    Also in how many places of the batch, which holds one picture, its vector is another than in the first."""
    loaded = load(what)
    network, pixels = loaded.model._fitting, page_aligned(what.shape, 5)
    on_device = network.put(pixels)
    calls = [network(pixels) for _ in range(3)]
    texts = [
        hashlib.sha256(b"".join(value.tobytes() for _, value in sorted(outputs.items()))).hexdigest()
        for outputs in calls
    ]
    vectors = calls[0]["embedding"]
    others = int((vectors != vectors[:1]).any(1).sum())
    speed = rate(lambda index: network.fetch(network.launch(on_device)), what)
    result = {"digest": texts[0], "same": len(set(texts)) == 1, "others": others}
    result |= {"rate": speed, "first": loaded.first_seconds}
    print(json.dumps(result), flush=True)
