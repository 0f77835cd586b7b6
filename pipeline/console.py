"""All messages of the job, on stderr: lines, log records, and the traceback that explains a failed run."""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from bit.command import guard
from pipeline import runners
from pipeline.terminal import Screen, Terminal

# Their warnings are nothing that a user could act on.
_CHATTY = ("apache_beam.typehints", "apache_beam.utils.subprocess_server")


def say(text: str) -> None:
    """Writes a line to stderr; stdout stays empty."""
    sys.stderr.write(f"{text}\n")  # at once: a line of another thread must not come before its end
    sys.stderr.flush()


def is_live() -> bool:
    """Whether `show` draws a live line."""
    return isinstance(sys.stderr, Terminal)


def show(text: str) -> None:
    """Shows how far the job has come: on a terminal in place of what was shown before, elsewhere as a line."""
    if isinstance(sys.stderr, Terminal):
        sys.stderr.live(text)
    elif text:
        say(text)


def counted(count: int, noun: str, plural: str = "") -> str:
    """'1 image', '2 images', '1,000 images'."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


_IN_JAVA = re.compile(
    r"(java|javax|org\.apache)\.[\w.$]*(Exception|Error)\b"
)  # at the start of what it says of one


class _TracebackFilter(logging.Filter):
    """Withholds tracebacks from the log: only a failed run shows its last one."""

    def __init__(self):
        super().__init__()
        self.tracebacks: deque[str] = deque(maxlen=5)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_java = _IN_JAVA.match(text) and "Traceback (most recent call last)" not in text
        if is_java and self.tracebacks:  # which tell more
            return False
        if is_java or record.exc_info or "Traceback (most recent call last)" in text:
            self.tracebacks.append(logging.Formatter("%(levelname)s %(name)s: %(message)s").format(record))
            return False
        # RunInference logs this if torch is missing, which the job does not use.
        return "Resource module is not available" not in text


_filter = _TracebackFilter()


def configure_logging(runner: str) -> None:
    """Logs to stderr. Remote engines log at INFO: Airflow reads the id of a Dataflow job from its log."""
    level = logging.WARNING if runner == runners.LOCAL else logging.INFO
    logging.basicConfig(
        level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    _filter.tracebacks.clear()
    logging.getLogger().handlers[0].addFilter(_filter)


def log_warnings_only() -> None:
    """Called at the end of a run: what an engine logs while it shuts down does not concern the user."""
    logging.getLogger().setLevel(logging.WARNING)


def show_traceback() -> None:
    """Writes the last traceback that was withheld, if any; called when the run has failed."""
    if _filter.tracebacks:
        say(_filter.tracebacks[-1])


def leave(main: Callable[[], int]) -> NoReturn:
    """Runs a command that runs a pipeline, with guarded streams and a screen, and ends the process with its code."""
    guard()
    with Screen():
        code = main()
        # Exit functions stop the job servers that Beam started; threads that read from them would log errors.
        threading.excepthook = lambda _: None
        atexit._run_exitfuncs()
    sys.stderr.flush()
    # Threads of a stopped run, or of an engine, must not keep the process alive.
    os._exit(code)
