"""What a run trains and is evaluated on: found once, then kept in the output folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bit.hyperrule import Resolution, Schedule
from pipeline.console import say
from pipeline.finetune import examples, folder, labels
from pipeline.finetune.examples import Examples, Failed, Input, Scan
from pipeline.finetune.request import Recipe, Request
from pipeline.flags import RequestError
from transforms.elements import Encoded

_SAID_EVERY = 100_000


@dataclass(frozen=True)
class Data:
    """The examples of a run.

    Attributes:
      training, validation: with the input that they are read from.
      window: how many encoded pictures fit into the buffer for shuffling.
      failed: what the pass over the input found unusable.
    """

    names: tuple[str, ...]
    training: Examples
    validation: Examples
    training_input: Input
    validation_input: Input
    recipe: Recipe
    area: float
    window: int
    failed: tuple[Failed, ...]


def inputs(request: Request) -> dict[str, Input]:
    """The shards of --input and, if there is one, of --validation. Writes nothing. Raises BadInput, RequestError."""
    out = {}
    for name, texts in (("input", request.input_texts), ("validation", request.validation)):
        if not texts:
            continue
        listing = request.output / ("inputs.txt" if name == "input" else "inputs-validation.txt")
        found = examples.find(texts, request.input_format, request.read, request.images_per_shard, listing)
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


def find(request: Request, sources: dict[str, Input]) -> Data:
    """What an earlier start of the same request has kept, else one pass over the inputs. Raises RequestError."""
    for source in sources.values():
        if source.listing is not None:
            source.listing_path.write_bytes(source.listing)
    path = request.output / folder.EXAMPLES
    if not path.exists():
        _pass(request, sources)
    parts, about = folder.load_examples(path)
    rule = about["recipe"]
    recipe = Recipe(
        Schedule(rule["warm_up"], tuple(rule["decays"]), rule["end"]),
        Resolution(rule["resize"], rule["crop"]),
        rule["mixup"],
    )
    training_input = sources["input"]
    failed = folder.read_failures(request.output / folder.FAILURES)
    return Data(
        tuple(about["classes"]),
        parts["training"],
        parts["validation"],
        training_input,
        sources.get("validation", training_input),
        recipe,
        about["area"],
        about["window"],
        tuple(failed),
    )


def _pass(request: Request, sources: dict[str, Input]) -> None:
    names = folder.read_names(request.classes) if request.classes else ()
    label_of: Callable[[Encoded], labels.Label] = (
        partial(labels.of_feature, feature=request.label_feature)
        if request.label_feature
        else labels.of_folder
    )
    scans = {name: examples.scan(source, label_of, _tick(source)) for name, source in sources.items()}
    found = scans["input"]
    try:
        classes = labels.classes_of(found.labels, names)
    except labels.BadClasses as error:
        reasons = (
            f"; {len(found.failed)} failed, the first: {found.failed[0].message}" if found.failed else ""
        )
        raise RequestError(f"--input={','.join(request.input_texts)}: {error}{reasons}") from error
    every = examples.renumbered(found, classes)
    held_out = every.held_out < request.validation_share
    training, validation = every.where(~held_out), every.where(held_out)
    failed = [*found.failed]
    if "validation" in scans:
        validation, unknown = _known(scans["validation"], classes, sources["validation"])
        failed += [*scans["validation"].failed, *unknown]
    if not len(training):
        raise RequestError(f"no example is left to train on: --validation_share={request.validation_share}")
    _say_counts(training, validation, classes.names)
    area, image_bytes, sampled = examples.sample(sources["input"], found, request.decode(32))
    if sampled < len(found.sample):
        say(
            f"the resolution follows from {sampled} of {len(found.sample)} pictures: the others could not be decoded"
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
    }
    folder.write_failures(request.output / folder.FAILURES, failed)
    folder.save_examples(
        request.output / folder.EXAMPLES, {"training": training, "validation": validation}, about
    )


def _known(found: Scan, classes: labels.Classes, source: Input) -> tuple[Examples, list[Failed]]:
    """The examples whose labels are classes, and the others as failures."""
    names = {str(label): number for label, number in classes.numbers.items()}
    names |= {name: number for number, name in enumerate(classes.names) if name not in names}
    numbers = {label: names[str(label)] for label in found.labels if str(label) in names}
    every = examples.renumbered(found, labels.Classes(classes.names, numbers))
    unknown = [
        Failed(
            source.shards[shard].name,
            int(position),
            f"{source.shards[shard].name}#{position}",
            "label",
            "unknown_class",
            f"no example of --input has the label {found.labels[number]!r}",
        )
        for shard, position, number, known in zip(
            every.shards, every.positions, found.examples.classes, every.classes >= 0, strict=True
        )
        if not known
    ]
    return every.where(every.classes >= 0), unknown


def _tick(source: Input) -> Callable[[int, int], None]:
    said = [0]

    def tick(shards: int, count: int) -> None:
        if count - said[0] >= _SAID_EVERY:
            said[0] = count
            say(f"looking at the labels: {count:,} examples, shard {shards}/{len(source.shards)}")

    return tick


def _say_counts(training: Examples, validation: Examples, names: tuple[str, ...]) -> None:
    counts = np.bincount(training.classes, minlength=len(names))
    say(
        f"{len(training):,} examples of {len(names):,} classes to train on, {len(validation):,} to evaluate on"
    )
    if absent := [name for name, count in zip(names, counts, strict=True) if not count]:
        say(f"warning: no example to train on of {len(absent)} classes, such as {absent[0]!r}")
