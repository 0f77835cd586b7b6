"""One step of fine-tuning: the network with weight standardization inside the gradient, cross-entropy, SGD with momentum.

Source: google-research/big_transfer @140de6e, `bit_pytorch/train.py`. `bit.hyperrule` says at which rate and how long.
Master weights, momentum and accumulated gradients are float32 whatever the precision of the convolutions.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bit import group_norm_gradient, network
from bit.hyperrule import MOMENTUM, Mixup
from bit.models import NETWORK_RANGE, Architecture
from bit.tensorflow import tf
from bit.weights import HEAD_BIAS, HEAD_KERNEL, STANDARDIZED, Arrays, Weights, shapes

log = logging.getLogger(__name__)
PRECISIONS = ("float32", "bfloat16", "float16")
TRAINED = ("all", "last_block", "head")
# Of float16's loss: kernels in float16 are divided by 64, which their gradients are multiplied by.
_FIRST_SCALE, _GROWTH_STEPS = 2.0**10, 2000

_OUT_OF_MEMORY = (tf.errors.ResourceExhaustedError, MemoryError)

FORM = network.PLAIN._replace(norm_relu=group_norm_gradient.group_norm_relu)

Mixing = Callable[[Sequence[slice]], "Mixup | None"]  # the micro-batches of an update -> its MixUp


class OutOfMemory(MemoryError):
    """Not even one picture fits into the device's memory."""


class Batch(NamedTuple):
    """The pictures of one update, not yet cropped; rows that are not `present` count for nothing.

    Attributes:
      pixels: uint8 or floating (n, side, side, 3), RGB in [0, 255].
      labels: int (n,).
      corners: int (n, 2), row and column of the crop's upper left pixel.
      flips: bool (n,): left and right are exchanged after the crop.
      present: bool (n,).
    """

    pixels: np.ndarray
    labels: np.ndarray
    corners: np.ndarray
    flips: np.ndarray
    present: np.ndarray


class Result(NamedTuple):
    """What an update found before it changed the weights: the mean loss, and float (n, classes) logits of the mixed batch."""

    loss: float
    logits: np.ndarray


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
      crop: side of the pictures that the network sees.
      micro_batch: pictures whose gradients are computed at once; gradients of an update's micro-batches are added.
      train: of TRAINED. The other weights stay as they are, and are standardized once.
      precision: of PRECISIONS; 'float64' is for tests, on a CPU.
    """

    crop: int
    micro_batch: int
    train: str = "all"
    precision: str = "float32"
    momentum: float = MOMENTUM


def trained_names(architecture: Architecture, classes: int, train: str) -> list[str]:
    """The official names of the arrays that `train`, of TRAINED, changes."""
    prefixes: dict[str, str | tuple[str, ...]] = {
        "all": "",
        "last_block": (f"block{len(architecture.units)}/", "group_norm/", "head/"),
        "head": "head/",
    }
    return [name for name in shapes(architecture, classes) if name.startswith(prefixes[train])]


class Trainer:
    """A network that is being trained, on the first GPU or else the CPU.

    Attributes:
      micro_batch: as in the settings, or halved where the device's memory did not hold it.
      scale: the factor on float16's loss; 1 in the other precisions.
      good_steps: updates since the scale was last halved.
      shapes: of the arrays that are trained, by official name.
    """

    def __init__(self, weights: Weights, classes: int, settings: Settings, form: network.Form = FORM):
        """Starts from `weights`, with a head of zeros for `classes` in place of theirs (`bit_pytorch/models.py`, 165)."""
        self.architecture = weights.architecture
        self.classes = classes
        self.settings = settings
        self.micro_batch = settings.micro_batch
        self.scale = _FIRST_SCALE if settings.precision == "float16" else 1.0
        self.good_steps = 0
        self._compute = tf.as_dtype(settings.precision)
        self._exact = tf.float64 if settings.precision == "float64" else tf.float32
        self._compiled = True if tf.config.get_visible_devices("GPU") else None
        self._weights = weights
        self._form = form
        tf.config.experimental.enable_tensor_float_32_execution(False)
        trained = trained_names(self.architecture, classes, settings.train)
        self._frozen: dict[str, tf.Tensor] = {}
        self._trained: dict[str, tf.Variable] = {}
        for name, shape in shapes(self.architecture, classes).items():
            value = np.zeros(shape, np.float32) if name in (HEAD_KERNEL, HEAD_BIAS) else weights.array(name)
            if name in trained:
                self._trained[name] = self._variable(value)
            else:
                self._frozen[name] = self._ready(name, tf.constant(value, self._exact))
        self._gradients = {name: self._variable(np.zeros(v.shape)) for name, v in self._trained.items()}
        self._momentum = {name: self._variable(np.zeros(v.shape)) for name, v in self._trained.items()}
        self.shapes = {name: tuple(variable.shape) for name, variable in self._trained.items()}
        self._accumulate = tf.function(self._accumulated, autograph=False, jit_compile=self._compiled)
        self._predict = tf.function(self._predicted, autograph=False, jit_compile=self._compiled)
        self._apply = tf.function(self._applied, autograph=False, jit_compile=self._compiled)

    def update(
        self,
        batch: Batch,
        rate: float,
        mixing: Mixing = lambda rows: None,
        between: Callable[[], None] = lambda: None,
    ) -> Result:
        """One update: v = momentum v + g; w = w - rate v, where g is the gradient of the mean loss of the rows present.

        The rate is outside of v, unlike in Keras, and counts also for what earlier steps left in v. Halves `micro_batch` where
        memory runs out, and the loss scale where float16 overflows. `between` is called before each micro-batch; what it
        raises ends the update, which then changes nothing. Raises OutOfMemory.
        """
        while True:
            result = self._fitting(batch, mixing, between)
            if self._keep_scale():
                self._apply(tf.constant(rate, self._exact))
                return result

    def gradients(
        self, batch: Batch, mixup: Mixup | None = None, between: Callable[[], None] = lambda: None
    ) -> Result:
        """Computes what `gradient` then returns, in micro-batches. `mixup` mixes rows of the same micro-batch only."""
        for gradient in self._gradients.values():
            gradient.assign(tf.zeros_like(gradient))
        parts = []
        for rows in micro_batches(len(batch.labels), self.micro_batch):
            between()
            parts.append(self._launch(batch, rows, mixup))
        logits = np.concatenate([part.numpy() for _, part in parts])[: len(batch.labels)]
        return Result(float(sum(loss.numpy() for loss, _ in parts)), logits)

    def gradient(self, name: str) -> np.ndarray:
        """The gradient of the last update by the array `name`."""
        return self._gradients[name].numpy()

    def momentum(self) -> dict[str, np.ndarray]:
        """v by name, without the rate, for each array that is trained."""
        return {name: value.numpy() for name, value in self._momentum.items()}

    def trained(self) -> dict[str, np.ndarray]:
        """The arrays that are trained, by official name."""
        return {name: value.numpy() for name, value in self._trained.items()}

    def weights(self) -> Arrays:
        """The complete network as it is now, in float32."""

        def read(name: str) -> np.ndarray:
            value = self._trained[name].numpy() if name in self._trained else self._weights.array(name)
            return np.array(value, np.float32)

        return Arrays(self.architecture, self.classes, read)

    def restore(self, trained: Mapping[str, np.ndarray], momentum: Mapping[str, np.ndarray]) -> None:
        """Continues from what `trained` and `momentum` returned."""
        for variables, values in ((self._trained, trained), (self._momentum, momentum)):
            for name, variable in variables.items():
                variable.assign(values[name])

    def predictor(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """A function of floating pixels (n, crop, crop, 3) in [0, 255]: (features, logits) by the weights as they are now.

        Where memory does not hold n pictures, it takes half as many at a time, from then on. Raises OutOfMemory."""
        weights = {name: tf.identity(value) for name, value in self._current().items()}
        most = sys.maxsize

        def predict(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            nonlocal most
            while True:
                size = min(most, len(pixels))
                try:
                    return parts_of(pixels, size)
                except _OUT_OF_MEMORY as error:
                    if size == 1:
                        raise self._out_of_memory("one picture") from error
                most = -(-size // 2)
                log.warning("out of memory: %d pictures at a time are evaluated from here on", most)

        def parts_of(pixels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
            rows = micro_batches(len(pixels), size)
            parts = [
                self._predict(tf.constant(_padded(pixels[part], size), self._exact), weights) for part in rows
            ]
            features, logits = (
                np.concatenate([part[index].numpy() for part in parts])[: len(pixels)] for index in range(2)
            )
            return features, logits

        return predict

    def _predicted(self, pixels: tf.Tensor, weights: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        features = network.embed(network.scaled(pixels, NETWORK_RANGE), weights, self.architecture)
        return features, network.classify(features, weights)

    def _variable(self, value: np.ndarray) -> tf.Variable:
        return tf.Variable(value, dtype=self._exact)

    def _fitting(self, batch: Batch, mixing: Mixing, between: Callable[[], None]) -> Result:
        while True:
            try:
                mixup = mixing(micro_batches(len(batch.labels), self.micro_batch))
                return self.gradients(batch, mixup, between)
            except _OUT_OF_MEMORY as error:
                if self.micro_batch == 1:
                    raise self._out_of_memory("the training of one picture") from error
                self.micro_batch = -(-self.micro_batch // 2)
            # Outside the handler, whose traceback holds the tensors that did not fit.
            log.warning("out of memory: micro-batches of %d from here on", self.micro_batch)

    def _out_of_memory(self, what: str) -> OutOfMemory:
        return OutOfMemory(
            f"the device's memory does not hold {what} at {self.settings.crop}: train less (--train=last_block), in a smaller "
            "precision, or a smaller network"
        )

    def _keep_scale(self) -> bool:
        """Whether the gradients can be applied: in float16 a loss that was scaled too high makes them infinite."""
        if self._compute != tf.float16:
            return True
        if all(bool(tf.reduce_all(tf.math.is_finite(value))) for value in self._gradients.values()):
            self.good_steps += 1
            if self.good_steps % _GROWTH_STEPS == 0:
                self.scale *= 2
            return True
        if self.scale <= 2.0**-10:
            raise FloatingPointError("gradients are not finite at any loss scale: use --precision=bfloat16")
        self.scale, self.good_steps = self.scale / 2, 0
        return False

    def _launch(self, batch: Batch, rows: slice, mixup: Mixup | None) -> tuple[tf.Tensor, tf.Tensor]:
        """Adds the gradients of some rows, padded to a micro-batch; a GPU goes on with it after this has returned."""
        coefficient, partners = (
            (mixup.coefficient, mixup.partners[rows]) if mixup else (1.0, np.arange(len(batch.labels))[rows])
        )
        weight = batch.present[rows] / max(1, np.count_nonzero(batch.present))
        arrays = (
            (batch.pixels[rows], batch.pixels.dtype),
            (batch.labels[rows], np.int32),
            (batch.corners[rows], np.int32),
            (batch.flips[rows], np.bool_),
            (partners - rows.start, np.int32),
            (weight, np.float64),
        )
        padded = (tf.constant(_padded(np.asarray(value, dtype), self.micro_batch)) for value, dtype in arrays)
        return self._accumulate(
            *padded, tf.constant(coefficient, tf.float64), tf.constant(self.scale, self._exact)
        )

    def _accumulated(
        self,
        pixels: tf.Tensor,
        labels: tf.Tensor,
        corners: tf.Tensor,
        flips: tf.Tensor,
        partners: tf.Tensor,
        weight: tf.Tensor,
        coefficient: tf.Tensor,
        scale: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        cropped = tf.cast(_cropped(pixels, corners, flips, self.settings.crop), self._exact)
        images = network.scaled(cropped, NETWORK_RANGE)
        share = tf.cast(coefficient, self._exact)
        images = share * images + (1 - share) * tf.gather(images, partners)
        variables = list(self._trained.values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            weights = self._current()
            logits = network.classify(
                network.embed(images, weights, self.architecture, not self._compiled, self._form), weights
            )

            exact_logits = tf.cast(
                logits, tf.float64
            )  # at the start losses are 2 or 10: a spacing of 2e-7 to 1e-6 in float32

            def entropy(labels: tf.Tensor) -> tf.Tensor:
                return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, exact_logits)

            losses = coefficient * entropy(labels) + (1 - coefficient) * entropy(tf.gather(labels, partners))
            loss = tf.reduce_sum(weight * losses)
            scaled = loss * tf.cast(scale, tf.float64)
        for name, gradient in zip(self._trained, tape.gradient(scaled, variables), strict=True):
            self._gradients[name].assign_add(gradient / scale)
        return loss, logits

    def _applied(self, rate: tf.Tensor) -> None:
        for name, variable in self._trained.items():
            momentum = self._momentum[name]
            momentum.assign(self.settings.momentum * momentum + self._gradients[name])
            variable.assign_sub(rate * momentum)

    def _current(self) -> dict[str, tf.Tensor]:
        """All weights as `network.embed` takes them, differentiable by the variables."""

        return self._frozen | {
            name: self._ready(name, tf.convert_to_tensor(value)) for name, value in self._trained.items()
        }

    def _ready(self, name: str, value: tf.Tensor) -> tf.Tensor:
        if name.endswith(STANDARDIZED):
            # In float64, which costs little beside the convolutions, the features' error is a tenth smaller.
            value = tf.cast(network.standardize(tf.cast(value, tf.float64)), self._exact)
        return network.prepared(value, name, self._compute)


def micro_batches(count: int, size: int) -> list[slice]:
    """The rows of each micro-batch of an update of `count` pictures."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _padded(value: np.ndarray, rows: int) -> np.ndarray:
    missing = rows - len(value)
    return np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1)) if missing else value


def _cropped(pixels: tf.Tensor, corners: tf.Tensor, flips: tf.Tensor, side: int) -> tf.Tensor:
    """(n, s, s, 3) -> (n, side, side, 3): the crop at each corner, mirrored where `flips` says so."""
    along = tf.range(side)[None]
    rows = corners[:, :1] + along
    columns = corners[:, 1:] + tf.where(flips[:, None], side - 1 - along, along)
    return tf.gather(tf.gather(pixels, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
