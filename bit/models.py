"""The BiT family by name: what a `--model` value stands for and where its weights are.

Standard library only: a host that submits jobs needs neither TensorFlow nor NumPy to resolve a name.
`python -m bit.models` lists every name.

Sources: google-research/big_transfer README and `bit_hyperrule.py`; arXiv 1912.11370; TF-Hub `google/bit`.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bit import home, mirrors, tuned
from bit.command import exit_with
from bit.errors import UnknownModel, UnusableModel
from bit.mirrors import BUCKET, CHECKPOINT

# Of the pixels that networks of the authors' weights take, and of those that TF-Hub modules take.
NETWORK_RANGE, MODULE_RANGE = (-1.0, 1.0), (0.0, 1.0)
PRECISIONS = ("float32", "tensorfloat32", "bfloat16", "float16")
# How often what a precision computes has changed, beyond last bits; part of a job's fingerprint. A precision that never
# changed has no entry, and its jobs no key: so outputs of earlier versions resume wherever the vectors are the same.
NUMERICS = {"bfloat16": 2, "float16": 2}  # 2: the residual stream has 16 bits, too


@dataclass(frozen=True)
class Architecture:
    """A pre-activation ResNet with four blocks of bottleneck units (BiT: arXiv 1912.11370, section 3.1)."""

    units: tuple[int, ...]
    root_channels: int

    @property
    def groups(self) -> int:
        """Groups of each GroupNorm: 32 in every official network."""
        return min(32, self.root_channels)

    @property
    def embedding_size(self) -> int:
        """Channels of the pooled features: 2048 per 64 channels of the root."""
        return 32 * self.root_channels


# `tiny` is not official: it runs the same code in milliseconds, for trying out a job.
ARCHITECTURES = {
    "r50x1": Architecture((3, 4, 6, 3), 64),
    "r50x3": Architecture((3, 4, 6, 3), 192),
    "r101x1": Architecture((3, 4, 23, 3), 64),
    "r101x3": Architecture((3, 4, 23, 3), 192),
    "r152x2": Architecture((3, 8, 36, 3), 128),
    "r152x4": Architecture((3, 8, 36, 3), 256),
    "tiny": Architecture((1, 1, 1, 1), 8),
}
OFFICIAL = tuple(name for name in ARCHITECTURES if name != "tiny")

# Classes of each task that an official head was trained on. VTAB-1k counts: arXiv 1910.04867.
HEADS = {
    "imagenet21k": 21843,
    "ilsvrc2012": 1000,
    "vtab/caltech101": 102,
    "vtab/cifar100": 100,
    "vtab/clevr-count": 8,
    "vtab/clevr-distance": 6,
    "vtab/diabetic_retinopathy": 5,
    "vtab/dmlab": 6,
    "vtab/dsprites-orientation": 16,
    "vtab/dsprites-xpos": 16,
    "vtab/dtd": 47,
    "vtab/eurosat": 10,
    "vtab/kitti-distance": 4,
    "vtab/oxford_flowers102": 102,
    "vtab/oxford_iiit_pet": 37,
    "vtab/patch_camelyon": 2,
    "vtab/resisc45": 45,
    "vtab/smallnorb-azimuth": 18,
    "vtab/smallnorb-elevation": 9,
    "vtab/sun397": 397,
    "vtab/svhn": 10,
}
# BiT-HyperRule fine-tunes at 128 if a task's images are smaller than 96 x 96, else at 480.
_VTAB_SMALL_PICTURES = ("cifar100", "dsprites-orientation", "dsprites-xpos", "eurosat", "svhn")


@dataclass(frozen=True)
class Model:
    """One model that a job can run. `bit.load` scales pixels from [0, 255] to its `input_range`."""

    name: str  # as given: 'bit/m-r101x3', 'untrained/r101x3', or the path or URL
    kind: str  # 'npz', 'saved_model' or 'untrained'
    uri: str  # where the weights are: a local path, https://, gs:// or s3://; '' for untrained ones
    architecture: str  # a key of ARCHITECTURES; '' if the name does not say
    image_size: int  # default side in pixels
    embedding_size: int  # 0 if the name does not say
    head: str  # the task of its logits: a key of HEADS; '' for none or unknown
    exif_orientation: str = (
        tuned.UNKNOWN.exif_orientation
    )  # of the pictures that it was tuned on: see `bit.tuned`

    @property
    def input_range(self) -> tuple[float, float]:
        """Of the pixels that the model itself takes; jobs pass [0, 255]."""
        return MODULE_RANGE if self.kind == "saved_model" else NETWORK_RANGE


_SHORT = re.compile(r"(?:google/)?bit/[ms]-")
_ARCHITECTURE = "|".join(OFFICIAL)
_UNTRAINED = re.compile(
    rf"untrained/(?P<arch>{_ARCHITECTURE}|tiny)(?:/(?P<task>imagenet21k|ilsvrc2012)_classification)?"
)
_TARBALL = re.compile(r"\.(?:tar|tar\.gz|tgz)(?:\?.*)?$")
# In the format of Hugging Face's transformers, whose convert_bit_to_pytorch.py made it from timm's resnetv2_50x1_bitm, which was
# fine-tuned on ILSVRC-2012.
_TRANSFORMERS = re.compile(r"(?:^|[/:])google/bit-50(?:$|[/?#@])")
_KERAS = re.compile(r"\.(?:keras|h5|hdf5)(?:\?.*)?$", re.IGNORECASE)


def resolve(name: str) -> Model:
    """The model that `name` means; raises UnknownModel, which suggests the nearest known name.

    `name` is a short name or another that bit.mirrors knows, of TF-Hub, Kaggle, timm or Google's bucket: they all mean the
    same checkpoint, wherever it is fetched from; the file name of an official checkpoint; any other `.npz`, or `.safetensors`
    with timm's names; or a SavedModel's folder or tarball. A local file or folder goes before a place's name without '://'.
    The output folder of a fine-tuning, if it is local, means the SavedModel in it.
    Of a local model that says on which pixels it was tuned (`bit.tuned`), these are its pixels. Raises UnusableModel for a
    Keras file.
    """
    name = name.strip()
    if _KERAS.search(name) and not os.path.isdir(name):
        raise UnusableModel(_keras(name))
    if match := _UNTRAINED.fullmatch(name):
        return _model(name, "untrained", "", match["arch"], match["task"] or "")
    is_here = "://" not in name and os.path.exists(name)
    if not is_here and (url := mirrors.in_bucket(name)):
        return _checkpoint(name, url)
    if (found := mirrors.official(name)) and (_SHORT.match(name) or not is_here):
        return _official(name, *found)
    if not is_here and (url := mirrors.on_kaggle(name)):
        return _model(name, "saved_model", url, "", "")
    if not is_here and mirrors.is_reserved(name):
        raise UnknownModel(_unknown(name))
    file = name.split("?")[0]
    if file.endswith((".npz", ".safetensors")):
        official = CHECKPOINT.fullmatch(file.removeprefix("vtab/")) and not is_here
        return _as_tuned(_checkpoint(name, f"{BUCKET}/{name}" if official else name))
    if _is_place(name):
        folder = tuned.saved_model(name)
        return _as_tuned(_model(folder, "saved_model", folder, "", ""))
    raise UnknownModel(_unknown(name))


def _official(name: str, scope: str, architecture: str, task: str) -> Model:
    if architecture not in OFFICIAL:
        raise UnknownModel(_unknown(name))
    if scope == "s" and task == "imagenet21k":
        raise UnknownModel(
            f"no model {name!r}: BiT-S was trained on ILSVRC-2012 only; use bit/s-{architecture}/"
            f"ilsvrc2012_classification or bit/m-{architecture}/imagenet21k_classification"
        )
    return _checkpoint(name, mirrors.checkpoint_url(scope, architecture, task))


def _checkpoint(name: str, uri: str) -> Model:
    return _model(name, "npz", uri, *_from_checkpoint_name(uri.split("?")[0].rsplit("/", 1)[-1]))


def _model(name: str, kind: str, uri: str, architecture: str, head: str, image_size: int = 224) -> Model:
    size = ARCHITECTURES[architecture].embedding_size if architecture else 0
    try:
        return Model(name, kind, home.expanded(uri), architecture, image_size, size, head)
    except home.NoHome as error:
        raise UnusableModel(f"--model={error}") from error


def _as_tuned(model: Model) -> Model:
    """The model with the pixels that its own files state; official names say it themselves."""
    own = tuned.UNKNOWN if model.architecture else tuned.read_preprocessing(model.uri, model.kind)
    return replace(
        model, image_size=own.image_size or model.image_size, exif_orientation=own.exif_orientation
    )


def _keras(name: str) -> str:
    path = name.split("?")[0]
    folder = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return (
        f"{name} is a Keras file, which only the code that made it can load: export it as a SavedModel, for example with\n"
        f"  python -c \"import keras; keras.saving.load_model('{path}').export('{folder}')\"\n"
        f"then pass --model={folder} --outputs_map=logits=output_0 (the name of its output; for a model that returns "
        "features, embedding=output_0)"
    )


def _from_checkpoint_name(file: str) -> tuple[str, str, int]:
    """Architecture, head and image size by an official file name; ('', '', 224) for others."""
    match = CHECKPOINT.fullmatch(file)
    if not match or match["arch"].lower() not in ARCHITECTURES:
        return "", "", 224
    architecture = match["arch"].lower()
    if match["vtab"]:
        head = f"vtab/{match['vtab']}"
        side = 128 if match["vtab"] in _VTAB_SMALL_PICTURES else 480
        return architecture, head if head in HEADS else "", side
    if match["ilsvrc"]:
        return architecture, "ilsvrc2012", 480
    return architecture, "imagenet21k" if match["scope"] == "M" else "ilsvrc2012", 224


def _is_place(name: str) -> bool:
    local = name.startswith(("/", "./", "../", "~")) or os.path.isdir(name)
    return local or "://" in name or bool(_TARBALL.search(name))


def _unknown(name: str) -> str:
    known, wanted = names(), name.lower()
    if address := mirrors.file_of_page(name):
        known = [wanted := address]
    elif _TRANSFORMERS.search(wanted):
        known = [wanted := "bit/m-r50x1/ilsvrc2012_classification"]
    elif match := re.search(
        r"(?:^|/)([ms]-r[^/?#]*)", wanted
    ):  # the member, in whatever a place writes around it
        known, wanted = [n for n in known if n.startswith(f"bit/{match[1][0]}-")], f"bit/{match[1]}"
    elif match := re.search(r"resnetv2_[^/@?#]+", wanted):
        known, wanted = mirrors.timm_names(), f"timm/{match[0]}"
    nearest = (difflib.get_close_matches(wanted, known, n=1, cutoff=0.5) or ["bit/m-r101x3"])[0]
    return (
        f"no model {name!r}, and no such file or folder; did you mean {nearest!r}? "
        "`python -m bit.models` lists the names; a path to an .npz or a SavedModel folder works too"
    )


def names() -> list[str]:
    """Every short name, in the order in which `main` lists them."""
    heads = ("", "/imagenet21k_classification", "/ilsvrc2012_classification")
    result = []
    for scope in ("m", "s"):
        for arch in OFFICIAL:
            result += [f"bit/{scope}-{arch}{head}" for head in heads if not (scope == "s" and "21k" in head)]
    return result + [f"untrained/{arch}{head}" for arch in ARCHITECTURES for head in heads]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the family as a table. Exits with 2 for any flag but --help."""
    flags = argparse.ArgumentParser(
        prog="python -m bit.models", description="Lists the models of the family."
    )
    flags.parse_args(argv)
    row = "{:46} {:>9} {:>6} {:>13} {:>8} {:>7}  {}".format
    print(row("name", "embedding", "side", "logits", "classes", "input", "weights"))
    for model in map(resolve, names()):
        classes = HEADS.get(model.head, "")
        weights = model.uri or "seeded"
        takes = "{:g}..{:g}".format(*model.input_range)
        print(row(model.name, model.embedding_size, model.image_size, model.head, classes, takes, weights))
    tasks = ", ".join(head.removeprefix("vtab/") for head in HEADS if head.startswith("vtab/"))
    print(
        "\nAlso: what TF-Hub, Kaggle and timm call them (docs/models.md); "
        "vtab/BiT-M-R101x3-run0-caltech101.npz and the like\n"
        f"(runs 0 to 2 of {tasks});\n"
        "any .npz of the family; a SavedModel's folder or tarball.\n"
        "Jobs pass RGB pixels in [0, 255] to all of them, which are scaled to the input range; --image_size sets another side."
    )


if __name__ == "__main__":
    exit_with(main)
