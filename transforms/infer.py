"""The bridge between Beam's RunInference and the network: pixel chunks in, feature chunks out."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from apache_beam.ml.inference.base import ModelHandler

import transforms.coders  # noqa: F401  # registers the coder of the chunks
from bit.models import Model
from transforms import counters, metrics
from transforms.elements import Decoded, Failure, FeatureChunk, PixelChunk
from transforms.model import devices, gpu_check, overflow
from transforms.model.fitting import Fitted, OutOfMemory
from transforms.model.loaded import LoadedModel
from transforms.storage import copying, door


class ModelFailed(RuntimeError):
    """The model fails for every image, so no image is the cause."""


@dataclass(frozen=True)
class ModelSettings:
    """Which network runs, with which batch shape, precision and outputs."""

    model: Model
    image_size: int
    batch_size: int
    precision: str = "float32"
    outputs: tuple[str, ...] = ("embedding",)  # from bit.outputs.OUTPUTS, in that order
    top_k: int = 5


class BitModelHandler(ModelHandler[PixelChunk, FeatureChunk, Any]):
    """Runs a BiT network on chunks; use it as `RunInference(handler.with_no_batching())`.

    Beam's own TensorFlow handlers load through Keras, which refuses TF-Hub SavedModels under Keras 3
    (apache/beam#30288), and batch elements across shards.
    """

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self._settings = settings

    def load_model(self) -> Fitted:
        """Downloads the model if needed, claims a GPU and loads the weights. Called once per process."""
        from bit import download, load

        settings = self._settings
        model = settings.model
        if model.kind != "untrained" and not door.is_local(model.uri) and not model.uri.startswith("http"):
            # The checksum is part of the name: a model after further training has the same file names and often sizes.
            folder = f"{_folder_name(model.uri)}-{copying.checksum(model.uri)[:16]}"
            path = copying.copy_to_local(model.uri, os.path.join(download.cache_folder(), folder))
            path = download.local_path(replace(model, uri=path))  # unpacks a tarball
        else:
            path = download.local_path(model)
        devices.take_one()  # before TensorFlow touches a GPU
        gpu_check.check()
        loaded: LoadedModel = load.load(
            model,
            path,
            image_size=settings.image_size,
            batch_size=settings.batch_size,
            precision=settings.precision,
            outputs=settings.outputs,
            top_k=settings.top_k,
        )
        counters.PROCESS.loaded()
        return Fitted(loaded)

    def run_inference(  # type: ignore[override]  # a chunk is a batch already
        self, batch: PixelChunk, model: Fitted, inference_args: dict[str, Any] | None = None
    ) -> Sequence[FeatureChunk]:
        """The chunk's features, as a sequence of one."""
        began = time.monotonic()
        features = infer(batch, model)
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


def infer(chunk: PixelChunk, model: Fitted) -> FeatureChunk:
    """The chunk's features. Images for which the model fails or gives values that are not finite become failures.

    Raises ModelFailed if the model fails for every image."""
    rows = [item.row for item in chunk.items if isinstance(item, Decoded)]
    if not rows or chunk.pixels is None:
        return FeatureChunk(chunk.shard, chunk.position, chunk.is_last, chunk.items, {}, dict(model.identity))
    outputs, refused = _run(chunk.pixels, rows, model)
    failed = len(refused) == len(rows) and all(code == "model_error" for code, _ in refused.values())
    if failed and (len(rows) > 1 or not _works(model, chunk.pixels)):
        raise ModelFailed(
            f"the model failed on each of the {len(rows)} images from position {chunk.position} of {chunk.shard.name}, "
            f"also when run on each alone, so the cause is not an image: {refused[rows[0]][1]}"
        )
    items = tuple(
        Failure(item.key, item.position, "infer", *refused[item.row])
        if isinstance(item, Decoded) and item.row in refused
        else item
        for item in chunk.items
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
    pixels: np.ndarray, rows: list[int], model: Fitted
) -> tuple[dict[str, np.ndarray], dict[int, tuple]]:
    """Outputs for the batch, and (code, message) for each row without one; a failing batch is bisected."""
    try:
        outputs = model(pixels)
    except OutOfMemory:
        raise
    except Exception as error:
        if len(rows) == 1:
            return {}, {rows[0]: ("model_error", f"{type(error).__name__}: {error}"[:500])}
        return _bisect(pixels, rows, model)
    return overflow.checked(outputs, pixels, rows, model)


def _bisect(
    pixels: np.ndarray, rows: list[int], model: Fitted
) -> tuple[dict[str, np.ndarray], dict[int, tuple]]:
    merged: dict[str, np.ndarray] = {}
    refused: dict[int, tuple] = {}
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        alone = np.zeros_like(pixels)
        alone[half] = pixels[half]
        outputs, refused_in_half = _run(alone, half, model)
        refused |= refused_in_half
        for name, values in outputs.items():
            merged.setdefault(name, np.zeros_like(values))[half] = values[half]
    return merged, refused
