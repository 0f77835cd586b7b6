"""The bridge between Beam's RunInference and the network: pixel chunks in, feature chunks out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

import transforms.coders  # noqa: F401  # registers the coder of the chunks
from bit.models import Model
from transforms import counters, metrics
from transforms.elements import Decoded, Failure, FeatureChunk, PixelChunk
from transforms.model import compiled, devices, gpu_check, overflow
from transforms.model.feed import Batch
from transforms.model.fitting import Fitted, ModelFailed, OutOfMemory
from transforms.model.loaded import LoadedModel, Outputs
from transforms.model.loading import Loading
from transforms.storage import copying, door
from transforms.storage.door import StoreSettings


@dataclass(frozen=True)
class ModelSettings:
    """Which network runs, with which batch shape, precision and outputs."""

    model: Model
    image_size: int
    batch_size: int
    precision: str = "float32"
    outputs: tuple[str, ...] = ("embedding",)  # from bit.outputs.OUTPUTS, in that order
    top_k: int = 5
    outputs_map: tuple[tuple[str, str], ...] = ()  # (ours, the SavedModel's) names of outputs
    class_names: tuple[str, ...] = ()  # of a tuned head, as far as the launcher knows them
    offline: bool = False  # whether the model must be on this machine already

    @property
    def uses_head(self) -> bool:
        """Whether any output needs the head."""
        return self.outputs != ("embedding",)


class BitModelHandler(ModelHandler[PixelChunk, FeatureChunk, Any]):
    """Runs a BiT network on chunks; use it as `RunInference(handler.with_no_batching())`.

    Beam's own TensorFlow handlers load through Keras, which refuses TF-Hub SavedModels under Keras 3
    (apache/beam#30288), and batch elements across shards.
    """

    def __init__(
        self,
        settings: ModelSettings,
        stores: StoreSettings = StoreSettings(),  # noqa: B008  # frozen
    ):
        super().__init__()
        self._settings = settings
        self._stores = stores

    def load_model(self) -> Loading:
        """Starts to download the model if needed, claim a GPU and load the weights. Called once per process.

        What fails is raised where the model is first needed.
        """
        compiled.set_environment()
        return Loading(self._load)

    def _load(self) -> Fitted:
        counters.PROCESS.does("loading the model")
        door.adopt(self._stores)
        from bit import download, load

        settings = self._settings
        model = settings.model
        if model.kind != "untrained" and not door.is_local(model.uri) and not model.uri.startswith("http"):
            if settings.offline:
                raise download.WeightsUnreachable(download.not_local(model))
            # The checksum is part of the name: a model after further training has the same file names and often sizes.
            folder = f"{_folder_name(model.uri)}-{copying.checksum(model.uri)[:16]}"
            path = copying.copy_to_local(model.uri, os.path.join(download.cache_folder(), folder))
            path = download.local_path(replace(model, uri=path))  # unpacks a tarball
        else:
            path = download.local_path(model, head=settings.uses_head, offline=settings.offline)
        devices.take_one()  # before TensorFlow touches a GPU
        gpu_check.check()
        kept = compiled.keep(os.path.join(download.cache_folder(), "compiled"))
        loaded: LoadedModel = load.load(
            model,
            path,
            image_size=settings.image_size,
            batch_size=settings.batch_size,
            precision=settings.precision,
            outputs=settings.outputs,
            top_k=settings.top_k,
            outputs_map=dict(settings.outputs_map),
            class_names=settings.class_names,
        )
        fitted = compiled.compile_first(loaded, kept) if loaded.device else Fitted(loaded)
        counters.PROCESS.loaded()
        return fitted

    def run_inference(  # type: ignore[override]  # a chunk is a batch already
        self, batch: PixelChunk, model: Loading, inference_args: dict[str, Any] | None = None
    ) -> Sequence[FeatureChunk]:
        """The chunk's features, as a sequence of one; pending where a device computes while it gets the next chunk."""
        loaded = model.ready()
        began = time.monotonic()
        features = start(batch, loaded)
        counters.PROCESS.add(model_seconds=time.monotonic() - began)
        return [features]

    def get_num_bytes(self, batch: PixelChunk) -> int:  # type: ignore[override]
        """Bytes of the pixels: Beam's default would pickle the batch to measure it."""
        return batch.nbytes

    def get_metrics_namespace(self) -> str:
        """The namespace of Beam's own inference metrics."""
        return metrics.NAMESPACE

    def validate_inference_args(self, inference_args: dict[str, Any] | None) -> None:
        """Refuses all of them with ValueError."""
        if inference_args:
            raise ValueError(f"BitModelHandler takes no inference_args, got {sorted(inference_args)}")


def _folder_name(uri: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in uri)


@dataclass(frozen=True)
class _OnDevice:
    """The pending outputs of a chunk, which carries no pixels: the batch has them."""

    chunk: PixelChunk
    batch: Batch
    model: Fitted

    def wait(self) -> None:
        """See `Pending.wait`."""
        self.batch.wait()

    def resolved(self) -> FeatureChunk:
        """See `Pending.resolved`. Raises ModelFailed if the model fails for every image."""
        try:
            return _features(self.chunk, lambda: self.model.finish(self.batch), self.batch.pixels, self.model)
        finally:
            self.batch.release()


def start(chunk: PixelChunk, model: Fitted) -> FeatureChunk:
    """The chunk's features: pending on a device with memory of its own, else those of `infer`."""
    if chunk.pixels is None or not (batch := model.give(chunk.pixels)):
        return infer(chunk, model)
    pending = _OnDevice(replace(chunk, pixels=None), batch, model)
    return FeatureChunk(
        chunk.shard, chunk.position, chunk.is_last, chunk.items, {}, dict(model.identity), pending
    )


def infer(chunk: PixelChunk, model: Fitted) -> FeatureChunk:
    """The chunk's features. Images for which the model fails or gives values that are not finite become failures.

    Raises ModelFailed if the model fails for every image."""
    pixels = chunk.pixels
    if pixels is None:
        return FeatureChunk(chunk.shard, chunk.position, chunk.is_last, chunk.items, {}, dict(model.identity))
    return _features(chunk, lambda: model(pixels), lambda: pixels, model)


def _features(
    chunk: PixelChunk, call: Callable[[], Outputs], pixels: Callable[[], np.ndarray], model: Fitted
) -> FeatureChunk:
    """The features that `call` returns; if it fails for some of the images, they are found in `pixels`."""
    rows = [item.row for item in chunk.items if isinstance(item, Decoded)]
    outputs, refused = _run(call, pixels, rows, model)
    failed = len(refused) == len(rows) and all(code == "model_error" for code, _ in refused.values())
    if failed and (len(rows) > 1 or not _works(model, pixels())):
        raise ModelFailed(
            f"the model failed on each of the {len(rows)} images from position {chunk.position} of {chunk.shard.name}, "
            f"also when run on each alone, so the cause is not an image: {refused[rows[0]][1]}"
        )
    items = chunk.items
    if refused:
        items = tuple(
            Failure(item.key, item.position, "infer", *refused[item.row]).of_image(item.address)
            if isinstance(item, Decoded) and item.row in refused
            else item
            for item in items
        )
    return FeatureChunk(chunk.shard, chunk.position, chunk.is_last, items, outputs, dict(model.identity))


def _works(model: Fitted, pixels: np.ndarray) -> bool:
    """Whether the model runs at all: otherwise a dead device would turn good images into failures."""
    try:
        model(np.zeros_like(pixels))
    except Exception:
        return False
    return True


def _run(
    call: Callable[[], Outputs], pixels: Callable[[], np.ndarray], rows: list[int], model: Fitted
) -> tuple[Outputs, dict[int, tuple]]:
    """Outputs that `call` returns, and (code, message) for each row without one; a failing batch is bisected."""
    try:
        outputs = call()
    except OutOfMemory:
        raise
    except Exception as error:
        if len(rows) == 1:
            return {}, {rows[0]: ("model_error", f"{type(error).__name__}: {error}"[:500])}
        return _bisect(pixels(), rows, model)
    return overflow.checked(outputs, pixels, rows, model)


def _run_on(pixels: np.ndarray, rows: list[int], model: Fitted) -> tuple[Outputs, dict[int, tuple]]:
    return _run(lambda: model(pixels), lambda: pixels, rows, model)


def _bisect(pixels: np.ndarray, rows: list[int], model: Fitted) -> tuple[Outputs, dict[int, tuple]]:
    merged: Outputs = {}
    refused: dict[int, tuple] = {}
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        alone = np.zeros_like(pixels)
        alone[half] = pixels[half]
        outputs, refused_in_half = _run_on(alone, half, model)
        refused |= refused_in_half
        for name, values in outputs.items():
            merged.setdefault(name, np.zeros_like(values))[half] = values[half]
    return merged, refused
