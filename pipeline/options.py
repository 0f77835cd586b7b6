"""Command-line flags -> one frozen JobConfig and Beam's own options. Nothing here starts or reads anything."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, _BeamArgumentParser

from bit import models, outputs
from transforms import records
from transforms.decode import DecodeSettings
from transforms.fetch import FetchSettings
from transforms.images import Preprocessing
from transforms.infer import ModelSettings
from transforms.read import ReadSettings

INPUT_FORMATS = ("auto", "tfrecord", "txt", "csv", "jsonl", "parquet", "images")
PRECISIONS = ("float32", "tensorfloat32", "bfloat16", "float16")
# Runners that take flags of a job server which this process cannot know.
_PORTABLE = ("flinkrunner", "sparkrunner", "portablerunner")

_EPILOG = """\
one example for each kind of input:
  TFRecords     --input='gs://b/train-*.tfrecord.gz' --image_feature=image/encoded --pass_through=image/class/label
  list of URIs  --input=urls.csv --uri_column=url --pass_through=caption      (.txt, .csv, .jsonl, .parquet)
  image files   --input='photos/**.jpg'      or a folder:  --input=photos/

  python -m pipeline.main --runner=DirectRunner --input=... --output=features --model=bit/m-r101x3

Any option of Beam and its runners is accepted too. Exit code: 0 done, 2 the request is wrong and nothing was
started, 3 finished but too many images failed, 1 anything else. Everything is reported on stderr.
"""


class RequestError(ValueError):
    """The request is wrong; one sentence says what, where and what to do. Exit code 2."""


@dataclass(frozen=True)
class JobConfig:
    """One run of the job, as asked for."""

    inputs: tuple[str, ...]
    input_format: str
    images_per_shard: int
    output: str
    overwrite: bool
    max_failure_rate: float
    report_file: str
    read: ReadSettings
    decode: DecodeSettings
    model: ModelSettings

    @property
    def preprocessing(self) -> Preprocessing:
        return self.decode.preprocessing


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; see --help")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(|B|KiB|MiB|GiB)", text)
    if not match or int(match[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512KiB or 64MiB")
    return int(match[1]) << {"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30}[match[2]]


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def parser() -> argparse.ArgumentParser:
    """The parser of our own flags."""
    fetch, preprocessing = FetchSettings(), Preprocessing()
    out = _Parser(
        prog="python -m pipeline.main",
        description="Reads shards of images, runs a BiT network on them, writes one feature TFRecord a shard.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    group = out.add_argument_group("input")
    add = group.add_argument
    add(
        "--input",
        action="append",
        type=_names,
        metavar="PATH,...",
        help="globs, files or a folder; may be repeated",
    )
    add("--input_format", choices=INPUT_FORMATS, default="auto", help="default: by name and first bytes")
    add(
        "--image_feature",
        default="image/encoded",
        metavar="NAME",
        help="TFRecords: holds the image (%(default)s)",
    )
    add(
        "--uri_column",
        default="uri",
        metavar="NAME",
        help="CSV, JSON lines, Parquet: holds the URI (%(default)s)",
    )
    add("--key_feature", default="", metavar="NAME", help="feature or column to use as the record's key")
    add("--pass_through", type=_names, default=[], metavar="NAME,...", help="features or columns to copy")
    add(
        "--images_per_shard",
        type=_positive,
        default=1000,
        metavar="N",
        help="lists: rows a shard (%(default)s)",
    )
    group = out.add_argument_group("output")
    add = group.add_argument
    add("--output", metavar="FOLDER", help="where features, ledgers, receipts and the manifest go")
    add("--overwrite", action="store_true", help="drop what is there instead of resuming it")
    add(
        "--max_failure_rate",
        type=_rate,
        default=0.5,
        metavar="RATE",
        help="more failures: exit 3 (%(default)s)",
    )
    add("--report_file", default="", metavar="PATH", help="write a summary of the run as JSON")
    group = out.add_argument_group("model")
    add = group.add_argument
    add(
        "--model",
        metavar="NAME",
        help="bit/m-r101x3, a TF-Hub handle, .npz or SavedModel; `python -m bit.models` lists",
    )
    add(
        "--outputs",
        type=_names,
        default=["embedding"],
        metavar="NAME,...",
        help=f"among {', '.join(outputs.OUTPUTS)} (embedding)",
    )
    add("--top_k", type=_positive, metavar="N", help="classes an image for --outputs=top_k (5)")
    add("--precision", choices=PRECISIONS, default="float32", help="(%(default)s)")
    add(
        "--image_size",
        type=_positive,
        metavar="SIDE",
        help="pixels; default: what the model was trained at, or 224",
    )
    add(
        "--batch_size",
        type=_positive,
        default=32,
        metavar="N",
        help="images a model call; 128 suits a GPU (%(default)s)",
    )
    add(
        "--exif_orientation",
        choices=("ignore", "apply"),
        default=preprocessing.exif_orientation,
        help="(%(default)s)",
    )
    add(
        "--max_pixels",
        type=_positive,
        default=preprocessing.max_pixels,
        metavar="N",
        help="larger: ledger (%(default)s)",
    )
    add("--decode_threads", type=_positive, metavar="N", help="a process; default: one a CPU")
    group = out.add_argument_group("fetching images by URI")
    add = group.add_argument
    add(
        "--timeout",
        type=float,
        default=fetch.timeout_seconds,
        metavar="SECONDS",
        help="an image, in all (%(default)s)",
    )
    add("--retries", type=int, default=fetch.retries, metavar="N", help="after a passing error (%(default)s)")
    add("--max_bytes", type=_size, default=fetch.max_bytes, metavar="SIZE", help="of an image file (64MiB)")
    add(
        "--fetch_threads",
        type=_positive,
        default=fetch.concurrency,
        metavar="N",
        help="a process (%(default)s)",
    )
    add(
        "--per_host",
        type=_positive,
        default=fetch.per_host,
        metavar="N",
        help="connections to a host (%(default)s)",
    )
    add(
        "--uri_schemes",
        type=_names,
        default=list(fetch.uri_schemes),
        metavar="NAME,...",
        help="allowed; default: all",
    )
    add(
        "--allow_private_networks",
        type=_names,
        default=[],
        metavar="CIDR,...",
        help="else http(s) never goes there",
    )
    add(
        "--user_agent_contact",
        default="",
        metavar="TEXT",
        help="URL or address for the owners of the servers",
    )
    add("--no_opt_out", action="store_true", help="fetch also what X-Robots-Tag asks not to use")
    add(
        "--trust_env_proxies",
        action="store_true",
        help="use the proxies of the environment; they see every address",
    )
    return out


def parse(argv: Sequence[str]) -> tuple[JobConfig, PipelineOptions]:
    """Parses a command line. Raises RequestError for what it cannot mean."""
    flags, rest = parser().parse_known_args(list(argv))
    beam_options = PipelineOptions(_known_to_beam(rest))
    missing = [name for name in ("input", "output", "model") if not getattr(flags, name)]
    if missing:
        raise RequestError(f"--{' and --'.join(missing)} must be given; see --help")
    try:
        model = models.resolve(flags.model)
        asked, top_k = outputs.in_order(flags.outputs), flags.top_k or 5
        outputs.check(model, asked, top_k, outputs.classes(model))
    except (models.UnknownModel, models.UnusableModel) as error:
        raise RequestError(str(error)) from error
    if flags.top_k and "top_k" not in asked:
        raise RequestError(
            f"--top_k={flags.top_k} says how many classes --outputs=top_k gives: ask for that too"
        )
    reserved = sorted(set(flags.pass_through) & {*records.STANDARD, *outputs.features(asked)})
    if reserved:
        raise RequestError(
            f"--pass_through={','.join(reserved)}: the feature records use this name themselves"
        )
    image_size = flags.image_size or model.image_size
    fetch = FetchSettings(
        timeout_seconds=flags.timeout,
        retries=flags.retries,
        max_bytes=flags.max_bytes,
        concurrency=flags.fetch_threads,
        per_host=flags.per_host,
        uri_schemes=tuple(flags.uri_schemes),
        allow_private_networks=tuple(flags.allow_private_networks),
        user_agent_contact=flags.user_agent_contact,
        honour_opt_out=not flags.no_opt_out,
        trust_env_proxies=flags.trust_env_proxies,
    )
    preprocessing = Preprocessing(
        image_size=image_size, exif_orientation=flags.exif_orientation, max_pixels=flags.max_pixels
    )
    config = JobConfig(
        inputs=tuple(pattern for group in flags.input for pattern in group),
        input_format=flags.input_format,
        images_per_shard=flags.images_per_shard,
        output=flags.output.rstrip("/") or "/",
        overwrite=flags.overwrite,
        max_failure_rate=flags.max_failure_rate,
        report_file=flags.report_file,
        read=ReadSettings(
            flags.batch_size,
            flags.image_feature,
            flags.key_feature,
            flags.uri_column,
            tuple(flags.pass_through),
            fetch,
        ),
        decode=DecodeSettings(preprocessing, flags.batch_size, flags.decode_threads or 0),
        model=ModelSettings(model, image_size, flags.batch_size, flags.precision, asked, top_k),
    )
    return config, beam_options


def report_file(argv: Sequence[str]) -> str:
    """The value of --report_file, also in a command line that is wrong elsewhere."""
    finder = _Parser(add_help=False, allow_abbrev=False)
    finder.add_argument("--report_file", default="")
    try:
        return finder.parse_known_args(list(argv))[0].report_file
    except RequestError:
        return ""


def runner_name(beam_options: PipelineOptions) -> str:
    """The engine that runs the job. DirectRunner and no runner at all mean Beam's in-process FnApiRunner.

    Beam's own DirectRunner would first try to download another engine.
    """
    asked = beam_options.view_as(StandardOptions).runner or "DirectRunner"
    return (
        "FnApiRunner" if asked.lower() in ("directrunner", "fnapirunner", "switchingdirectrunner") else asked
    )


def _beam_parser() -> argparse.ArgumentParser:
    out = _BeamArgumentParser(allow_abbrev=False)
    for subclass in {str(c): c for c in PipelineOptions.__subclasses__()}.values():
        subclass._add_argparse_args(out)
    return out


def _known_to_beam(rest: list[str]) -> list[str]:
    """`rest` as it is, if Beam or the chosen runner can know each flag; else RequestError with the nearest flag."""
    theirs = _beam_parser()
    _, unknown = theirs.parse_known_args(rest)
    if not unknown:
        return rest
    flag = unknown[0].split("=")[0]
    ours = [option for option in parser()._option_string_actions if option.startswith("--")]
    nearest = difflib.get_close_matches(flag, ours, n=1, cutoff=0.75)
    portable = any(part.split("=")[-1].lower() in _PORTABLE for part in rest)
    if portable and flag.startswith("--") and not nearest:
        return rest
    nearest = nearest or difflib.get_close_matches(
        flag, ours + list(theirs._option_string_actions), n=1, cutoff=0.5
    )
    hint = f"; did you mean {nearest[0]}?" if nearest else "; see --help"
    what = f"no flag {flag}" if flag.startswith("-") else f"{flag!r} is not a flag"
    raise RequestError(f"{what}{hint}")
