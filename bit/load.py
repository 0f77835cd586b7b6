"""Loads a model of the family into memory: pixels in, vectors out; and tests it once, on a bundled picture."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import numpy as np
import tensorflow as tf

from bit import digests, network, saved_model, self_test
from bit import outputs as output_names
from bit.checkpoint import open_checkpoint
from bit.from_weights import Loaded, build
from bit.labels import Labels, read_labels
from bit.models import ARCHITECTURES, HEADS, PRECISIONS, Model, UnusableModel
from bit.outputs import TOP_CLASS, TOP_NAME, TOP_PROBABILITY, TOP_SYNSET
from bit.weights import UNTRAINED_VERSION, Untrained

log = logging.getLogger(__name__)
_device_lock = threading.Lock()

Graph = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


class Extractor:
    """A loaded model with one fixed input shape. Calls from several threads are safe.

    Every picture's vector depends on its own pixels alone.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        batch_size: int,
        image_size: int,
        precision: str,
        identity: Mapping[str, str],
        labels: Labels | None = None,
    ) -> None:
        """`graph` takes what __call__ takes and gives what it gives, as tensors; `labels` name its top_k classes."""
        self.batch_size = batch_size
        self.image_size = image_size
        self.precision = precision
        self.identity = MappingProxyType(dict(identity))
        self._shape = (batch_size, image_size, image_size, 3)
        self._graph = graph  # holds a SavedModel's variables: functions refer to them weakly
        # XLA fuses the norms on a GPU; on a CPU it is slower than oneDNN and knows no bfloat16 instructions.
        compiled = True if _gpus() and identity["route"] != "saved_model" else None
        spec = tf.TensorSpec(self._shape, tf.float32)
        self._function = tf.function(graph, autograph=False, jit_compile=compiled).get_concrete_function(spec)
        given = self._function.structured_outputs
        self._labels = labels if TOP_CLASS in given else None
        widths = {name: int(value.shape[1]) for name, value in given.items()}
        if self._labels:
            widths |= dict.fromkeys((TOP_SYNSET, TOP_NAME), widths[TOP_CLASS])
        self.outputs = MappingProxyType(widths)

    def resized(self, batch_size: int) -> Extractor:
        """The same network, its weights shared, for batches of another size."""
        return Extractor(
            self._graph,
            batch_size=batch_size,
            image_size=self.image_size,
            precision=self.precision,
            identity=self.identity,
            labels=self._labels,
        )

    def __call__(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """float32 (batch_size, image_size, image_size, 3) RGB in [0, 255] -> (batch_size, d) each.

        Float32; of the features of top_k, classes are int64, synsets and names bytes.
        """
        if pixels.shape != self._shape:
            raise ValueError(f"pixels of shape {pixels.shape}, expected {self._shape}: pad the batch")
        out = {name: value.numpy() for name, value in self._function(tf.constant(pixels, tf.float32)).items()}
        if TOP_CLASS in out:
            out[TOP_CLASS] = out[TOP_CLASS].astype(np.int64)
        if self._labels:
            out[TOP_SYNSET] = self._labels.synsets[out[TOP_CLASS]]
            out[TOP_NAME] = self._labels.names[out[TOP_CLASS]]
        return out


def load(
    model: Model,
    path: str,
    *,
    image_size: int,
    batch_size: int,
    precision: str = "float32",
    outputs: tuple[str, ...] = ("embedding",),
    top_k: int = 5,
) -> Extractor:
    """Loads `model`, whose weights lie at the local `path` ('' for untrained ones), for one batch shape.

    `outputs` are among bit.outputs.OUTPUTS, `top_k` classes for the last of them. Raises UnusableModel where the
    model cannot give them, take `image_size`, or run in `precision`; SelfTestFailed where it computes wrongly.
    """
    outputs = output_names.in_order(outputs)
    output_names.check(model, outputs, top_k, output_names.classes(model))
    if precision not in PRECISIONS:
        raise UnusableModel(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    _prepare_device(precision)
    wanted = {"logits" if name == "top_k" else name for name in outputs}
    if model.kind == "saved_model":
        loaded, identity = saved_model.load(model, path, image_size, precision, wanted)
        output_names.check(model, outputs, top_k, loaded.classes or None)
    else:
        loaded, identity = _from_arrays(model, path, image_size, precision, outputs, top_k)
    identity = {**identity, **_self_test(loaded, identity["weights"], path, image_size, precision)}
    task = output_names.task(model, loaded.classes)

    def graph(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        given = loaded.graph(pixels)
        out = {name: given[name] for name in outputs if name in given}
        if "top_k" in outputs:
            best, probabilities = network.most_likely(given["logits"], top_k, task == "imagenet21k")
            out |= {TOP_CLASS: best, TOP_PROBABILITY: probabilities}
        return out

    return Extractor(
        graph,
        batch_size=batch_size,
        image_size=image_size,
        precision=precision,
        identity=identity,
        labels=read_labels(task) if "top_k" in outputs else None,
    )


def _from_arrays(
    model: Model, path: str, image_size: int, precision: str, outputs: tuple[str, ...], top_k: int
) -> tuple[Loaded, dict[str, str]]:
    exact_at = image_size if precision != "float32" or _gpus() else 0
    head = outputs != ("embedding",)
    if model.kind == "untrained":
        made = Untrained(ARCHITECTURES[model.architecture], HEADS.get(model.head, 0))
        name = f"{UNTRAINED_VERSION}/{model.architecture}{f'/{model.head}' if model.head else ''}"
        loaded = build(made, precision, head, exact_at)
        return loaded, {"route": "npz", "weights": name, "untrained": "true"}
    checkpoint = open_checkpoint(path, model.architecture)
    output_names.check(model, outputs, top_k, checkpoint.classes)
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(digests.of_file, path)
        loaded = build(checkpoint, precision, head, exact_at)
        return loaded, {"route": "npz", "weights": f"sha256:{digest.result()}"}


def _self_test(loaded: Loaded, weights: str, path: str, side: int, precision: str) -> dict[str, str]:
    """Runs the picture through the network; the error of a reduced precision against float32, for the manifest."""
    picture = tf.constant(self_test.picture(side))
    got = {name: value.numpy() for name, value in loaded.graph(picture).items()}
    exact = got if loaded.exact is None else loaded.exact
    if not all(np.isfinite(values).all() for values in exact.values()):
        raise UnusableModel(
            f"{path or weights} gives values that are not finite for the bundled picture: its weights are damaged, or "
            "of another kind"
        )
    known = self_test.recall(weights, side, path)
    if known and exact.keys() & known.outputs.keys():
        self_test.compare(exact, known.outputs, known.precision, f"what {known.path} holds")
    if not known or exact.keys() - known.outputs.keys():
        self_test.remember(weights, exact, side)
    if precision == "float32":
        if exact is not got:
            self_test.compare(got, exact, precision, "what float32 gives on the CPU")
        return {}
    off = self_test.compare(got, exact, precision, "what float32 gives")
    # Two digits: the last bits of float32 must not show in the manifest.
    error = {"relative_l2": f"{off.relative_l2:.1e}", "cosine": f"{off.cosine:.4f}"}
    return {f"self_test/{name}": value for name, value in error.items()}


def _gpus() -> list[tf.config.PhysicalDevice]:
    """Those that this process works on: it may see others that were left to other processes."""
    return tf.config.get_visible_devices("GPU")


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
    if precision == "float32" and _gpus():
        _tell_of_reduced_precisions()


@functools.cache
def _tell_of_reduced_precisions() -> None:
    """Says it once a process."""
    log.warning(
        "float32 on a GPU leaves most of it idle: its matrix units have several times the rate in --precision=bfloat16, "
        "float16 or tensorfloat32. What they cost in exactness: docs/models.md"
    )
