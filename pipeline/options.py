"""Command line -> one frozen JobConfig and Beam's own options. Starts nothing."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser

from bit import home, models, outputs
from bit.models import Model
from pipeline import runners
from pipeline.flags import KEPT, Parser, RequestError, parser
from transforms.feeding.settings import DecodeSettings
from transforms.fetching.settings import FetchSettings
from transforms.imaging.preprocess import Preprocessing
from transforms.infer import ModelSettings
from transforms.records import features, values
from transforms.sources import patterns
from transforms.sources.base import ReadSettings
from transforms.sources.tfrecord import IMAGE_FEATURE
from transforms.storage import door
from transforms.storage.other import OTHER

_RENAMED = {"--decode_threads": "--decode_processes"}


@dataclass(frozen=True)
class JobConfig:
    """The request for one run of the job."""

    input_texts: tuple[str, ...]  # the values of --input
    input_format: str
    images_per_shard: int | None
    split_bytes: int | None
    skip_done: tuple[str, ...]  # outputs, and globs of them, whose inputs are left out
    output: str
    overwrite: bool
    retry_failures: bool
    max_failure_rate: float
    report_file: str
    dry_run: bool
    price_per_hour: float  # of a worker, in any currency; 0 if unknown
    read: ReadSettings
    decode: DecodeSettings
    model: ModelSettings
    flags: Mapping[str, Any]  # those that are kept with the output, as they were given
    unset: frozenset[str] = (
        frozenset()
    )  # of image_size, exif_orientation, top_k: what no flag sets, so the model's own files may

    @property
    def inputs(self) -> tuple[str, ...]:
        """The patterns of --input, if each comma separates two of them."""
        return tuple(pattern for text in self.input_texts for pattern in patterns.expand(text))

    @property
    def preprocessing(self) -> Preprocessing:
        """How bytes become pixels; part of the fingerprint."""
        return self.decode.preprocessing

    @property
    def schema(self) -> dict[str, Any]:
        """What of the input the records hold; part of the fingerprint."""
        return {
            "image_feature": self.read.image_feature or IMAGE_FEATURE,
            "uri_column": self.read.uri_column,
            "key_feature": self.read.key_feature,
            "pass_through": list(self.read.pass_through),
        }


DIRECTORY = "working_directory"  # what relative paths of a kept request are relative to
# The flags of the request that made an output, by name, and its DIRECTORY. Raises RequestError.
Kept = Callable[[str, PipelineOptions], Mapping[str, Any]]


def parse(argv: Sequence[str], kept: Kept | None = None) -> tuple[JobConfig, PipelineOptions]:
    """Parses a command line. Raises RequestError if it is wrong.

    A command that names an output, and neither input nor model, repeats the request that `kept` returns, as far as its own
    flags do not say otherwise."""
    flags, rest = parser().parse_known_args(list(argv))
    beam_options = of_beam(rest, parser())
    if kept and flags.output and not flags.input and not flags.model:
        values = dict(kept(folder("--output", flags.output), beam_options))
        texts, directory = values.pop("input"), values.pop(DIRECTORY, "")
        repeated = parser()
        repeated.set_defaults(**values)
        flags, _ = repeated.parse_known_args(list(argv))
        flags.input = texts
        if directory and directory != os.getcwd():
            flags.output = _absolute(flags.output)
            _work_in(directory, flags.output)
    flags.input = [text for text in flags.input or [] if text.strip(",")]
    if flags.dry_run and not flags.output:
        flags.output = _nowhere()
    missing = [name for name in ("input", "output", "model") if not getattr(flags, name)]
    if missing:
        alone = "; a command with --output and neither of --input and --model repeats the request that made that output"
        hint = alone if kept and flags.output else ""
        raise RequestError(f"missing --{' and --'.join(missing)}{hint}; see --help")
    try:
        model = models.resolve(flags.model)
        output_names, outputs_map = (
            outputs.in_order(flags.outputs),
            outputs.parse_map(flags.outputs_map, model),
        )
        classes = outputs.classes(model)
        top_k = flags.top_k or outputs.default_top_k(classes)
        outputs.check(model, output_names, top_k, classes)
    except (models.UnknownModel, models.UnusableModel) as error:
        raise RequestError(str(error)) from error
    known = dict.fromkeys((*FetchSettings().uri_schemes, *OTHER.schemes))
    unknown = [scheme for scheme in flags.uri_schemes if scheme not in known]
    if unknown:
        raise RequestError(
            f"--uri_schemes={','.join(flags.uri_schemes)}: unknown scheme {unknown[0]!r}; choose from {', '.join(known)}"
        )
    if flags.top_k and "top_k" not in output_names:
        raise RequestError(
            f"--top_k={flags.top_k} sets the number of classes for --outputs=top_k: add top_k to --outputs"
        )
    read = read_settings(flags, flags.batch_size, flags.pass_through)
    reserved = sorted(set(read.pass_through) & {*features.STANDARD, *outputs.features(output_names)})
    if reserved:
        raise RequestError(f"--pass_through={','.join(reserved)}: reserved for the job's own features")
    for name in ("overwrite", "dry_run"):
        if flags.retry_failures and getattr(flags, name):
            raise RequestError(f"--retry_failures and --{name} exclude each other: leave one out")
    image_size = flags.image_size or model.image_size
    pixels = preprocessing(flags, model, image_size=image_size, scaled_decoding=flags.scaled_decoding)
    config = JobConfig(
        input_texts=input_texts(flags.input),
        input_format=flags.input_format,
        images_per_shard=flags.images_per_shard,
        split_bytes=flags.split_bytes,
        skip_done=tuple(folder("--skip_done", text, may_be_glob=True) for text in flags.skip_done),
        output=folder("--output", flags.output),
        overwrite=flags.overwrite,
        retry_failures=flags.retry_failures,
        max_failure_rate=flags.max_failure_rate,
        report_file=flags.report_file,
        dry_run=flags.dry_run,
        price_per_hour=flags.price_per_hour,
        read=read,
        decode=DecodeSettings(pixels, flags.batch_size, flags.decode_processes or 0, flags.decode_timeout),
        model=ModelSettings(
            model,
            image_size,
            flags.batch_size,
            flags.precision,
            output_names,
            top_k,
            tuple(sorted(outputs_map.items())),
            offline=flags.offline,
        ),
        flags={name: getattr(flags, name) for name in KEPT},
        unset=frozenset(
            name for name in ("image_size", "exif_orientation", "top_k") if not getattr(flags, name)
        ),
    )
    return config, beam_options


def _nowhere() -> str:
    """An output for a run that writes none: a folder that does not exist, on a local disk."""
    return os.path.join(tempfile.gettempdir(), f"no-output-{uuid.uuid4().hex}")


def preprocessing(flags: argparse.Namespace, model: Model, **more: Any) -> Preprocessing:
    """How bytes become pixels, by the flags that the job and training share."""
    orientation = flags.exif_orientation or model.exif_orientation
    return Preprocessing(exif_orientation=orientation, max_pixels=flags.max_pixels, **more)


def read_settings(flags: argparse.Namespace, batch_size: int, columns: Sequence[str]) -> ReadSettings:
    """How inputs are read; `columns` are passed through, written as in --pass_through. Raises RequestError."""
    passed, kinds = typed_names(columns)
    return ReadSettings(
        batch_size,
        flags.image_feature,
        flags.key_feature,
        flags.uri_column,
        passed,
        fetch_settings(flags),
        kinds,
    )


def _flag_named(text: str) -> str:
    """An error about a setting, with the name of its flag in place of the setting's."""
    for setting, flag in (("timeout_seconds", "timeout"), ("concurrency", "fetch_threads")):
        text = text.replace(setting, flag)
    return re.sub(r"^(?=[a-z_]+ )", "--", text) if text.split(" ")[0].isidentifier() else text


def typed_names(texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The columns in --pass_through, and the types of those that are written as NAME:TYPE."""
    kinds: dict[str, str] = {}
    for text in texts:
        name, _, kind = text.rpartition(":")
        name, kind = (name, kind) if name and kind in values.KINDS else (text, "")
        if kinds.setdefault(name, kind) != kind:
            raise RequestError(f"--pass_through names {name!r} with two types: name it once")
    return tuple(kinds), tuple((name, kind) for name, kind in kinds.items() if kind)


def input_texts(texts: Sequence[str]) -> tuple[str, ...]:
    """The values of --input but for empty ones, each path in them as `path` gives it. Raises RequestError."""
    return tuple(",".join(map(path, text.split(","))) for text in texts if text.strip(","))


def path(text: str) -> str:
    """A path in the form that the file systems accept. Raises RequestError."""
    try:
        return home.expanded(text.removeprefix("file://"))
    except home.NoHome as error:
        raise RequestError(str(error)) from error


def folder(flag: str, text: str, may_be_glob: bool = False) -> str:
    """The value of a flag that names an output folder. Raises RequestError for a glob, unless it may be one."""
    if not may_be_glob and any(sign in text for sign in "*?[]"):
        raise RequestError(
            f"{flag}={text}: a folder's name must not contain *, ?, [ or ], which make it a glob"
        )
    return path(text).rstrip("/") or "/"


def fetch_settings(flags: argparse.Namespace) -> FetchSettings:
    """The settings that the flags of the group `flags.FETCHING` ask for. Raises RequestError."""
    try:
        return FetchSettings(
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
    except ValueError as error:
        raise RequestError(f"{_flag_named(str(error))}; see --help") from error


def _absolute(text: str) -> str:
    return os.path.abspath(door.local(text)) if door.is_local(text) else text


def _work_in(directory: str, output: str) -> None:
    """Goes where the first run of a request was. Raises RequestError."""
    try:
        os.chdir(directory)
    except OSError as error:
        raise RequestError(
            f"--output={output} was begun in {directory}, which its relative paths start from, and that cannot be entered "
            f"({error.strerror}): name --input, --model and the other flags of its first run"
        ) from error


def report_file(argv: Sequence[str]) -> str:
    """The value of --report_file as an absolute path, even if the rest of the command line is wrong."""
    finder = Parser(add_help=False, allow_abbrev=False)
    finder.add_argument("--report_file", default="")
    try:
        path = finder.parse_known_args(list(argv))[0].report_file
        return path and _absolute(home.expanded(path))
    except (RequestError, home.NoHome):
        return ""


class _BeamParser(Parser, _BeamArgumentParser):
    """Beam's parser, which raises RequestError instead of printing two hundred flags and ending the process."""


def _beam_parser() -> argparse.ArgumentParser:
    out = _BeamParser(allow_abbrev=False)
    for subclass in {str(c): c for c in PipelineOptions.__subclasses__()}.values():
        subclass._add_argparse_args(out)
    return out


def of_beam(rest: list[str], own: argparse.ArgumentParser) -> PipelineOptions:
    """Beam's options, from the flags that are not among a command's `own`. Raises RequestError for an unknown one
    and for a value that is not one."""
    beam_options = PipelineOptions(_known_to_beam(rest, own))
    try:
        runners.check_name(runners.name_of(beam_options))
    except ValueError as error:
        raise RequestError(str(error)) from error
    runners.set_defaults(beam_options, rest)
    return beam_options


def _known_to_beam(rest: list[str], own: argparse.ArgumentParser) -> list[str]:
    """`rest` unchanged, if Beam or the runner may know all its flags. Raises RequestError that names the nearest flag."""
    beam_parser = _beam_parser()
    _, unknown = beam_parser.parse_known_args(rest)
    if not unknown:
        return rest
    flag = unknown[0].split("=")[0]
    own_flags = [option for option in own._option_string_actions if option.startswith("--")]
    nearest = difflib.get_close_matches(flag, own_flags, n=1, cutoff=0.75)
    if runners.takes_unknown_flags(rest) and flag.startswith("--") and not nearest:
        return rest
    nearest = nearest or difflib.get_close_matches(
        flag, own_flags + list(beam_parser._option_string_actions), n=1, cutoff=0.5
    )
    if flag in _RENAMED:
        raise RequestError(f"{flag} is now called {_RENAMED[flag]}: images are decoded in processes")
    if not flag.startswith("-"):
        raise RequestError(
            f"{unknown[0]!r} is not a flag: each flag takes one value, so quote globs, which the shell would make several "
            "words of, and names with blanks; see --help"
        )
    hint = f"; did you mean {nearest[0]}?" if nearest else "; see --help"
    raise RequestError(f"unknown flag {flag}{hint}")
