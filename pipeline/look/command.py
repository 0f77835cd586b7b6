"""The command line: its flags, and the steps from an output to a page."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import console, flags, options, outputs, reach, runners
from pipeline.console import say
from pipeline.flags import RequestError
from pipeline.look import about, compose, labels, scan
from pipeline.report import DONE, FAILED, WRONG_REQUEST, root_cause
from transforms.exporting.files import Output, placed
from transforms.sources import finding, patterns, pictures
from transforms.sources.base import BadInput
from transforms.storage import door, retrying

_EPILOG = """\
examples:
  python -m pipeline.look local/features --input='shards/*.tfrecord'
  python -m pipeline.look gs://bucket/features --input=urls.csv --to=gs://bucket/look.html --report_file=report.json

The page needs no network and no server. Beam's options for stores are accepted too. All messages go
to stderr.

exit codes: 0 done, 1 failed, 2 the request is wrong, and nothing was started
"""


def parser() -> flags.Parser:
    """The parser of this command's own flags."""
    out = flags.Parser(
        prog="python -m pipeline.look",
        usage="%(prog)s OUTPUT [--to=look.html] [flags]",
        description="Writes one HTML page: what ran, what failed, the pictures, their neighbours, a map and duplicates.",
        epilog=_EPILOG,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=29),
        allow_abbrev=False,
    )
    out.add_argument("output", metavar="OUTPUT", nargs="?", default="", help="the --output folder of the job")
    out.add_argument(
        "--to", default="look.html", metavar="FILE", help="the page to write (default: %(default)s)"
    )
    out.add_argument(
        "--report_file", default="", metavar="PATH", help="of the job, for its time, speed and bottleneck"
    )
    out.add_argument(
        "--label",
        default="",
        metavar="NAME",
        help="passed-through feature that colours the map (default: the first that sorts the pictures into groups)",
    )
    out.add_argument(
        "--limit",
        type=flags.positive,
        default=scan.MOST,
        metavar="N",
        help=f"pictures in the sample, evenly spread, at most {scan.MOST} (default: %(default)s)",
    )
    out.add_argument(
        "--threshold",
        type=_cosine,
        default=0.95,
        metavar="COSINE",
        help="cosine similarity from which on two pictures are near duplicates (default: %(default)s)",
    )
    out.add_argument("--partial", **flags.SWITCH, help="show the committed shards of an unfinished job")
    group = out.add_argument_group("pictures")
    group.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="PATH,...",
        help="the --input of the job, to read the pictures again; not needed if it was a folder or glob of images",
    )
    group.add_argument(
        "--input_format", choices=finding.FORMATS, default=finding.AUTO, help="as for the job (default: auto)"
    )
    flags.add_group(out, flags.FETCHING)
    return out


def _cosine(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, PipelineOptions]:
    """Parses a command line. Raises RequestError if it is wrong."""
    own = parser()
    arguments, rest = own.parse_known_args(list(argv))
    beam_options = options.of_beam(rest, own)
    if not arguments.output:
        raise RequestError("missing OUTPUT, the --output folder of the job; see --help")
    arguments.output = options.folder("OUTPUT", arguments.output)
    arguments.to = options.path(arguments.to)
    arguments.input = options.input_texts(arguments.input)
    arguments.fetch = options.fetch_settings(arguments)
    if not arguments.to.lower().endswith((".html", ".htm")):
        raise RequestError(f"--to={arguments.to}: name the page, a file that ends in .html")
    if arguments.limit > scan.MOST:
        raise RequestError(f"--limit={arguments.limit}: a page holds at most {scan.MOST} pictures")
    return arguments, beam_options


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the page; returns the exit code: 0 done, 2 wrong request, 1 any other error."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        arguments, beam_options = parse(argv)
        runner = runners.name_of(beam_options)
        console.configure_logging(runner)
        inputs = [pattern for text in arguments.input for pattern in patterns.expand(text)]
        reach.check(beam_options, runner, (arguments.output, arguments.to, *inputs), arguments.fetch)
        door.configure(beam_options)
        _run(arguments)
        return DONE
    except RequestError as error:
        say(f"error: {error}")
        return WRONG_REQUEST
    except KeyboardInterrupt:
        say("stopped: no page was written")
        return FAILED
    except Exception as error:
        console.show_traceback()
        say(f"error: {root_cause(error)}")
        return FAILED


def _run(arguments: argparse.Namespace) -> None:
    """Writes the page. Raises RequestError."""
    with retrying.hurried():
        committed = outputs.committed(arguments.output, arguments.partial)
        report = about.read_report(arguments.report_file, committed)
        labels.check(arguments.label, committed)
        vector = scan.vector_of(committed)
        try:
            found = pictures.find(
                committed.layout, committed.receipts, arguments.input, arguments.input_format, arguments.fetch
            )
        except BadInput as error:
            raise RequestError(str(error)) from error
    with _writable(arguments.to) as out:
        size = out.write(compose.page_of(arguments, committed, report, found, vector))
    say(f"{arguments.to}: {size / 1e6:.1f} MB; open it in a browser")


@contextlib.contextmanager
def _writable(path: str) -> Iterator[Output]:
    """A file that is created at once, and has its name once it is complete. Raises RequestError if it cannot be created."""
    with contextlib.ExitStack() as stack:
        try:
            with retrying.hurried():
                out = stack.enter_context(placed(path))
        except (BeamIOError, OSError, ValueError, ImportError) as error:
            raise RequestError(f"--to={path} cannot be written: {door.explain(path, error)}") from error
        yield out
