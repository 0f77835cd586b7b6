"""Writes a model of the family as a SavedModel that behaves like the TF-Hub module of the same name.

`python -m bit.export --model=bit/m-r101x3 --output=DIR`, and for serving
`python -m bit.export --model=bit/m-r101x3 --output=DIR --optimized --precision=bfloat16`

The signature 'serving_default' names its outputs: `embedding`, and with a head `logits`. The image size and the names of
the classes are assets (`bit.tuned`), so that a job needs nothing but the folder.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bit import tuned
from bit.checkpoint import open_checkpoint
from bit.command import exit_with
from bit.download import WeightsUnreachable, local_path
from bit.models import ARCHITECTURES, HEADS, Model, UnknownModel, UnusableModel, resolve
from bit.weights import STANDARDIZED, Untrained, Weights, folded, shapes

# TensorFlow takes seconds to import: not before the request is known to be right.
if TYPE_CHECKING:
    from bit.tensorflow import tf


def module(weights: Weights, head: bool = False, optimized_for: str = "") -> tf.train.Checkpoint:
    """A reusable SavedModel: callable on float32 (n, h, w, 3) RGB in [0, 1], returns float32 (n, d).

    Kernels are standardized in the graph, so that weights can be trained further. With `optimized_for`, a precision,
    they are standardized and cast now, and nothing is trainable. With `head` the module returns logits, else features;
    its function `serve` returns {'embedding', 'logits'}, or {'embedding'}. Raises UnusableModel if there is no head.
    """
    from bit import network
    from bit.tensorflow import tf

    if head and not weights.classes:
        raise UnusableModel("the model has no head to export: leave out --head")
    if optimized_for:
        compute = tf.as_dtype(optimized_for)
        named = {
            name: tf.Variable(network.prepared(value, name, compute), trainable=False, name=f"resnet/{name}")
            for name, value in folded(weights, head)
        }
    else:
        names = shapes(weights.architecture, weights.classes if head else 0)
        named = {name: tf.Variable(weights.array(name), name=f"resnet/{name}") for name in names}
    signature = [tf.TensorSpec((None, None, None, 3), tf.float32, name="images")]

    @tf.function(input_signature=signature, autograph=False)
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        current = {
            name: network.standardize(value)
            if name.endswith(STANDARDIZED) and not optimized_for
            else tf.convert_to_tensor(value)
            for name, value in named.items()
        }
        embedding = network.embed(images * 2.0 - 1.0, current, weights.architecture)
        return {"embedding": embedding} | ({"logits": network.classify(embedding, current)} if head else {})

    @tf.function(input_signature=signature, autograph=False)
    def call(images: tf.Tensor) -> tf.Tensor:
        return serve(images)["logits" if head else "embedding"]

    # The interface at https://www.tensorflow.org/hub/reusable_saved_models
    reusable = tf.train.Checkpoint()
    reusable.__call__ = call
    reusable.serve = serve
    reusable.variables = list(named.values())
    reusable.trainable_variables = [] if optimized_for else list(named.values())
    reusable.regularization_losses = []  # BiT-HyperRule fine-tunes without weight decay
    return reusable


def export(
    weights: Weights,
    output: str,
    head: bool = False,
    optimized_for: str = "",
    side: int = 224,
    classes: Sequence[str] = (),
    exif_orientation: str = "ignore",
) -> None:
    """Writes the SavedModel into the folder `output`: the call, and as 'serving_default' all outputs by name.

    `side` and `exif_orientation` are what jobs take by default, and `classes` are the names of a tuned head's classes; all
    become assets. Also records the outputs for the self-test's picture at `side`, which `bit.load` checks. Raises UnusableModel
    unless `output` is a new or empty local folder, or if `classes` are not the head's.
    """
    from bit import self_test, tensorfloat32
    from bit.tensorflow import tf

    _check_new(output)
    if classes and head:
        tuned.check_names(classes, weights.classes, "the names to export")
    reusable = module(weights, head, optimized_for)
    with tempfile.TemporaryDirectory() as folder:
        files = tuned.write(folder, classes if head else (), tuned.Preprocessing(side, exif_orientation))
        reusable.assets = [tf.saved_model.Asset(path) for path in files]
        tf.saved_model.save(reusable, output, signatures=reusable.serve)
    with tensorfloat32.allowed(False):
        vectors = reusable.serve(tf.constant(self_test.picture(side) / 255.0))
    vectors_by_name = {name: value.numpy() for name, value in vectors.items()}
    self_test.write(
        os.path.join(output, self_test.EXPORTED), vectors_by_name, side, optimized_for or "float32"
    )


def write_checkpoint(
    weights: Weights,
    path: str,
    classes: Sequence[str] = (),
    side: int = 224,
    exif_orientation: str = "ignore",
) -> None:
    """Writes an `.npz` under the official names, and beside it the files that `tuned` reads. Raises UnusableModel as `export`.

    The same weights give the same bytes. Never leaves half a checkpoint at `path`.
    """
    if classes:
        tuned.check_names(classes, weights.classes, "the names to write")
    partial = f"{path}.partial"
    try:
        with zipfile.ZipFile(partial, "w") as archive:
            for name in shapes(weights.architecture, weights.classes):
                member = zipfile.ZipInfo(f"resnet/{name}.npy")  # of a fixed date
                with archive.open(member, "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, weights.array(name), allow_pickle=False)
        tuned.write(os.path.dirname(path) or ".", classes, tuned.Preprocessing(side, exif_orientation))
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(partial)
        raise


def _check_new(output: str) -> None:
    if "://" in output or (os.path.exists(output) and not (os.path.isdir(output) and not os.listdir(output))):
        raise UnusableModel(
            f"--output={output} is not a new or empty local folder: give one, and copy the result from there"
        )


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 1 for a full disk or damaged data; exits with 2 if the request is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bit.export", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a name of `python -m bit.models`, or an .npz file")
    parser.add_argument("--output", required=True, help="folder for the SavedModel")
    parser.add_argument("--head", action="store_true", help="export the head, too: the call returns logits")
    parser.add_argument(
        "--optimized", action="store_true", help="for serving: weights standardized at export, not trainable"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        help="of an --optimized export (default: float32)",
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="take the model only from this machine's cache or disk, and never ask the network for it",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if args.precision and not args.optimized:
            raise UnusableModel("--precision is for --optimized: a trainable module is float32")
        model = resolve(args.model)
        _check_new(args.output)
        optimized_for = (args.precision or "float32") if args.optimized else ""
        path = _path(model, args.offline)
        weights = _weights(model, path)
        names = tuned.read_names(path, "npz") if args.head and not model.architecture else ()
        side, orientation = model.image_size, model.exif_orientation
        export(weights, args.output, args.head, optimized_for, side, names, orientation)
    except (UnknownModel, UnusableModel, WeightsUnreachable) as error:
        parser.error(str(error))
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    logging.info("wrote %s of %s to %s", "logits" if args.head else "features", model.name, args.output)
    return 0


def _path(model: Model, offline: bool) -> str:
    if model.kind == "saved_model":
        raise UnusableModel(f"{model.name} is already a SavedModel: copy it")
    return local_path(model, modules=False, offline=offline)


def _weights(model: Model, path: str) -> Weights:
    if model.kind == "untrained":
        return Untrained(ARCHITECTURES[model.architecture], HEADS.get(model.head, 0))
    return open_checkpoint(path, model.architecture)


if __name__ == "__main__":
    exit_with(main)
