"""Writes a model of the family as a SavedModel that behaves like the TF-Hub module of the same name.

`python -m bit.export --model=bit/m-r101x3 --output=DIR`
"""

from __future__ import annotations

import argparse
import logging

import tensorflow as tf

from bit import network
from bit.download import WeightsUnreachable, local_path
from bit.models import ARCHITECTURES, HEADS, UnknownModel, UnusableModel, resolve
from bit.weights import STANDARDIZED, Untrained, Weights, open_checkpoint, shapes


class Module(tf.Module):
    """A reusable SavedModel: callable on float32 (n, h, w, 3) RGB in [0, 1], gives float32 (n, d).

    Kernels are standardized in the graph, so that the standardization follows when the weights are trained.
    With a head it gives logits, else features.
    """

    def __init__(self, weights: Weights, head: bool) -> None:
        super().__init__()
        if head and not weights.classes:
            raise UnusableModel("the model has no head to export: leave --head away")
        self._architecture = weights.architecture
        self._head = head
        names = shapes(weights.architecture, weights.classes if head else 0)
        self._named = {name: tf.Variable(weights.array(name), name=f"resnet/{name}") for name in names}
        # The attributes that hub.KerasLayer reads.
        self.regularization_losses: list[tf.Tensor] = []

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)], autograph=False)
    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        weights = {
            name: network.standardize(value) if name.endswith(STANDARDIZED) else tf.convert_to_tensor(value)
            for name, value in self._named.items()
        }
        embedding = network.embed(images * 2.0 - 1.0, weights, self._architecture, tf.float32)
        return network.classify(embedding, weights) if self._head else embedding


def export(weights: Weights, output: str, head: bool = False) -> None:
    """Writes the SavedModel into the folder `output`: the call, and the same as 'serving_default'."""
    module = Module(weights, head)
    tf.saved_model.save(module, output, signatures=module.__call__)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bit.export", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a name of `python -m bit.models`, or an .npz file")
    parser.add_argument("--output", required=True, help="folder for the SavedModel")
    parser.add_argument("--head", action="store_true", help="export logits, not features")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        model = resolve(args.model)
        if model.kind == "saved_model":
            raise UnusableModel(f"{model.name} is a SavedModel already: copy it")
        if model.kind == "untrained":
            weights: Weights = Untrained(ARCHITECTURES[model.architecture], HEADS.get(model.head, 0))
        else:
            weights = open_checkpoint(local_path(model), model.architecture)
        export(weights, args.output, args.head)
    except (UnknownModel, UnusableModel, WeightsUnreachable) as error:
        parser.error(str(error))
    logging.info("wrote %s of %s to %s", "logits" if args.head else "features", model.name, args.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
