"""Loads a TF-Hub module, or any SavedModel of an image network: by its weights if that is proven right, else called as is.

A module of the family takes float32 (n, h, w, 3) RGB in [0, 1] and standardizes its weights in each call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from bit import digests, network, self_test, tensorfloat32
from bit.check import check
from bit.checkpoint import recognize
from bit.from_weights import Loaded, build
from bit.models import ARCHITECTURES, HEADS, MODULE_RANGE, Architecture, Model, UnusableModel
from bit.weights import Arrays

_NEEDED = (
    "a SavedModel needs a function of float32 images (n, height, width, 3) in [0, 1] that returns one float32 (n, d), "
    "as the module's own call or as a signature with that single input"
)
# Of the largest value. The module's own standardization sums in float32 and is off by up to 1e-5 itself; another
# epsilon, padding or input scale differs by 1e-3 or more.
_TOLERANCE = 1e-4

log = logging.getLogger(__name__)


def load(
    model: Model, path: str, image_size: int, precision: str, wanted: set[str]
) -> tuple[Loaded, dict[str, str]]:
    """The network of the SavedModel in the folder `path`, and what identifies it in receipts.

    If its variables are those of a member of the family, and that member, built from them, gives the module's own vector
    for the self-test's picture, its weights are standardized once, here, and every output and precision is available.
    Otherwise the module is called as it is. The log says which, and why.
    Raises UnusableModel if it has no usable function, or cannot take the image size or provide an output or precision.
    """
    check(path)
    module = tf.saved_model.load(path)
    output = "logits" if model.head else "embedding"
    called = CalledModule(module, _usable(module, path, image_size), output)
    weights = f"sha256:{digests.of_saved_model(path)}"
    with tensorfloat32.allowed(False):
        own = called(tf.constant(self_test.picture(image_size)))[output].numpy()
    if model.architecture and own.shape[1] == ARCHITECTURES[model.architecture].embedding_size:
        output = "embedding"  # a mirror may have the checkpoint without its head
        called = replace(called, output=output)
    folded, why = _folded(module, own, ARCHITECTURES.get(model.architecture), image_size, precision, wanted)
    if folded:
        log.info(
            "%s: its weights are standardized once, at load; the network gives the same vector as the module",
            path,
        )
        identity = {"route": "folded_saved_model", "weights": weights}
        return folded, identity | folded.arrays("logits" in wanted)
    if model.kind != "saved_model":
        raise UnusableModel(
            f"{path}, fetched as {model.name}, does not compute what the official checkpoint does ({why}): delete that folder, "
            "and fetch the model from Google's bucket or Hugging Face"
        )
    log.info("%s is called as it is: %s", path, why)
    if precision not in ("float32", "tensorfloat32"):
        raise UnusableModel(
            f"--precision={precision} is not available for {model.name}, which is called as it is, in its own float32 ({why}); "
            "use the .npz of the same model, such as --model=bit/m-r101x3"
        )
    if wanted != {output}:
        raise UnusableModel(
            f"{model.name} provides {output} only, not {min(wanted - {output})} ({why}); "
            "use the .npz of the same model"
        )
    loaded = Loaded(called, HEADS.get(model.head, 0), {output: own})
    return loaded, {"route": "saved_model", "weights": weights}


def _folded(
    module: Any,
    own: np.ndarray,
    expected: Architecture | None,
    image_size: int,
    precision: str,
    wanted: set[str],
) -> tuple[Loaded | None, str]:
    """The network built from the module's variables if its vector for the picture is `own`; else None, and why not."""
    variables = {v.name.removesuffix(":0"): v for v in getattr(module, "variables", ())}
    member = recognize({name: tuple(v.shape) for name, v in variables.items()})
    if isinstance(member, str):
        return None, member
    prefix, architecture, classes = member
    if expected not in (None, architecture):
        return None, "it is another member of the family"
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
        return None, f"it returns {own.shape[1]} values, not the {output} of its architecture"
    off = float(abs(ours - own).max() / (abs(own).max() or 1.0))
    if not off <= _TOLERANCE:
        return (
            None,
            f"the family's network with its weights gives another vector (off by {off:.1g} of the largest value)",
        )
    return loaded, ""


@dataclass(frozen=True)
class CalledModule:
    """A module called as it is: float32 pixels (n, h, w, 3) in [0, 255] -> {output: float32 (n, d)}."""

    module: Any  # kept, as functions refer to their variables weakly
    vectors: Callable[[tf.Tensor], tf.Tensor]
    output: str

    def __call__(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        vectors = self.vectors(network.scaled(pixels, MODULE_RANGE))
        return {self.output: tf.ensure_shape(vectors, (pixels.shape[0], vectors.shape[1]))}


def _usable(module: Any, path: str, image_size: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """The first of the module's own call and its signatures that takes such images and returns vectors."""
    spec = tf.TensorSpec((None, image_size, image_size, 3), tf.float32)
    unusable: list[str] = []
    sizes: set[str] = set()
    for name, call, concrete_functions in _candidates(module):
        inputs = [image for function in concrete_functions if (image := _image_input(function)) is not None]
        fixed = {f"{i.shape[1]}x{i.shape[2]}" for i in inputs if not i.is_compatible_with(spec)}
        if not inputs or len(fixed) == len(inputs):
            sizes |= fixed
            unusable += [f"{name}: {_describe(function)}" for function in concrete_functions]
            continue

        def vectors(images: tf.Tensor, call: Callable[[tf.Tensor], Any] = call) -> tf.Tensor:
            return tf.nest.flatten(call(images))[0]

        results = tf.nest.flatten(
            tf.function(call, autograph=False).get_concrete_function(spec).structured_outputs
        )
        if (
            len(results) == 1
            and results[0].dtype == tf.float32
            and results[0].shape.rank == 2
            and results[0].shape[1]
        ):
            return vectors
        unusable.append(f"{name}: returns " + ", ".join(f"{t.dtype.name} {t.shape}" for t in results))
    if sizes:
        raise UnusableModel(
            f"{path} takes images of {', '.join(sorted(sizes))} only, not of {image_size}x{image_size}: "
            "set --image_size accordingly"
        )
    raise UnusableModel(
        "\n  ".join([f"{path} has no usable signature; {_NEEDED}. It has:", *(unusable or ["no function"])])
    )


def _candidates(module: Any) -> list[tuple[str, Callable[[tf.Tensor], Any], list[Any]]]:
    """(name, function of images, its concrete functions) of the module's own call, then of each signature."""
    out: list[tuple[str, Callable[[tf.Tensor], Any], list[Any]]] = []
    if callable(module):
        # A reusable SavedModel may also have a function for training: its default arguments select the other.
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

    return f"takes {shown(function.structured_input_signature)}, returns {shown(function.structured_outputs)}"
