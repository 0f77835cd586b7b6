"""The job's own command-line flags, one row each. `options` checks how they fit together."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from bit import outputs
from bit.models import PRECISIONS
from bit.tuned import ORIENTATIONS
from transforms.fetching.settings import FetchSettings
from transforms.imaging.preprocess import Preprocessing
from transforms.sources.finding import AUTO, FORMATS
from transforms.sources.tfrecord import IMAGE_FEATURE

_EPILOG = """\
an example of each kind of input:
  TFRecords    --input='shards/*.tfrecord' --pass_through=image/class/label
  WebDataset   --input='data/{00000..00012}.tar' --pass_through=txt,json
  Parquet      --input='data/train-*.parquet' --image_feature=image
  URI list     --input=urls.csv --uri_column=url --pass_through=caption
  image files  --input=photos/   or   --input='photos/**.jpg'

a complete command:
  python -m pipeline.main --runner=DirectRunner --model=bit/m-r101x3 \\
    --input='gs://bucket/train-*.tfrecord' --output=gs://bucket/features

again, with the flags that the output keeps of its request:
  python -m pipeline.main --output=FOLDER [--retry_failures]

Flags that take a list, such as --pass_through=NAME,..., may be given several
times: their values add up.

Options of Beam and its runners are accepted too: with DirectRunner,
--direct_num_workers=4 processes 4 shards at once. All messages go to stderr.

exit codes:
  0  done
  1  failed or stopped; the same command resumes it
  2  the request is wrong, and nothing was started
  3  finished, but too many images failed (--max_failure_rate)
"""


class RequestError(ValueError):
    """The request is wrong; the message says what, where and what to do. Exit code 2."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises RequestError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for whatever it cannot parse."""
        raise RequestError(f"{message}; see --help")


def positive(text: str) -> int:
    """The value of a flag that counts something."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def side(text: str) -> int:
    """Pixels per side of a picture. Raises ArgumentTypeError, as the others do."""
    value = positive(text)
    if value > 8192:
        raise argparse.ArgumentTypeError(f"{text} is more than 8192 pixels")
    return value


def rate(text: str) -> float:
    """A share of 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a time above 0 and below 1,000,000 s")
    return value


def size(text: str) -> int:
    """Bytes, as in 512KiB."""
    match = re.fullmatch(r"(\d+)\s*(|B|KiB|MiB|GiB)", text)
    if not match or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512KiB or 64MiB")
    return int(match[1]) << {"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[match[2]]


def _true(text: str) -> bool:
    """The value of a switch: a Flex Template cannot pass a flag without one."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def names(text: str) -> list[str]:
    """Names between commas."""
    return [name for name in text.split(",") if name]


class _Listed(argparse.Action):
    """Adds up the names of a flag that is given several times; the first replaces the default.

    argparse's "extend" would add to the default, and to what an output keeps of its request."""

    def __call__(self, parser, namespace, values, option_string=None):
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


# What a request keeps of itself in its output: the flags that decide what the output holds, and how sites are asked.
KEPT = (
    "input", "input_format", "image_feature", "uri_column", "key_feature", "pass_through", "split_bytes",
    "images_per_shard", "skip_done",
    "model", "outputs", "outputs_map", "top_k", "precision", "image_size", "batch_size", "exif_orientation",
    "scaled_decoding", "max_pixels", "decode_timeout", "timeout", "retries", "max_bytes", "per_host", "uri_schemes",
    "allow_private_networks", "user_agent_contact", "no_opt_out", "trust_env_proxies",
)  # fmt: skip
_FETCH, _IMAGES = FetchSettings(), Preprocessing()
SWITCH: dict[str, Any] = {
    "nargs": "?",
    "const": True,
    "default": False,
    "type": _true,
    "metavar": "true|false",
}
_COUNT: dict[str, Any] = {"type": positive, "metavar": "N"}
LIST: dict[str, Any] = {"action": _Listed, "type": names, "metavar": "NAME,..."}

# fmt: off
_FLAGS: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "input": [
        ("--input", {"action": "append", "metavar": "PATH,..."},
         "TFRecords, WebDataset tars, Parquet files with images, lists of URIs (.txt, .csv, .tsv, .jsonl, .parquet) or "
         "image files: paths, folders, globs, {00..12} ranges (required)"),
        ("--input_format", {"choices": FORMATS, "default": AUTO, "metavar": "KIND"},
         f"{', '.join(FORMATS[1:])} (default: {AUTO}, by name and first bytes)"),
        ("--image_feature", {"default": "", "metavar": "NAME"},
         "feature, column or tar member that holds the image (default: in TFRecords "
         f"{IMAGE_FEATURE}, in Parquet the only column of images, in tars the first image)"),
        ("--uri_column", {"default": "uri", "metavar": "NAME"},
         "column of a CSV, JSON Lines or Parquet list that holds the URI (default: %(default)s)"),
        ("--key_feature", {"default": "", "metavar": "NAME"},
         "feature, column or tar member to use as the record's key (default: the image's URI, file#position, or "
         "file#key in tars)"),
        ("--pass_through", {**LIST, "default": []},
         "features, columns or tar members to copy to the output; NAME:int64, NAME:float or NAME:bytes sets the type"),
        ("--split_bytes", {"type": size, "metavar": "SIZE"},
         "cut uncompressed TFRecord files into shards of SIZE, such as 256MiB (default: one per file)"),
        ("--images_per_shard", _COUNT,
         "images per shard of lists, image files and Parquet (default: whole batches that give about 200 shards, at "
         "most 1024 images each; a resumed output keeps its shards)"),
        ("--skip_done", {**LIST, "default": [], "metavar": "FOLDER,..."},
         "for an input that grows: leave out what these finished outputs hold; also globs of them, such as features/*"),
    ],
    "output": [
        ("--output", {"metavar": "FOLDER"},
         "folder for features, failure ledgers, receipts and manifest; an unfinished run is resumed "
         "(required, except with --dry_run)"),
        ("--overwrite", SWITCH, "delete earlier output instead of resuming it"),
        ("--retry_failures", SWITCH,
         "retry the failed images of a finished run; those that succeed are added to their shards"),
        ("--max_failure_rate", {"type": rate, "default": 0.5, "metavar": "RATE"},
         "exit with 3 if a larger share of the images failed, 0 to 1 (default: %(default)s)"),
        ("--report_file", {"default": "", "metavar": "PATH"}, "write a summary of the run to PATH, as JSON"),
        ("--dry_run", SWITCH, "sample a few images, estimate the time and size of the job, and write no output"),
        ("--price_per_hour", {"type": float, "default": 0.0, "metavar": "PRICE"},
         "price of a worker per hour, in any currency: --dry_run then estimates the cost"),
    ],
    "model": [
        ("--model", {"metavar": "NAME"},
         "bit/m-r101x3 or another name that `python -m bit.models` lists, its name on TF-Hub, Kaggle or timm, or the path "
         "of an .npz file or SavedModel (required)"),
        ("--offline", SWITCH, "take the model only from this machine's cache or disk, and never ask the network for it"),
        ("--outputs", {**LIST, "default": ["embedding"]},
         f"one or more of {', '.join(outputs.OUTPUTS)} (default: embedding)"),
        ("--top_k", _COUNT, "--outputs=top_k: classes per image (default: 5, or all if there are fewer)"),
        ("--outputs_map", {**LIST, "default": [], "metavar": "OURS=NAME,..."},
         "what the outputs of a SavedModel from elsewhere are, such as logits=dense_1 (default: known by their names)"),
        ("--precision", {"choices": PRECISIONS, "default": "float32"},
         "number format of the network: on GPUs, bfloat16 (T4, V100: float16) is faster and less exact "
         "(default: %(default)s)"),
        ("--image_size", {"type": side, "metavar": "SIDE"},
         "side of the square model input, in pixels (default: what the model was trained or tuned at, or 224)"),
        ("--batch_size", {**_COUNT, "default": 32}, "images per model call; 128 suits a GPU (default: %(default)s)"),
        ("--exif_orientation", {"choices": ORIENTATIONS},
         "whether to rotate images as their EXIF orientation says (default: as a tuned model says, or "
         f"{_IMAGES.exif_orientation})"),
        ("--scaled_decoding", SWITCH,
         "decode large JPEGs at reduced size: up to twice as fast, with slightly different pixels"),
        ("--max_pixels", {**_COUNT, "default": _IMAGES.max_pixels},
         "refuse images of more than N pixels; they are recorded as failures (default: %(default)s)"),
        ("--decode_processes", _COUNT,
         "decoding processes beside each process with a model (default: one per CPU that it may use)"),
        ("--decode_timeout", {"type": _seconds, "default": 60.0, "metavar": "SECONDS"},
         "time limit for decoding one image; slower ones are recorded as failures (default: %(default)g)"),
    ],
    "fetching images by URI": [
        ("--timeout", {"type": float, "default": _FETCH.timeout_seconds, "metavar": "SECONDS"},
         "time limit for fetching one image, with all retries (default: %(default)g)"),
        ("--retries", {"type": int, "default": _FETCH.retries, "metavar": "N"},
         "retries per request after a transient error (default: %(default)s)"),
        ("--max_bytes", {"type": size, "default": _FETCH.max_bytes, "metavar": "SIZE"},
         "refuse larger image files; they are recorded as failures (default: 64MiB)"),
        ("--fetch_threads", {**_COUNT, "default": _FETCH.concurrency},
         "images fetched at once per process (default: %(default)s)"),
        ("--per_host", {**_COUNT, "default": _FETCH.per_host},
         "images fetched at once from one http(s) host, per process (default: %(default)s)"),
        ("--uri_schemes", {**LIST, "default": list(_FETCH.uri_schemes)},
         f"schemes that may be fetched (default: {','.join(_FETCH.uri_schemes)})"),
        ("--allow_private_networks", {**LIST, "default": [], "metavar": "CIDR,..."},
         "private networks that http(s) may reach, such as 10.0.0.0/8 (default: none)"),
        ("--user_agent_contact", {"default": "", "metavar": "TEXT"},
         "URL or mail address to send in the User-Agent, for site owners"),
        ("--no_opt_out", SWITCH, "also fetch images whose X-Robots-Tag header opts out of such use"),
        ("--trust_env_proxies", SWITCH, "use the proxies set in the environment; they see all URLs"),
    ],
}
# fmt: on


def add(to: argparse._ActionsContainer, names: Iterable[str]) -> None:
    """Adds flags of the job to another command's parser, with their texts and defaults."""
    rows = {row[0]: row for group in _FLAGS.values() for row in group}
    for name, settings, text in (rows[name] for name in names):
        to.add_argument(name, help=text, **settings)


def group_names(title: str) -> list[str]:
    """The names of the flags of a group of the help text."""
    return [name for name, _, _ in _FLAGS[title]]


def parser() -> Parser:
    """The parser of the job's own flags."""
    flags = Parser(
        prog="python -m pipeline.main",
        usage="%(prog)s --input=PATH --output=FOLDER --model=NAME [flags]",
        description="Turns shards of images into TFRecord files of BiT features, one file per shard.",
        epilog=_EPILOG,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=29),
        allow_abbrev=False,
    )
    for title in _FLAGS:
        add_group(flags, title)
    return flags


MODEL, FETCHING = "model", "fetching images by URI"


def add_group(flags: argparse.ArgumentParser, title: str) -> None:
    """Adds the flags of one group, for another command that shares it."""
    group = flags.add_argument_group(title)
    for name, settings, text in _FLAGS[title]:
        group.add_argument(name, help=text, **settings)
