"""What the commands over an output have in common: their flags, and where its pictures can be read again."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import flags, options, reach, repeat, runners
from pipeline.flags import RequestError
from pipeline.outputs import Committed
from transforms.fetching.settings import FetchSettings
from transforms.sources import finding, patterns, pictures
from transforms.sources.base import BadInput
from transforms.storage import door

_PATHS = {"to", "report_file", "test"}


def parser(name: str, usage: str, description: str, epilog: str, partial: str = "") -> flags.Parser:
    """A parser with OUTPUT, and --partial where there is a text for it. Its other texts are those of argparse."""
    out = flags.Parser(
        prog=f"python -m pipeline.{name}",
        usage=f"%(prog)s OUTPUT {usage}",
        description=description,
        epilog=epilog,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=29),
        allow_abbrev=False,
    )
    out.add_argument("output", metavar="OUTPUT", nargs="?", default="", help="the --output folder of the job")
    if partial:
        out.add_argument("--partial", **flags.SWITCH, help=partial)
    return out


def add_threshold(to: flags.Parser) -> None:
    """Adds the flag that says what is alike."""
    text = "least cosine similarity of pictures that are alike (default: %(default)s)"
    to.add_argument("--threshold", type=_cosine, default=0.95, metavar="COSINE", help=text)


def _cosine(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a cosine above 0 and up to 1")
    return value


def add_pictures(to: flags.Parser, title: str) -> None:
    """Adds the flags that say where the job's pictures are, and how those of lists are fetched."""
    group = to.add_argument_group(title)
    group.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="PATH,...",
        help="the inputs of the job, where they lie elsewhere now (default: as the output keeps them)",
    )
    group.add_argument(
        "--input_format", choices=finding.FORMATS, default=finding.AUTO, help="as for the job (default: auto)"
    )
    flags.add_group(to, flags.FETCHING)


def parse(
    argv: Sequence[str],
    own: flags.Parser,
    *required: str,
    needs_pictures: Callable[..., bool] | None = None,
    several: bool = False,
) -> tuple[argparse.Namespace, PipelineOptions]:
    """Parses a command line. Raises RequestError if it is wrong.

    Args:
      argv: the command line.
      own: a parser from `parser`, with the command's own flags.
      required: names of flags without which nothing can be done.
      several: whether OUTPUT may be a glob.
      needs_pictures: whether the arguments ask for pictures, of a parser with `add_pictures`. Then `arguments.kept` has what
        the output keeps of its request, if no --input is named, and `arguments.fetch` has the settings for fetching.
    """
    arguments, rest = own.parse_known_args(list(argv))
    beam_options = options.of_beam(rest, own)
    for name, value in (("OUTPUT", arguments.output), *((f"--{n}", getattr(arguments, n)) for n in required)):
        if not value:
            raise RequestError(f"missing {name}; see --help")
    output = options.folder("OUTPUT", arguments.output, may_be_glob=several)
    if needs_pictures is not None:
        kept: tuple[str, ...] = ()
        if needs_pictures(arguments) and not any(text.strip(",") for text in arguments.input):
            values = repeat.pictures_of(output, beam_options)
            kept, directory = tuple(values.pop("input", ())), values.pop(options.DIRECTORY, "")
            own.set_defaults(**values)
            arguments, _ = own.parse_known_args(list(argv))
            if directory and directory != os.getcwd():
                output = _absolute(output)
                _work_in(directory, arguments)
        arguments.kept, arguments.fetch = kept, options.fetch_settings(arguments)
        arguments.input = options.input_texts(arguments.input)
    arguments.output = output
    for name in _PATHS & vars(arguments).keys():
        setattr(arguments, name, options.path(getattr(arguments, name)))
    return arguments, beam_options


def enter(beam_options: PipelineOptions, command: str, *paths: str) -> None:
    """Lets this process, in which a command does all its work, reach the stores of `paths` by Beam's options.

    Raises RequestError if they name an engine, Unreachable if a store does not answer."""
    if (runner := runners.name_of(beam_options)) != runners.LOCAL:
        raise RequestError(f"--runner={runner}: {command} works in this process; omit --runner")
    reach.enter(beam_options, runner, [path for path in paths if path], FetchSettings())


def _work_in(directory: str, arguments: argparse.Namespace) -> None:
    """Goes where the job ran, as its inputs are relative to that; what the command names stays where it is."""
    for name in _PATHS & vars(arguments).keys():
        setattr(arguments, name, _absolute(getattr(arguments, name)))
    with contextlib.suppress(OSError):  # a folder of another machine
        os.chdir(directory)


def _absolute(path: str) -> str:
    return os.path.abspath(door.local(options.path(path))) if path and door.is_local(path) else path


def paths(arguments: argparse.Namespace) -> tuple[str, ...]:
    """What a command reads and writes, for its stores."""
    return (arguments.output, arguments.to, *_expanded(arguments.input))


def _expanded(texts: Sequence[str]) -> list[str]:
    return [pattern for text in texts for pattern in patterns.expand(text)]


class Found(NamedTuple):
    """The pictures of an output, by the label of their shard; none, and why, if they cannot be read again."""

    pictures: dict[str, pictures.ShardPictures]
    inputs: tuple[str, ...] = ()  # the texts of --input that led there
    note: str = ""


def find_pictures(
    arguments: argparse.Namespace, committed: Committed, beam_options: PipelineOptions
) -> Found:
    """Where the pictures are: in --input, else in what the output keeps.

    Raises RequestError if --input is not the input of the job. What is kept may be gone, which is no error."""
    find = functools.partial(pictures.find, committed.layout, committed.receipts, fetch=arguments.fetch)
    if arguments.input:
        try:
            return Found(find(arguments.input, arguments.input_format), arguments.input)
        except BadInput as error:
            raise RequestError(str(error)) from error
    if listed := find():
        return Found(listed)
    if not arguments.kept:
        return Found({}, note="without pictures: --input says where the inputs of the job are now")
    try:
        texts = options.input_texts(arguments.kept)
        reach.check(beam_options, runners.name_of(beam_options), _expanded(texts), arguments.fetch)
        return Found(find(texts, arguments.input_format), texts)
    except (BadInput, BeamIOError, OSError, ValueError, ImportError) as error:
        return Found({}, note=f"without pictures: {error}; --input says where they are now")
