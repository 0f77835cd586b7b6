"""The job's own command-line flags: one row each. What they mean together is the business of `options`."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from bit import outputs
from bit.models import PRECISIONS
from transforms.fetching.settings import FetchSettings
from transforms.imaging.preprocess import Preprocessing
from transforms.sources.finding import AUTO, FORMATS
from transforms.sources.tfrecord import IMAGE_FEATURE

_EPILOG = """\
one example for each kind of input:
  TFRecords     --input='gs://b/train-*.tfrecord.gz' --image_feature=image/encoded --pass_through=image/class/label
  Parquet       --input='data/train-*.parquet' --image_feature=image --pass_through=label      (with the bytes of images)
  WebDataset    --input='data/{00000..00012}.tar' --pass_through=txt,json --key_feature=__key__
  list of URIs  --input=urls.csv --uri_column=url --pass_through=caption      (.txt, .csv, .jsonl, .parquet)
  image files   --input='photos/**.jpg'      or a folder:  --input=photos/

  python -m pipeline.main --runner=DirectRunner --input=... --output=features --model=bit/m-r101x3

Any option of Beam and its runners is accepted too: --direct_num_workers=N works on N shards at once. All is told
on stderr. Exit code: 0 done, 2 wrong request, nothing was started, 3 too many images failed, 1 anything else.
"""


class RequestError(ValueError):
    """The request is wrong; one sentence says what, where and what to do. Exit code 2."""


class Parser(argparse.ArgumentParser):
    """Raises RequestError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; see --help")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _side(text: str) -> int:
    value = _positive(text)
    if value > 8192:
        raise argparse.ArgumentTypeError(f"{text} is more than 8192 pixels")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a time above 0 and below 1,000,000 s")
    return value


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(|B|KiB|MiB|GiB)", text)
    if not match or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512KiB or 64MiB")
    return int(match[1]) << {"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[match[2]]


def _true(text: str) -> bool:
    """A switch with a value, as Flex Templates give it: they can pass no bare flag."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _paths(text: str) -> list[str]:
    """Names, with number ranges such as {00000..00012} written out; as many digits as the first bound has."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if not match:
        return _names(text)
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < _RANGE_MAX:
        raise argparse.ArgumentTypeError(f"{match[0]} is not a range of 1 to {_RANGE_MAX:,} numbers")
    start, end = text.rfind(",", 0, match.start()) + 1, text.find(",", match.end())
    end = len(text) if end < 0 else end
    numbers = (f"{number:0{len(match[1])}d}" for number in range(first, last + 1))
    written = (text[start : match.start()] + number + text[match.end() : end] for number in numbers)
    return _names(text[:start]) + [path for one in written for path in _paths(one)] + _paths(text[end:])


_RANGE_MAX = 1_000_000
_FETCH, _IMAGES = FetchSettings(), Preprocessing()
_KINDS = f"default: by name and first bytes; {', '.join(FORMATS[1:])}"
_SWITCH: dict[str, Any] = {"nargs": "?", "const": True, "default": False, "type": _true, "metavar": "true"}
_COUNT: dict[str, Any] = {"type": _positive, "metavar": "N"}
_LIST: dict[str, Any] = {"type": _names, "metavar": "NAME,..."}

# fmt: off
_FLAGS: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "input": [
        ("--input", {"action": "append", "type": _paths, "metavar": "PATH,..."}, "files, folders, globs, {000..012} ranges"),
        ("--input_format", {"choices": FORMATS, "default": AUTO, "metavar": "KIND"}, _KINDS),
        ("--image_feature", {"default": "", "metavar": "NAME"}, f"holds the image ({IMAGE_FEATURE}; tars: jpg, ...)"),
        ("--uri_column", {"default": "uri", "metavar": "NAME"}, "CSV, JSON lines, Parquet: holds the URI (%(default)s)"),
        ("--key_feature", {"default": "", "metavar": "NAME"}, "feature, column or tar member to use as the key"),
        ("--pass_through", {**_LIST, "default": []}, "features, columns or tar members to copy"),
        ("--split_bytes", {"type": _size, "metavar": "SIZE"}, "cut larger TFRecord files into shards of SIZE (256MiB)"),
        ("--images_per_shard", {**_COUNT, "default": 1000}, "lists, Parquet: rows per shard (%(default)s)"),
    ],
    "output": [
        ("--output", {"metavar": "FOLDER"}, "where features, ledgers, receipts and the manifest go"),
        ("--overwrite", _SWITCH, "drop what is there instead of resuming it"),
        ("--retry_failures", _SWITCH, "try the failures of a finished run again; what works now joins its shard"),
        ("--max_failure_rate", {"type": _rate, "default": 0.5, "metavar": "RATE"}, "more failures: exit 3 (%(default)s)"),
        ("--report_file", {"default": "", "metavar": "PATH"}, "write a summary of the run as JSON"),
        ("--dry_run", _SWITCH, "sample a few images, tell what the job would take, write nothing"),
        ("--price_per_hour", {"type": float, "default": 0.0, "metavar": "PRICE"}, "of a worker; for --dry_run"),
    ],
    "model": [
        ("--model", {"metavar": "NAME"}, "bit/m-r101x3, a TF-Hub handle, .npz or SavedModel; `python -m bit.models` lists"),
        ("--outputs", {**_LIST, "default": ["embedding"]}, f"among {', '.join(outputs.OUTPUTS)} (embedding)"),
        ("--top_k", _COUNT, "classes an image for --outputs=top_k (5)"),
        ("--precision", {"choices": PRECISIONS, "default": "float32"}, "(%(default)s)"),
        ("--image_size", {"type": _side, "metavar": "SIDE"}, "pixels; default: what the model was trained at, or 224"),
        ("--batch_size", {**_COUNT, "default": 32}, "images a model call; 128 suits a GPU (%(default)s)"),
        ("--exif_orientation", {"choices": ("ignore", "apply"), "default": _IMAGES.exif_orientation}, "(%(default)s)"),
        ("--scaled_decoding", _SWITCH, "large JPEGs: up to twice as fast, but other pixels"),
        ("--max_pixels", {**_COUNT, "default": _IMAGES.max_pixels}, "larger: ledger (%(default)s)"),
        ("--decode_threads", _COUNT, "a process; default: one a CPU"),
        ("--decode_timeout", {"type": _seconds, "default": 60.0, "metavar": "SECONDS"}, "an image (%(default)s)"),
    ],
    "fetching images by URI": [
        ("--timeout", {"type": float, "default": _FETCH.timeout_seconds, "metavar": "SECONDS"}, "an image, in all (%(default)s)"),
        ("--retries", {"type": int, "default": _FETCH.retries, "metavar": "N"}, "after a passing error (%(default)s)"),
        ("--max_bytes", {"type": _size, "default": _FETCH.max_bytes, "metavar": "SIZE"}, "of an image file (64MiB)"),
        ("--fetch_threads", {**_COUNT, "default": _FETCH.concurrency}, "a process (%(default)s)"),
        ("--per_host", {**_COUNT, "default": _FETCH.per_host}, "connections to a host (%(default)s)"),
        ("--uri_schemes", {**_LIST, "default": list(_FETCH.uri_schemes)}, "allowed; default: all"),
        ("--allow_private_networks", {**_LIST, "default": [], "metavar": "CIDR,..."}, "else http(s) never goes there"),
        ("--user_agent_contact", {"default": "", "metavar": "TEXT"}, "URL or address for the owners of the servers"),
        ("--no_opt_out", _SWITCH, "fetch also what X-Robots-Tag asks not to use"),
        ("--trust_env_proxies", _SWITCH, "use the proxies of the environment; they see every address"),
    ],
}
# fmt: on


def parser() -> Parser:
    """The parser of the job's own flags."""
    out = Parser(
        prog="python -m pipeline.main",
        description="Reads shards of images, runs a BiT network on them, writes one feature TFRecord a shard.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for title, rows in _FLAGS.items():
        group = out.add_argument_group(title)
        for name, settings, text in rows:
            group.add_argument(name, help=text, **settings)
    return out
