"""The outputs of a model by name, and the features of a record that hold them.

Standard library only: a host that submits jobs checks a request with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from bit.models import HEADS, Model, UnusableModel

OUTPUTS = ("embedding", "logits", "top_k")
TOP_CLASS, TOP_PROBABILITY = "top_k/class", "top_k/probability"  # int64 and float32 (n, k), best first
TOP_SYNSET, TOP_NAME = "top_k/synset", "top_k/name"  # bytes (n, k), of heads whose classes have names
TOP_FEATURES = (TOP_CLASS, TOP_PROBABILITY, TOP_SYNSET, TOP_NAME)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """These outputs, each once, in the order of OUTPUTS. Raises UnusableModel for an unknown one, or for none."""
    wanted = set(names)
    if unknown := sorted(wanted - set(OUTPUTS)):
        raise UnusableModel(f"no output {unknown[0]!r}; there are {', '.join(OUTPUTS)}")
    if not wanted:
        raise UnusableModel(f"no output requested; there are {', '.join(OUTPUTS)}")
    return tuple(name for name in OUTPUTS if name in wanted)


def features(outputs: Iterable[str]) -> tuple[str, ...]:
    """Names of the features that a record may hold for `outputs`."""
    return tuple(name for output in outputs for name in (TOP_FEATURES if output == "top_k" else (output,)))


def classes(model: Model) -> int | None:
    """Number of outputs of the head, as far as the name says: 0 for no head, None for unknown."""
    if model.head:
        return HEADS[model.head]
    return 0 if model.kind == "untrained" or (model.architecture and model.kind == "saved_model") else None


def default_top_k(classes: int | None) -> int:
    """Five, or all of a head of fewer `classes`; 0 or None: no head, or unknown."""
    return min(5, classes or 5)


def parse_map(pairs: Iterable[str], model: Model) -> dict[str, str]:
    """['logits=dense_1'] -> {'logits': 'dense_1'}: our names of a SavedModel's outputs. Raises UnusableModel."""
    named: dict[str, str] = {}
    for pair in pairs:
        ours, sign, theirs = pair.partition("=")
        if not sign or not theirs or ours not in ("embedding", "logits") or ours in named:
            raise UnusableModel(
                f"--outputs_map={pair}: give embedding=NAME or logits=NAME, each once, with the SavedModel's name of that "
                "output; top_k comes from the logits"
            )
        named[ours] = theirs
    if named and (model.kind != "saved_model" or model.architecture):
        raise UnusableModel(
            f"--outputs_map is for SavedModels from elsewhere: the outputs of {model.name} are known; leave it out"
        )
    return named


def check(model: Model, outputs: tuple[str, ...], top_k: int, classes: int | None) -> None:
    """Raises UnusableModel if a head of `classes` outputs (0: no head, None: unknown) cannot provide `outputs`."""
    if classes is None or outputs == ("embedding",):
        return
    if not classes:
        raise UnusableModel(
            f"{model.name} has no head, so no {' and no '.join(sorted(set(outputs) - {'embedding'}))}: "
            "use --outputs=embedding, or a model with a head, such as bit/m-r101x3"
        )
    if "top_k" in outputs and top_k > classes:
        raise UnusableModel(f"{model.name} has {classes} classes: --top_k={top_k} is more than that")


def task(model: Model, classes: int) -> str:
    """The key of bit.models.HEADS for the task of a head of `classes` outputs; '' if unknown.

    A file with an unofficial name is recognized as ImageNet-21k by its number of classes, which no other task has.
    """
    return next((task for task in (model.head, "imagenet21k") if task and HEADS[task] == classes), "")
