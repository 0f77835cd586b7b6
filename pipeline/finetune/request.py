"""The command line of `python -m pipeline.finetune` -> one frozen Request."""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from bit import models
from bit.hyperrule import (
    BASE_RATE,
    BATCH_SIZE,
    MOMENTUM,
    Resolution,
    Schedule,
    mixup_alpha,
    resolution,
    schedule,
)
from bit.models import Model
from pipeline import flags, options, runners
from pipeline.flags import Parser, RequestError
from transforms.feeding.settings import DecodeSettings
from transforms.imaging.preprocess import Preprocessing
from transforms.sources import patterns
from transforms.sources.base import ReadSettings

PRECISIONS, TRAINED = ("float32", "bfloat16", "float16"), ("all", "last_block", "head")  # of bit.training
_DECODED = 16  # pictures that feeders are given at a time
_EPILOG = """\
an example of each kind of input:
  folders      --input=photos/            (one subfolder per class)
  TFRecords    --input='shards/*.tfrecord' --label_feature=image/class/label
  WebDataset   --input='data/{00000..00012}.tar' --label_feature=cls
  lists        --input=urls.csv --uri_column=url --label_feature=label

What no flag sets follows from the number and the size of the pictures (BiT-HyperRule).
Options of Beam for stores are accepted too, such as --s3_endpoint_url=URL.

exit codes:
  0  done
  1  failed or stopped; the same command goes on from the last checkpoint
  2  the request is wrong, and nothing was started
  3  too many examples cannot be used (--max_failure_rate)
"""
_COUNT: dict[str, Any] = {"type": flags.positive, "metavar": "N"}
# fmt: off
_FLAGS: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "examples": [
        ("--label_feature", {"default": "", "metavar": "NAME"},
         "feature, column or tar member that holds the label, a whole number or a text; NAME:int64, NAME:float or NAME:bytes "
         "sets the type (image files: their folder's name)"),
        ("--classes", {"default": "", "metavar": "FILE"},
         "names of the classes in the order of the logits, one per line (default: sorted, or the numbers)"),
        ("--validation", {"action": "append", "default": [], "metavar": "PATH,..."},
         "examples to evaluate on, of the same kind"),
        ("--validation_share", {"type": flags.rate, "metavar": "SHARE"},
         "share of the input to hold out for evaluation, by a hash of the key (default: 0.1 without --validation)"),
        ("--cache", flags.SWITCH, "keep the decoded pictures in memory"),
        ("--shuffle_buffer", {"type": flags.size, "default": 1 << 30, "metavar": "SIZE"},
         "memory for encoded pictures; a larger input is shuffled within it, not completely (default: 1GiB)"),
    ],
    "training": [
        ("--train", {"choices": TRAINED, "default": "all"}, "which layers to train (default: %(default)s)"),
        ("--precision", {"choices": PRECISIONS, "default": "float32"},
         "number format of the convolutions; weights are kept in float32 (default: %(default)s)"),
        ("--batch_size", {**_COUNT, "default": BATCH_SIZE}, "pictures per update (default: %(default)s)"),
        ("--micro_batch", {**_COUNT, "default": 16},
         "pictures that the device holds at a time; halved where memory runs out (default: %(default)s)"),
        ("--base_rate", {"type": float, "default": BASE_RATE, "metavar": "RATE"},
         "learning rate between warm-up and first decay (default: %(default)s)"),
        ("--scale_rate", flags.SWITCH, f"multiply --base_rate by --batch_size / {BATCH_SIZE}"),
        ("--momentum", {"type": flags.rate, "default": MOMENTUM, "metavar": "SHARE"}, "below 1 (default: %(default)s)"),
        ("--steps", {**_COUNT, "default": 0},
         "updates; the schedule is shortened or stretched to it (default: 500, 10,000 or 20,000 by the number of examples)"),
        ("--warm_up", {"type": int, "metavar": "N"}, "updates in which the rate rises, up to the first of --decays"),
        ("--decays", {**flags.LIST, "metavar": "N,..."}, "updates after which the rate is divided by ten"),
        ("--mixup", {"type": flags.rate, "metavar": "ALPHA"}, "0: none (default: 0.1 from 20,000 examples on)"),
        ("--resize", {"type": flags.side, "metavar": "SIDE"},
         "side to which pictures are resized before a crop (default: 160 if they are small, else 512)"),
        ("--crop", {"type": flags.side, "metavar": "SIDE"},
         "side of the network's input, in training and later (default: 128 if pictures are small, else 480)"),
        ("--no_flip", flags.SWITCH, "mirror no picture: for digits, text, left and right"),
        ("--seed", {"type": int, "default": 0, "metavar": "N"}, "of order, crops, flips and MixUp (default: %(default)s)"),
        ("--deterministic", flags.SWITCH, "the same bytes from the same command: slower, on one kind of device"),
    ],
    "output": [
        ("--output", {"metavar": "FOLDER"}, "new local folder, or that of the same request, which goes on (required)"),
        ("--evaluate_every", {**_COUNT, "default": 0}, "updates between evaluations (default: a tenth of all)"),
        ("--checkpoint_minutes", {"type": float, "default": 5.0, "metavar": "MINUTES"},
         "time between checkpoints (default: %(default)g)"),
    ],
}
# fmt: on
_INPUT = (
    "--input",
    "--input_format",
    "--image_feature",
    "--uri_column",
    "--key_feature",
    "--images_per_shard",
)
_IMAGES = (
    "--exif_orientation",
    "--max_pixels",
    "--decode_processes",
    "--decode_timeout",
    "--max_failure_rate",
)


@dataclass(frozen=True)
class Request:
    """One training run. `None` and 0 stand for what the HyperRule says."""

    input_texts: tuple[str, ...]  # the values of --input
    validation: tuple[str, ...]  # those of --validation
    validation_share: float
    input_format: str
    images_per_shard: int | None
    label_feature: str
    classes: str
    read: ReadSettings
    preprocessing: Preprocessing
    decode_processes: int
    decode_timeout: float
    model: Model
    offline: bool
    output: Path
    cache: bool
    shuffle_buffer: int
    train: str
    precision: str
    batch_size: int
    micro_batch: int
    base_rate: float
    momentum: float
    steps: int
    warm_up: int | None
    decays: tuple[int, ...] | None
    mixup: float | None
    resize: int | None
    crop: int | None
    no_flip: bool
    seed: int
    deterministic: bool
    evaluate_every: int
    checkpoint_minutes: float
    max_failure_rate: float

    @property
    def paths(self) -> tuple[str, ...]:
        """What a run reads, for its stores."""
        texts = (*self.input_texts, *self.validation)
        model = () if self.offline else (self.model.uri,)
        return (*(path for text in texts for path in patterns.expand(text)), *model)

    def decode(self, side: int, batch_size: int = _DECODED) -> DecodeSettings:
        """How pictures become pixels of this side."""
        pixels = replace(self.preprocessing, image_size=side)
        return DecodeSettings(pixels, batch_size, self.decode_processes, self.decode_timeout)

    def recipe(self, examples: int, area: float) -> Recipe:
        """What the HyperRule says for so many training examples of this median area, where no flag says otherwise.

        Raises RequestError if --warm_up or --decays do not fit into it."""
        rule = self._schedule(schedule(examples))
        sides = resolution(area)
        crop = self.crop or (min(sides.crop, self.resize) if self.resize else sides.crop)
        resize = self.resize or round(crop * sides.resize / sides.crop)
        alpha = mixup_alpha(examples) if self.mixup is None else self.mixup
        return Recipe(rule, Resolution(resize, crop), alpha)

    def _schedule(self, rule: Schedule) -> Schedule:
        """The schedule with what the flags set, each of which must lie in its range. Raises RequestError."""
        rule = rule.scaled_to(self.steps) if self.steps else rule
        warm_up = rule.warm_up if self.warm_up is None else self.warm_up
        decays = rule.decays if self.decays is None else self.decays
        if self.decays is not None:
            text = f"--decays={','.join(map(str, decays))}"
            if any(later <= earlier for earlier, later in itertools.pairwise(decays)):
                raise RequestError(f"{text}: these numbers of updates do not ascend")
            if decays and not 1 <= decays[0] <= decays[-1] < rule.end:
                raise RequestError(
                    f"{text}: not numbers of updates from 1 to {rule.end - 1}; there are {rule.end}"
                )
        if self.warm_up is not None and not 0 <= warm_up <= rule.end:
            raise RequestError(f"--warm_up={warm_up} is not a number of updates from 0 to {rule.end}")
        is_set = self.warm_up is not None or self.decays is not None
        if is_set and decays and warm_up > decays[0]:
            raise RequestError(
                f"the rate rises for {warm_up} updates, but decays after {decays[0]} already: set both --warm_up and --decays, "
                "so that the warm-up ends first"
            )
        return Schedule(warm_up, decays, rule.end)

    def check(self) -> None:
        """Raises RequestError if a value is out of its range, as far as that does not depend on the input."""
        self._schedule(Schedule(0, (), self.steps or schedule(sys.maxsize).end))
        if not self.momentum < 1:
            raise RequestError(f"--momentum={self.momentum} is not a share from 0 to below 1")
        if not 0 <= self.checkpoint_minutes < math.inf:
            raise RequestError(
                f"--checkpoint_minutes={self.checkpoint_minutes} is not a time of 0 minutes or more"
            )
        if not 0 <= self.seed < 1 << 63:
            raise RequestError(f"--seed={self.seed} is not a number from 0 to 2^63 - 1")
        if self.crop and self.resize and self.crop > self.resize:
            raise RequestError(
                f"--crop={self.crop} is more than --resize={self.resize}: crops are cut out of resized pictures"
            )


@dataclass(frozen=True)
class Recipe:
    """What the BiT-HyperRule decides."""

    schedule: Schedule
    resolution: Resolution
    mixup_alpha: float


def parser() -> Parser:
    """The parser of all flags."""
    out = Parser(
        prog="python -m pipeline.finetune",
        usage="%(prog)s --input=PATH --label_feature=NAME --model=NAME --output=FOLDER [flags]",
        description="Fine-tunes a model of the family on labelled pictures by the BiT-HyperRule.",
        epilog=_EPILOG,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=29),
        allow_abbrev=False,
    )
    group = out.add_argument_group("input")
    flags.add(group, (*_INPUT, *_IMAGES))
    for title, rows in _FLAGS.items():
        group = out.add_argument_group(title)
        for name, settings, text in rows:
            group.add_argument(name, help=text, **settings)
        if title == "training":
            group.add_argument(
                "--model",
                metavar="NAME",
                help="bit/m-r101x3 or another name, or an .npz or .safetensors file (required)",
            )
            flags.add(group, ["--offline"])
    flags.add(out.add_argument_group("fetching images by URI"), flags.group_names("fetching images by URI"))
    return out


def parse(argv: Sequence[str]) -> tuple[Request, PipelineOptions]:
    """Parses a command line: the request, and Beam's options, for stores. Raises RequestError if it is wrong."""
    own = parser()
    given, rest = own.parse_known_args(list(argv))
    beam_options = options.of_beam(rest, own)
    if (runner := runners.name_of(beam_options)) != runners.LOCAL:
        raise RequestError(f"--runner={runner}: training runs in this process; omit --runner")
    missing = [name for name in ("input", "output", "model") if not getattr(given, name)]
    if missing:
        raise RequestError(f"missing --{' and --'.join(missing)}; see --help")
    try:
        model = models.resolve(given.model)
    except (models.UnknownModel, models.UnusableModel) as error:
        raise RequestError(str(error)) from error
    if model.kind == "saved_model":
        raise RequestError(
            f"--model={given.model} is a SavedModel: training starts from a checkpoint, such as bit/m-r101x3 or the weights.npz "
            "of an earlier run"
        )
    if "://" in given.output:
        raise RequestError(
            f"--output={given.output} is not a local folder: give one, and copy the result from there"
        )
    try:
        decays = None if given.decays is None else tuple(int(step) for step in given.decays)
    except ValueError as error:
        raise RequestError(f"--decays={','.join(given.decays)} are not whole numbers; see --help") from error
    inputs, validation = options.input_texts(given.input), options.input_texts(given.validation)
    if not inputs:
        raise RequestError("missing --input; see --help")
    if validation and given.validation_share:
        raise RequestError("--validation and --validation_share exclude each other: leave one out")
    share = given.validation_share if given.validation_share is not None else 0.0 if validation else 0.1
    rate = given.base_rate * (given.batch_size / BATCH_SIZE if given.scale_rate else 1)
    if not 0 < rate < 100:
        scaled = f", by --scale_rate {rate:g}," if given.scale_rate else ""
        raise RequestError(
            f"--base_rate={given.base_rate:g}{scaled} is not a learning rate above 0 and below 100"
        )
    read = options.read_settings(given, _DECODED, [given.label_feature] if given.label_feature else [])
    same = {name: value for name, value in vars(given).items() if name in Request.__dataclass_fields__}
    values: dict[str, Any] = {
        **same,
        "input_texts": inputs,
        "validation": validation,
        "validation_share": share,
        "label_feature": read.pass_through[0] if read.pass_through else "",
        "classes": options.path(given.classes),
        "read": read,
        "preprocessing": options.preprocessing(given, model),
        "decode_processes": given.decode_processes or 0,
        "model": model,
        "output": Path(options.folder("--output", given.output)),
        "micro_batch": min(given.micro_batch, given.batch_size),
        "base_rate": rate,
        "decays": decays,
    }
    request = Request(**values)
    request.check()
    return request, beam_options
