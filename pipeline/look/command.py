"""The command line: its flags, and the steps from an output to a page."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import console, flags, of_output, outputs, reach, runners
from pipeline.console import say
from pipeline.flags import RequestError
from pipeline.labelled import FOLDER
from pipeline.look import about, compose, labels, scan
from pipeline.report import DONE, FAILED, WRONG_REQUEST, root_cause
from transforms.exporting.files import Output, placed
from transforms.storage import door, retrying

_EPILOG = """\
examples:
  python -m pipeline.look local/features
  python -m pipeline.look gs://bucket/features --to=gs://bucket/look.html --report_file=report.json

The page needs no network and no server. Beam's options for stores are accepted too. All messages go
to stderr.

exit codes: 0 done, 1 failed, 2 the request is wrong, and nothing was started
"""


def parser() -> flags.Parser:
    """The parser of this command's own flags."""
    out = of_output.parser(
        "look",
        "[--to=look.html] [flags]",
        "Writes one HTML page: what ran, what failed, the pictures, their neighbours, a map and duplicates.",
        _EPILOG,
        partial="show the committed shards of an unfinished job",
    )
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
        help=f"passed-through feature that colours the map, or '{FOLDER}' for the name of the folder that an image file lies in "
        "(default: the first that sorts the pictures into groups)",
    )
    out.add_argument(
        "--limit",
        type=flags.positive,
        default=scan.MOST,
        metavar="N",
        help=f"pictures in the sample, evenly spread, at most {scan.MOST} (default: %(default)s)",
    )
    of_output.add_threshold(out)
    of_output.add_pictures(out, "pictures")
    return out


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, PipelineOptions]:
    """Parses a command line. Raises RequestError if it is wrong."""
    arguments, beam_options = of_output.parse(argv, parser(), needs_pictures=lambda given: True)
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
        reach.enter(beam_options, runner, of_output.paths(arguments), arguments.fetch)
        _run(arguments, beam_options)
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


def _run(arguments: argparse.Namespace, beam_options: PipelineOptions) -> None:
    """Writes the page. Raises RequestError."""
    with retrying.hurried():
        committed = outputs.committed(arguments.output, arguments.partial)
        report = about.read_report(arguments.report_file, committed)
        labels.check(arguments.label, committed)
        vector = scan.vector_of(committed)
        found = of_output.find_pictures(arguments, committed, beam_options)
        if found.note:
            say(found.note)
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
