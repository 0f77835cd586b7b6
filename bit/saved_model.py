"""Loads a TF-Hub module, or any SavedModel of an image network: by its weights if that is proven right, else called as is.

A module of the family takes float32 (n, h, w, 3) RGB in [0, 1] and standardizes its weights in each call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bit import digests, network, self_test, signatures, tensorfloat32
from bit.check import check
from bit.checkpoint import recognize
from bit.from_weights import Loaded, build
from bit.models import ARCHITECTURES, HEADS, MODULE_RANGE, Architecture, Model, UnusableModel
from bit.signatures import Choice
from bit.tensorflow import tf
from bit.weights import HEAD_BIAS, HEAD_KERNEL, STANDARDIZED, Arrays, shapes

# Of the largest value. The module's own standardization sums in float32 and is off by up to 1e-5 itself; another
# epsilon, padding or input scale differs by 1e-3 or more.
_TOLERANCE = 1e-4

log = logging.getLogger(__name__)


def load(
    model: Model,
    path: str,
    image_size: int,
    precision: str,
    wanted: set[str],
    outputs_map: Mapping[str, str],
) -> tuple[Loaded, dict[str, str]]:
    """The network of the SavedModel in the folder `path`, and what identifies it in receipts.

    If its variables are those of a member of the family, and that member, built from them, gives the module's own outputs
    for the self-test's picture, its weights are standardized once, here, and every output and precision is available.
    Otherwise the module is called as it is. The log says which, and why.
    Raises UnusableModel if it has no usable function, or cannot take the image size or provide an output or precision, or if
    it does not say which of its outputs is which: see `signatures.choose` for `outputs_map`.
    """
    check(path)
    with _not_a_glob(path) as plain:
        module = tf.saved_model.load(plain)
    member = _member({v.name.removesuffix(":0"): v for v in getattr(module, "variables", ())})
    expected = ARCHITECTURES.get(model.architecture)
    if isinstance(member, _Member) and expected not in (None, member.architecture):
        member = "it is another member of the family"
    if isinstance(member, str) and model.kind != "saved_model":
        raise UnusableModel(_not_official(model, path, member))
    functions = signatures.functions(module, path, image_size)
    choice = signatures.choose(functions, path, wanted, outputs_map, _by_width(model, member))
    called = CalledModule(module, choice)
    weights = f"sha256:{digests.of_saved_model(path)}"
    with tensorfloat32.allowed(False):
        vectors = called(tf.constant(self_test.picture(image_size)))
    own = {name: value.numpy() for name, value in vectors.items()}
    folded, why = _folded(member, own, image_size, precision, wanted)
    if folded:
        log.info(
            "%s: its weights are standardized once, at load; the network gives the same vector as the module",
            path,
        )
        identity = {"route": "folded_saved_model", "weights": weights}
        return folded, identity | folded.arrays("logits" in wanted)
    if model.kind != "saved_model":
        raise UnusableModel(_not_official(model, path, why))
    if isinstance(member, _Member) and member.dense:
        # What a head with names of its own returns, such as probabilities, was to be shown by the comparison.
        signatures.choose(functions, path, wanted, outputs_map, {})
    log.info("%s is called as it is: %s", path, why)
    if precision not in ("float32", "tensorfloat32"):
        raise UnusableModel(
            f"--precision={precision} is not available for {model.name}, which is called as it is, in its own float32 ({why}); "
            "use the .npz of the same model, such as --model=bit/m-r101x3"
        )
    if missing := sorted(wanted - own.keys()):
        raise UnusableModel(
            "\n  ".join(
                [
                    f"{model.name} provides {' and '.join(sorted(own))} only, not {missing[0]} ({why}). It has:",
                    *map(str, functions),
                    f"Use the .npz of the same model, or name the output: --outputs_map={missing[0]}=NAME",
                ]
            )
        )
    classes = own["logits"].shape[1] if "logits" in own else 0
    return Loaded(called, classes, own), {"route": "saved_model", "weights": weights}


def _not_official(model: Model, path: str, why: str) -> str:
    return (
        f"{path}, fetched as {model.name}, does not compute what the official checkpoint does ({why}): delete that folder, "
        "and fetch the model from Google's bucket or Hugging Face"
    )


@dataclass(frozen=True)
class _Member:
    """Variables that are those of a member of the family, by official name."""

    architecture: Architecture
    classes: int
    variables: Mapping[str, Any]
    dense: bool  # the head has names of its own

    def weights(self) -> Arrays:
        """To build the network from, read one by one."""
        sizes = shapes(self.architecture, self.classes)
        return Arrays(
            self.architecture,
            self.classes,
            lambda name: self.variables[name].numpy().reshape(sizes[name]),
        )


def _member(variables: Mapping[str, Any]) -> _Member | str:
    """The member, or a text that says why there is none.

    Besides the official names, a head may be a dense layer: a kernel (c, classes) and a bias (classes,) of any names.
    """
    sizes = {name: tuple(v.shape) for name, v in variables.items()}
    root = f"root_block/{STANDARDIZED}"
    prefix = next((name.removesuffix(root) for name in sizes if name.endswith(root)), "")
    others = sorted(
        (name for name in sizes if not name.startswith(prefix)), key=lambda name: -len(sizes[name])
    )
    dense = [sizes[name] for name in others]
    has_dense = list(map(len, dense)) == [2, 1] and dense[0][1] == dense[1][0]
    found = recognize({n: size for n, size in sizes.items() if not (has_dense and n in others)})
    if isinstance(found, str):
        return found
    _, architecture, classes = found
    named = {name: variables[prefix + name] for name in shapes(architecture, classes)}
    if has_dense:
        if classes or dense[0][0] != architecture.embedding_size:
            return "its variables are not those of any member of the family"
        classes = dense[1][0]
        named |= dict(zip((HEAD_KERNEL, HEAD_BIAS), (variables[name] for name in others), strict=True))
    if any(v.dtype != tf.float32 for v in named.values()):
        return "its variables are not float32"
    return _Member(architecture, classes, named, has_dense)


def _by_width(model: Model, member: _Member | str) -> dict[int, str]:
    """What the single output of a function is that does not name it, by its size: known of TF-Hub's modules and their kind."""
    if model.architecture:  # a mirror may have the checkpoint without its head
        return {model.embedding_size: "embedding"} | ({HEADS[model.head]: "logits"} if model.head else {})
    if isinstance(member, str):
        return {}
    size = member.architecture.embedding_size
    if member.classes == size:
        return {}
    return {size: "embedding"} | ({member.classes: "logits"} if member.classes else {})


@contextlib.contextmanager
def _not_a_glob(path: str) -> Iterator[str]:
    """A path to the same folder without characters of globs: TensorFlow takes the path of variables for a pattern."""
    if not any(sign in path for sign in "*?[]{}\\"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "model")
        os.symlink(os.path.abspath(path), link)
        yield link


def _folded(
    member: _Member | str, own: Mapping[str, np.ndarray], image_size: int, precision: str, wanted: set[str]
) -> tuple[Loaded | None, str]:
    """The network built from the module's variables if its outputs for the picture are `own`; else None, and why not."""
    if isinstance(member, str):
        return None, member
    if not member.classes and "logits" in wanted | own.keys():
        return None, "it has no head"
    loaded = build(member.weights(), precision, "logits" in wanted | own.keys(), exact_at=image_size)
    assert loaded.exact is not None
    for output, vector in own.items():
        ours = loaded.exact[output]
        if ours.shape != vector.shape:
            return None, f"it returns {vector.shape[1]} values, not the {output} of its architecture"
        off = float(abs(ours - vector).max() / (abs(vector).max() or 1.0))
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
    choice: Choice

    def __call__(self, pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.choice(network.scaled(pixels, MODULE_RANGE))
