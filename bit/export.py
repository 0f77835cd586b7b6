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


def module(weights: Weights, head: bool = False) -> tf.train.Checkpoint:
    """A reusable SavedModel: callable on float32 (n, h, w, 3) RGB in [0, 1], gives float32 (n, d).

    Kernels are standardized in the graph, so that the standardization follows when the weights are trained.
    With `head` it gives logits, else features.
    """
    if head and not weights.classes:
        raise UnusableModel("the model has no head to export: leave --head away")
    names = shapes(weights.architecture, weights.classes if head else 0)
    named = {name: tf.Variable(weights.array(name), name=f"resnet/{name}") for name in names}

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)], autograph=False)
    def call(images: tf.Tensor) -> tf.Tensor:
        current = {
            name: network.standardize(value) if name.endswith(STANDARDIZED) else tf.convert_to_tensor(value)
            for name, value in named.items()
        }
        embedding = network.embed(images * 2.0 - 1.0, current, weights.architecture)
        return network.classify(embedding, current) if head else embedding

    # The interface at https://www.tensorflow.org/hub/reusable_saved_models
    reusable = tf.train.Checkpoint()
    reusable.__call__ = call
    reusable.variables = list(named.values())
    reusable.trainable_variables = list(named.values())
    reusable.regularization_losses = []
    return reusable


def export(weights: Weights, output: str, head: bool = False) -> None:
    """Writes the SavedModel into the folder `output`: the call, and the same as 'serving_default'."""
    reusable = module(weights, head)
    tf.saved_model.save(reusable, output, signatures=reusable.__call__)


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
