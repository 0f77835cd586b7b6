"""The network built from arrays by name: standardized once, here, and cast to the precision asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from bit import network
from bit.models import NETWORK_RANGE, Architecture
from bit.self_test import picture
from bit.weights import ALIGNMENT_BYTES, Weights, folded


@dataclass(frozen=True)
class Loaded:
    """A network in memory."""

    # float32 pixels (n, side, side, 3) in [0, 255] -> {output: float32 (n, d)}.
    graph: Callable[[tf.Tensor], dict[str, tf.Tensor]]
    classes: int  # outputs of the head; 0 where there is none
    # What float32 gives for the self-test's picture, where that was asked for.
    exact: Mapping[str, np.ndarray] | None


def build(source: Weights, precision: str, head: bool, exact_at: int = 0) -> Loaded:
    """Reads `source` once. Meanwhile float32 on the CPU sees the self-test's picture at that side; 0 spares it.

    Memory: the network in `precision` and a few arrays in float32, with `exact_at` or without.
    """
    compute = tf.as_dtype("float32" if precision == "tensorfloat32" else precision)
    gpu = bool(tf.config.get_visible_devices("GPU"))
    reading = _Reading(folded(source, head), compute, "/GPU:0" if gpu else "/CPU:0")
    architecture = source.architecture  # the graph must not hold `source`, which may hold all weights
    vectors = None
    if exact_at:
        with tf.device("/CPU:0"):
            found = _outputs(tf.constant(picture(exact_at)), reading, architecture, head, compiled=False)
        vectors = {name: value.numpy() for name, value in found.items()}
    weights = reading.rest()

    def graph(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        # XLA gets the whole graph on a GPU, and what oneDNN leaves on a CPU; compiling for one call is a waste.
        return _outputs(pixels, weights, architecture, head, compiled=not (gpu or tf.executing_eagerly()))

    return Loaded(graph, source.classes, vectors)


def _outputs(
    pixels: tf.Tensor,
    weights: Mapping[str, tf.Tensor],
    architecture: Architecture,
    head: bool,
    compiled: bool,
) -> dict[str, tf.Tensor]:
    embedding = network.embed(network.scaled(pixels, NETWORK_RANGE), weights, architecture, compiled)
    return {"embedding": embedding} | ({"logits": network.classify(embedding, weights)} if head else {})


def _tensor(value: np.ndarray) -> tf.Tensor:
    """On the CPU; shares the memory of `value` where it can: a copy of all weights would take longer than reading."""
    if value.ctypes.data % ALIGNMENT_BYTES or not value.flags.writeable:
        return tf.constant(value)
    return tf.experimental.dlpack.from_dlpack(value.__dlpack__())


class _Reading(Mapping[str, tf.Tensor]):
    """Float32 arrays by name, each read when it is first asked for, kept in its final dtype, and then let go.

    The network asks for arrays in the order in which `folded` yields them, unit by unit.
    """

    def __init__(self, arrays: Iterator[tuple[str, np.ndarray]], compute: tf.DType, device: str):
        self._arrays = arrays
        self._compute = compute
        self._device = device
        self._kept: dict[str, tf.Tensor] = {}
        self._unit = ""
        self._at_hand: dict[str, tf.Tensor] = {}  # of the unit read last

    def __getitem__(self, name: str) -> tf.Tensor:
        while name not in self._at_hand:
            read, value = next(self._arrays)
            unit = "/".join(read.split("/")[:2])
            if unit != self._unit:
                self._at_hand.clear()
                self._unit = unit
            self._at_hand[read] = self._keep(read, value)
        return self._at_hand[name]

    def _keep(self, name: str, value: np.ndarray) -> tf.Tensor:
        exact = _tensor(value)
        with tf.device(self._device):
            here = exact if self._device == "/CPU:0" else tf.identity(exact)
            self._kept[name] = tf.cast(here, network.dtype_of(name, self._compute))
        return exact

    def rest(self) -> dict[str, tf.Tensor]:
        """Reads what is left; all arrays in their final dtypes."""
        self._at_hand.clear()
        for name, value in self._arrays:
            self._keep(name, value)
        return self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)
