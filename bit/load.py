"""Loads a model of the family into memory: pixels in, vectors out.

The weights of an `.npz` are standardized once, here; a SavedModel is called as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import tensorflow as tf

from bit import network, saved_model
from bit.models import ARCHITECTURES, HEADS, Architecture, Model, UnusableModel
from bit.weights import UNTRAINED_VERSION, Untrained, Weights, folded, open_checkpoint

PRECISIONS = ("float32", "tensorfloat32", "bfloat16", "float16")
_device_lock = threading.Lock()

Graph = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


class Extractor:
    """A loaded model with one fixed input shape. Calls from several threads are safe.

    Every picture's vector depends on its own pixels alone.
    """

    def __init__(
        self, graph: Graph, *, batch_size: int, image_size: int, precision: str, identity: Mapping[str, str]
    ) -> None:
        """`graph` takes what __call__ takes and gives what it gives, as tensors."""
        self.batch_size = batch_size
        self.image_size = image_size
        self.precision = precision
        self.identity = MappingProxyType(dict(identity))
        self._shape = (batch_size, image_size, image_size, 3)
        self._graph = graph  # holds a SavedModel's variables: functions refer to them weakly
        # XLA fuses the norms on a GPU; on a CPU it is slower than oneDNN and knows no bfloat16 instructions.
        compiled = True if _gpus() and identity["route"] == "npz" else None
        spec = tf.TensorSpec(self._shape, tf.float32)
        self._function = tf.function(graph, autograph=False, jit_compile=compiled).get_concrete_function(spec)
        given = self._function.structured_outputs
        self.outputs = MappingProxyType({name: int(value.shape[1]) for name, value in given.items()})

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """float32 (batch_size, image_size, image_size, 3) RGB in [0, 255] -> float32 (batch_size, d)s."""
        if pixels.shape != self._shape:
            raise ValueError(f"pixels of shape {pixels.shape}, expected {self._shape}: pad the batch")
        out = self._function(tf.constant(pixels, tf.float32))
        return {name: value.numpy() for name, value in out.items()}


def load(
    model: Model,
    path: str,
    *,
    image_size: int,
    batch_size: int,
    precision: str = "float32",
    outputs: tuple[str, ...] = ("embedding",),
) -> Extractor:
    """Loads `model`, whose weights lie at the local `path` ('' for untrained ones), for one batch shape.

    `outputs` are among 'embedding' and 'logits'. Raises UnusableModel where the model cannot give them, take
    `image_size`, or run in `precision`.
    """
    if precision not in PRECISIONS:
        raise UnusableModel(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    _prepare_device(precision)
    if model.kind == "saved_model":
        graph: Graph
        graph, identity = saved_model.graph(model, path, image_size, precision, outputs)
    else:
        graph, identity = _network_graph(model, path, precision, outputs)
    return Extractor(
        graph, batch_size=batch_size, image_size=image_size, precision=precision, identity=identity
    )


def _gpus() -> list[tf.config.PhysicalDevice]:
    return tf.config.list_physical_devices("GPU")


def _prepare_device(precision: str) -> None:
    with _device_lock:
        for gpu in _gpus():
            # Else TensorFlow takes all of the memory, and a second worker process on the device gets none.
            if not tf.config.experimental.get_memory_growth(gpu):
                tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.experimental.enable_tensor_float_32_execution(precision == "tensorfloat32")
    if precision in ("tensorfloat32", "float16") and not _gpus():
        raise UnusableModel(
            f"--precision={precision} needs a GPU, and there is none: take float32 or bfloat16"
        )


def _network_graph(
    model: Model, path: str, precision: str, outputs: tuple[str, ...]
) -> tuple[Graph, Mapping[str, str]]:
    source, identity = _source(model, path)
    head = "logits" in outputs
    if unknown := set(outputs) - {"embedding", "logits"}:
        raise UnusableModel(f"{model.name} has no output {min(unknown)!r}; it has embedding, logits")
    if head and not source.classes:
        raise UnusableModel(
            f"{model.name} has no head, so no logits: ask for --outputs=embedding, or take another model"
        )
    compute = tf.as_dtype("float32" if precision == "tensorfloat32" else precision)
    weights = {
        name: tf.cast(
            tf.constant(value),
            compute if name.endswith("conv2d/kernel") and "head" not in name else tf.float32,
        )
        for name, value in folded(source, head)
    }
    architecture: Architecture = source.architecture

    def graph(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        embedding = network.embed(pixels / 127.5 - 1.0, weights, architecture, compute)
        out = {"embedding": embedding}
        if head:
            out["logits"] = network.classify(embedding, weights)
        return {name: out[name] for name in outputs}

    return graph, identity


def _source(model: Model, path: str) -> tuple[Weights, Mapping[str, str]]:
    if model.kind == "untrained":
        made = Untrained(ARCHITECTURES[model.architecture], HEADS.get(model.head, 0))
        suffix = f"/{model.head}" if model.head else ""
        return made, {
            "route": "npz",
            "weights": f"{UNTRAINED_VERSION}/{model.architecture}{suffix}",
            "untrained": "true",
        }
    checkpoint = open_checkpoint(path, model.architecture)
    return checkpoint, {"route": "npz", "weights": f"sha256:{checkpoint.sha256()}"}
