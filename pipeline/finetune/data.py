"""What a run trains and is evaluated on: found once, then kept in the output folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bit.hyperrule import Resolution, Schedule
from pipeline.console import counted, say
from pipeline.finetune import examples, failures, folder, labels
from pipeline.finetune.examples import Examples, Input
from pipeline.finetune.failures import Failed, NothingUsable
from pipeline.finetune.request import Recipe, Request
from pipeline.flags import RequestError
from transforms.elements import Encoded
from transforms.errors import ItemError

LabelOf = Callable[[Encoded], labels.Label]
_SAID_EVERY = 100_000


@dataclass(frozen=True)
class Data:
    """The examples of a run.

    Attributes:
      training, validation: with the input that they are read from.
      window: how many encoded pictures fit into the buffer for shuffling.
      found: the number of all examples, with `unusable`: those that the pass over the input could not use.
      failed: these, and what an earlier start of the run could not read, fetch or decode.
    """

    names: tuple[str, ...]
    training: Examples
    validation: Examples
    training_input: Input
    validation_input: Input
    recipe: Recipe
    area: float
    window: int
    found: int
    unusable: int
    failed: tuple[Failed, ...]


def inputs(request: Request) -> dict[str, Input]:
    """The shards of --input and, if there is one, of --validation. Writes nothing. Raises BadInput, RequestError."""
    out = {}
    for name, texts in (("input", request.input_texts), ("validation", request.validation)):
        if not texts:
            continue
        listing = request.output / folder.LISTINGS[name]
        found = examples.find(
            name, texts, request.input_format, request.read, request.images_per_shard, listing
        )
        if found.kind == "images" and request.label_feature:
            raise RequestError(
                f"--label_feature={request.label_feature}: image files have no features; their class is the name of the folder "
                "that they lie in. Leave it out, or pass a list of the files with a column of labels"
            )
        if found.kind != "images" and not request.label_feature:
            raise RequestError(
                "--label_feature is missing: name the feature, column or tar member that holds the label"
            )
        out[name] = found
    return out


def find(request: Request, sources: dict[str, Input], identity: Mapping[str, Any]) -> Data:
    """What an earlier start of the request with this `identity` has kept, else one pass over the inputs.

    Raises RequestError, NothingUsable."""
    for source in sources.values():
        if source.listing is not None:
            source.listing_path.write_bytes(source.listing)
    path = request.output / folder.EXAMPLES
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    kept = folder.load_examples(path, digest)
    if kept is None:
        _pass(request, sources, digest)
        kept = folder.load_examples(path, digest)
        assert kept is not None
    parts, about = kept
    rule = about["recipe"]
    recipe = Recipe(
        Schedule(rule["warm_up"], tuple(rule["decays"]), rule["end"]),
        Resolution(rule["resize"], rule["crop"]),
        rule["mixup"],
    )
    training_input = sources["input"]
    failed = failures.read(request.output / folder.FAILURES)
    return Data(
        tuple(about["classes"]),
        parts["training"],
        parts["validation"],
        training_input,
        sources.get("validation", training_input),
        recipe,
        about["area"],
        about["window"],
        about["found"],
        about["unusable"],
        tuple(failed),
    )


def _pass(request: Request, sources: dict[str, Input], digest: str) -> None:
    names = folder.read_names(request.classes) if request.classes else ()
    found = examples.scan(sources["input"], _label_of(request, sources["input"]), _tick(sources["input"]))
    failed = [*found.failed]
    try:
        classes = labels.classes_of(found.labels, names, are_folders=not request.label_feature)
    except labels.BadClasses as error:
        reasons = (
            f"; {counted(len(failed), 'example')} failed, the first: {failed[0].message}" if failed else ""
        )
        raise RequestError(f"--input={','.join(request.input_texts)}: {error}{reasons}") from error
    every = examples.renumbered(found.examples, [classes.numbers[label] for label in found.labels])
    held_out = every.held_out < request.validation_share
    training, validation = every.where(~held_out), every.where(held_out)
    if "validation" in sources:
        numbers, source = classes.by_text(), sources["validation"]
        known = partial(_known, _label_of(request, source), numbers)
        other = examples.scan(source, known, _tick(source))
        validation = examples.renumbered(other.examples, [numbers[str(label)] for label in other.labels])
        failed += other.failed
    if not len(training):
        raise RequestError(f"no example is left to train on: --validation_share={request.validation_share}")
    if len(np.unique(training.classes)) < 2:
        raise RequestError(
            f"all examples that are left to train on are of one class, {classes.names[training.classes[0]]!r}: the others are "
            f"held out by --validation_share={request.validation_share}; make it smaller, or add examples"
        )
    _say_counts(training, validation, classes.names)
    try:
        area, image_bytes, unseen = examples.sample(sources["input"], found, request.decode(32))
    except NothingUsable as error:
        failures.write(request.output / folder.FAILURES, [*failed, *error.failed])
        raise
    if unseen:
        say(
            f"the resolution follows from {len(found.sample) - len(unseen)} of {counted(len(found.sample), 'picture')}: the "
            f"others cannot be used, such as {unseen[0]}"
        )
    recipe = request.recipe(len(training), area)
    rule = {
        "warm_up": recipe.schedule.warm_up,
        "decays": recipe.schedule.decays,
        "end": recipe.schedule.end,
        "resize": recipe.resolution.resize,
        "crop": recipe.resolution.crop,
        "mixup": recipe.mixup_alpha,
    }
    window = int(request.shuffle_buffer / (found.image_bytes or image_bytes))
    about: dict[str, Any] = {
        "classes": classes.names,
        "area": area,
        "recipe": rule,
        "window": max(window, request.batch_size),
        "found": len(training) + len(validation) + len(failed),
        "unusable": len(failed),
    }
    failures.write(request.output / folder.FAILURES, failed)
    folder.save_examples(
        request.output / folder.EXAMPLES, {"training": training, "validation": validation}, about, digest
    )


def _label_of(request: Request, source: Input) -> LabelOf:
    if request.label_feature:
        return partial(labels.of_feature, feature=request.label_feature)
    return partial(labels.of_folder, mixed=source.mixed)


def _known(label_of: LabelOf, numbers: Mapping[str, int], item: Encoded) -> labels.Label:
    """The label, if it is one of a class. Raises ItemError."""
    label = label_of(item)
    if str(label) not in numbers:
        raise ItemError("unknown_class", f"no example of --input has the label {label!r}")
    return label


def _tick(source: Input) -> Callable[[int, int], None]:
    said = [0]

    def tick(shards: int, count: int) -> None:
        if count - said[0] >= _SAID_EVERY:
            said[0] = count
            say(f"looking at the labels: {counted(count, 'example')}, shard {shards}/{len(source.shards)}")

    return tick


def _say_counts(training: Examples, validation: Examples, names: tuple[str, ...]) -> None:
    counts = np.bincount(training.classes, minlength=len(names))
    say(
        f"{counted(len(training), 'example')} of {counted(len(names), 'class', 'classes')} to train on, "
        f"{len(validation):,} to evaluate on{'' if len(validation) else ': --validation names some'}"
    )
    if absent := [name for name, count in zip(names, counts, strict=True) if not count]:
        say(
            f"warning: no example to train on of {counted(len(absent), 'class', 'classes')}, such as {absent[0]!r}"
        )
