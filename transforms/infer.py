"""The bridge between Beam's RunInference and the network: chunks of pixels in, chunks of features out."""

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
from transforms.model import devices
from transforms.model.fitting import Fitted, OutOfMemory
from transforms.model.loaded import LoadedModel
from transforms.storage import copying, door


class ModelFailed(RuntimeError):
    """The model fails whatever the image."""


@dataclass(frozen=True)
class ModelSettings:
    """Which network runs, on what shape of batch, at which precision."""

    model: Model
    image_size: int
    batch_size: int
    precision: str = "float32"
    outputs: tuple[str, ...] = ("embedding",)  # of bit.outputs.OUTPUTS, in that order
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
        from bit import download, load

        settings = self._settings
        model = settings.model
        if model.kind != "untrained" and not door.is_local(model.uri) and not model.uri.startswith("http"):
            # By checksum too: a model that was trained on has the same name and often the same size.
            folder = f"{_folder_name(model.uri)}-{copying.checksum(model.uri)[:16]}"
            path = copying.copy_to_local(model.uri, os.path.join(download.cache_folder(), folder))
            path = download.local_path(replace(model, uri=path))  # unpacks a tarball
        else:
            path = download.local_path(model)
        devices.take_one()  # before anything touches a GPU
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
        began = time.monotonic()
        features = infer(batch, model)
        counters.PROCESS.add(model_seconds=time.monotonic() - began)
        return [features]

    def get_num_bytes(self, batch: PixelChunk) -> int:  # type: ignore[override]
        # The default pickles the batch to see how long that gets.
        return batch.nbytes

    def get_metrics_namespace(self) -> str:
        return metrics.NAMESPACE

    def validate_inference_args(self, inference_args: dict[str, Any] | None) -> None:
        if inference_args:
            raise ValueError(f"BitModelHandler takes no inference_args, got {sorted(inference_args)}")


def _folder_name(uri: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in uri)


def infer(chunk: PixelChunk, model: Fitted) -> FeatureChunk:
    """The chunk's features. Images that make the model fail, or come out not finite, become failures."""
    rows = [item.row for item in chunk.items if isinstance(item, Decoded)]
    if not rows or chunk.pixels is None:
        return FeatureChunk(chunk.shard, chunk.position, chunk.is_last, chunk.items, {}, dict(model.identity))
    outputs, refused = _run(chunk.pixels, rows, model)
    failed = len(refused) == len(rows) and all(code == "model_error" for code, _ in refused.values())
    if failed and (len(rows) > 1 or not _works(model, chunk.pixels)):
        raise ModelFailed(
            f"the model failed on each of the {len(rows)} images from position {chunk.position} of {chunk.shard.name}, "
            f"also on each alone, so the cause is not an image: {refused[rows[0]][1]}"
        )
    items = tuple(
        Failure(item.key, item.position, "infer", *refused[item.row])
        if isinstance(item, Decoded) and item.row in refused
        else item
        for item in chunk.items
    )
    return FeatureChunk(chunk.shard, chunk.position, chunk.is_last, items, outputs, dict(model.identity))


def _works(model: Fitted, pixels: np.ndarray) -> bool:
    """Whether the model runs at all: without this a dead device would end as failures of good images."""
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
    refused: dict[int, tuple] = {}
    for name, values in outputs.items():
        if values.dtype.kind == "f":
            finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
            refused |= {
                row: ("not_finite", f"output {name!r} is not finite") for row in rows if not finite[row]
            }
    return outputs, refused


def _bisect(
    pixels: np.ndarray, rows: list[int], model: Fitted
) -> tuple[dict[str, np.ndarray], dict[int, tuple]]:
    merged: dict[str, np.ndarray] = {}
    refused: dict[int, tuple] = {}
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        alone = np.zeros_like(pixels)
        alone[half] = pixels[half]
        outputs, lost = _run(alone, half, model)
        refused |= lost
        for name, values in outputs.items():
            merged.setdefault(name, np.zeros_like(values))[half] = values[half]
    return merged, refused
