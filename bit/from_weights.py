"""Builds the network from arrays by name: standardized once, here, and cast to the requested precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bit import cpu_form, network
from bit.digests import OfArrays
from bit.gpu_form import GPU
from bit.models import NETWORK_RANGE, Architecture
from bit.self_test import picture
from bit.tensorflow import tf
from bit.weights import ALIGNMENT_BYTES, Untrained, Weights, folded


@dataclass(frozen=True)
class Loaded:
    """A network in memory."""

    # float32 pixels (n, side, side, 3) in [0, 255] -> {output: float32 (n, d)}.
    graph: Callable[[tf.Tensor], dict[str, tf.Tensor]]
    classes: int  # outputs of the head; 0 where there is none
    # The outputs in float32 for the self-test's picture, if `exact_at` was set.
    exact: Mapping[str, np.ndarray] | None
    digest: OfArrays | None = (
        None  # of the arrays it was built from; None if a seed or a module's own call is all there is
    )

    def arrays(self, head: bool) -> dict[str, str]:
        """What identifies the weights in receipts, wherever they came from; the head's count only if `head`."""
        return {"arrays": f"sha256:{self.digest.hexdigest(head)}"} if self.digest else {}


def build(source: Weights, precision: str, head: bool, exact_at: int = 0) -> Loaded:
    """Reads `source` once. `exact_at`: meanwhile runs the self-test's picture at this side in float32 on the CPU; 0: does not.

    Memory: the network in `precision` and a few arrays in float32, whatever `exact_at` is.
    """
    compute = tf.as_dtype("float32" if precision == "tensorfloat32" else precision)
    gpu = bool(tf.config.get_visible_devices("GPU"))
    # On a GPU float32 keeps its graph from version to version: outputs in it that are half finished are continued.
    on_gpu = network.PLAIN if compute == tf.float32 else GPU
    form = on_gpu if gpu else cpu_form.form(compute)
    digest = None if isinstance(source, Untrained) else OfArrays()  # the seed's name says it all
    reading = _Reading(folded(source, head, digest), compute, "/GPU:0" if gpu else "/CPU:0", form)
    architecture = source.architecture  # the graph must not hold `source`, which may hold all weights
    vectors = None
    if exact_at:
        with tf.device("/CPU:0"):
            exact = _outputs(tf.constant(picture(exact_at)), reading, architecture, head, compiled=False)
        vectors = {name: value.numpy() for name, value in exact.items()}
    weights = reading.rest()

    def graph(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        # On a GPU XLA gets the complete graph, on a CPU what oneDNN leaves. Compiling for one eager call is not worth it.
        compiled = not (gpu or tf.executing_eagerly())
        return _outputs(pixels, weights, architecture, head, compiled, form)

    return Loaded(graph, source.classes, vectors, digest)


def _outputs(
    pixels: tf.Tensor,
    weights: Mapping[str, tf.Tensor],
    architecture: Architecture,
    head: bool,
    compiled: bool,
    form: network.Form = network.PLAIN,
) -> dict[str, tf.Tensor]:
    embedding = network.embed(network.scaled(pixels, NETWORK_RANGE), weights, architecture, compiled, form)
    return {"embedding": embedding} | ({"logits": network.classify(embedding, weights, form)} if head else {})


def tensor_of(value: np.ndarray) -> tf.Tensor:
    """A float32 tensor on the CPU that shares the memory of `value` if possible: copying takes longer than reading.

    From an address that is not aligned TensorFlow would end the process.
    """
    flags = value.flags
    shared = flags.c_contiguous and flags.writeable and value.dtype == np.float32
    if not shared or value.ctypes.data % ALIGNMENT_BYTES:
        return tf.constant(value, tf.float32)
    return tf.experimental.dlpack.from_dlpack(value.__dlpack__())


class _Reading(Mapping[str, tf.Tensor]):
    """Float32 arrays by name, each read when first used, kept in its final dtype, and released after its unit.

    The network uses arrays in the order in which `folded` yields them, unit by unit.
    """

    def __init__(
        self, arrays: Iterator[tuple[str, np.ndarray]], compute: tf.DType, device: str, form: network.Form
    ):
        self._form = form
        self._arrays = arrays
        self._compute = compute
        self._device = device
        self._kept: dict[str, tf.Tensor] = {}
        self._unit = ""
        self._unit_arrays: dict[str, tf.Tensor] = {}  # float32, of the unit read last

    def __getitem__(self, name: str) -> tf.Tensor:
        while name not in self._unit_arrays:
            read, value = next(self._arrays)
            unit = "/".join(read.split("/")[:2])
            if unit != self._unit:
                self._unit_arrays.clear()
                self._unit = unit
            self._unit_arrays[read] = self._keep(read, value)
        return self._unit_arrays[name]

    def _keep(self, name: str, value: np.ndarray) -> tf.Tensor:
        exact = tensor_of(value)
        with tf.device(self._device):
            here = exact if self._device == "/CPU:0" else tf.identity(exact)
            self._kept[name] = network.prepared(here, name, self._compute, self._form)
        return exact

    def rest(self) -> dict[str, tf.Tensor]:
        """Reads the remaining arrays; returns all of them in their final dtypes."""
        self._unit_arrays.clear()
        for name, value in self._arrays:
            self._keep(name, value)
        return self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)
