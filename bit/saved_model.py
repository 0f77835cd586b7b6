"""A TF-Hub module, or any SavedModel of an image network: by its weights where that is proven, else called as it is.

A module of the family takes float32 (n, h, w, 3) RGB in [0, 1] and standardizes its weights in each call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from bit import digests, network, self_test
from bit.check import check
from bit.checkpoint import of_arrays
from bit.from_weights import Loaded, build
from bit.models import HEADS, MODULE_RANGE, Model, UnusableModel
from bit.weights import Arrays

_NEEDED = (
    "it takes a function of float32 images (n, height, width, 3) in [0, 1] that gives one float32 (n, d), "
    "as the module's own call or as a signature with that single input"
)
# Of the largest value: the module's own standardization sums in float32 and is off by up to 1e-5 itself; another
# epsilon, another padding or another scale of the input shows from 1e-3 on.
_SAME = 1e-4

log = logging.getLogger(__name__)


def load(
    model: Model, path: str, image_size: int, precision: str, wanted: set[str]
) -> tuple[Loaded, dict[str, str]]:
    """Returns the network of the SavedModel in the folder `path`, and what identifies it.

    Where its variables are those of a member of the family, and that member, built from them, gives for the
    self-test's picture what the module itself gives, the weights are standardized once, here: then every output and
    precision is to be had. Otherwise the module is called as it is. The log says which, and why.
    Raises UnusableModel: no usable function, an image size, an output or a precision that it cannot take.
    """
    check(path)
    module = tf.saved_model.load(path)
    output = "logits" if model.head else "embedding"
    called = Called(module, _usable(module, path, image_size), output)
    weights = f"sha256:{digests.of_saved_model(path)}"
    with self_test.float32_only():
        own = called(tf.constant(self_test.picture(image_size)))[output].numpy()
    folded, why = _folded(module, own, image_size, precision, wanted)
    if folded:
        log.info(
            "%s: its weights are standardized once, at load; it gives the same vector as the module", path
        )
        return folded, {"route": "folded_saved_model", "weights": weights}
    log.info("%s is called as it is: %s", path, why)
    if precision not in ("float32", "tensorfloat32"):
        raise UnusableModel(
            f"--precision={precision} is not for {model.name}, which is called as it is, in its own float32 ({why}); "
            "take the .npz of the same model, such as --model=bit/m-r101x3"
        )
    if wanted != {output}:
        raise UnusableModel(
            f"{model.name} gives {output} only, not {min(wanted - {output})} ({why}); "
            "take the .npz of the same model"
        )
    loaded = Loaded(called, HEADS.get(model.head, 0), {output: own})
    return loaded, {"route": "saved_model", "weights": weights}


def _folded(
    module: Any, own: np.ndarray, image_size: int, precision: str, wanted: set[str]
) -> tuple[Loaded | None, str]:
    """The network built from the module's variables if it gives `own` for the picture, else None and why not."""
    variables = {v.name.removesuffix(":0"): v for v in getattr(module, "variables", ())}
    found = of_arrays({name: tuple(v.shape) for name, v in variables.items()})
    if isinstance(found, str):
        return None, found
    prefix, architecture, classes = found
    if any(v.dtype != tf.float32 for v in variables.values()):
        return None, "its variables are not float32"
    if not classes and "logits" in wanted:
        return None, "it has no head"
    source = Arrays(architecture, classes, lambda name: variables[prefix + name].numpy())
    output = "logits" if classes and own.shape[1] == classes else "embedding"
    head = output == "logits" or "logits" in wanted
    loaded = build(source, precision, head, exact_at=image_size)
    assert loaded.exact is not None
    ours = loaded.exact[output]
    if ours.shape != own.shape:
        return None, f"it gives {own.shape[1]} values, not the {output} of its architecture"
    off = float(abs(ours - own).max() / (abs(own).max() or 1.0))
    if not off <= _SAME:
        return (
            None,
            f"the family's network with its weights gives another vector (off by {off:.1g} of the largest value)",
        )
    return loaded, ""


@dataclass(frozen=True)
class Called:
    """float32 pixels (n, h, w, 3) in [0, 255] -> {output: float32 (n, d)}."""

    module: Any  # held because functions refer to their variables weakly
    vectors: Callable[[tf.Tensor], tf.Tensor]
    output: str

    def __call__(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        vectors = self.vectors(network.scaled(pixels, MODULE_RANGE))
        return {self.output: tf.ensure_shape(vectors, (pixels.shape[0], vectors.shape[1]))}


def _usable(module: Any, path: str, image_size: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """The first of the module's own call and its signatures that takes such images and gives vectors."""
    spec = tf.TensorSpec((None, image_size, image_size, 3), tf.float32)
    refused: list[str] = []
    sizes: set[str] = set()
    for name, call, concrete_functions in _candidates(module):
        inputs = [image for function in concrete_functions if (image := _image_input(function)) is not None]
        fixed = {f"{i.shape[1]}x{i.shape[2]}" for i in inputs if not i.is_compatible_with(spec)}
        if not inputs or len(fixed) == len(inputs):
            sizes |= fixed
            refused += [f"{name}: {_describe(function)}" for function in concrete_functions]
            continue

        def vectors(images: tf.Tensor, call: Callable[[tf.Tensor], Any] = call) -> tf.Tensor:
            return tf.nest.flatten(call(images))[0]

        given = tf.nest.flatten(
            tf.function(call, autograph=False).get_concrete_function(spec).structured_outputs
        )
        if (
            len(given) == 1
            and given[0].dtype == tf.float32
            and given[0].shape.rank == 2
            and given[0].shape[1]
        ):
            return vectors
        refused.append(f"{name}: gives " + ", ".join(f"{t.dtype.name} {t.shape}" for t in given))
    if sizes:
        raise UnusableModel(
            f"{path} takes images of {', '.join(sorted(sizes))} only, not of {image_size}x{image_size}: "
            "set --image_size to that"
        )
    raise UnusableModel(
        "\n  ".join(
            [f"{path} has no usable signature; {_NEEDED}. What it has:", *(refused or ["no function at all"])]
        )
    )


def _candidates(module: Any) -> list[tuple[str, Callable[[tf.Tensor], Any], list[Any]]]:
    """(name, function of images, its concrete functions) of the module's own call, then of each signature."""
    out: list[tuple[str, Callable[[tf.Tensor], Any], list[Any]]] = []
    if callable(module):
        # A reusable SavedModel may hold a function for training too: its defaults choose the other one.
        out.append(("the module's call", module, list(module.__call__.concrete_functions)))
    for name, signature in sorted(module.signatures.items()):

        def call(images: tf.Tensor, signature: Any = signature) -> Any:
            (keyword,) = signature.structured_input_signature[1]
            return signature(**{keyword: images})

        out.append((f"signature {name!r}", call, [signature]))
    return out


def _image_input(function: Any) -> tf.TensorSpec | None:
    """The single tensor that a concrete function takes, if that can be a batch of RGB images."""
    specs = [s for s in tf.nest.flatten(function.structured_input_signature) if isinstance(s, tf.TensorSpec)]
    if len(specs) != 1 or not specs[0].is_compatible_with(tf.TensorSpec((None, None, None, 3), tf.float32)):
        return None
    return specs[0]


def _describe(function: Any) -> str:
    def shown(structure: Any) -> str:
        specs = [s for s in tf.nest.flatten(structure) if isinstance(s, tf.TensorSpec | tf.Tensor)]
        return ", ".join(f"{s.dtype.name} {s.shape}" for s in specs) or "nothing"

    return f"takes {shown(function.structured_input_signature)}, gives {shown(function.structured_outputs)}"
