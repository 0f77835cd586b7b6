"""All messages of the job, on stderr: lines, log records, and the traceback that explains a failed run."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections import deque
from typing import NoReturn

from pipeline import runners

# Their warnings are nothing that a user could act on.
_CHATTY = ("apache_beam.typehints", "apache_beam.utils.subprocess_server")


def say(text: str) -> None:
    """Writes a line to stderr; stdout stays empty."""
    print(text, file=sys.stderr, flush=True)


class _TracebackFilter(logging.Filter):
    """Withholds tracebacks from the log: only a failed run shows its last one."""

    def __init__(self):
        super().__init__()
        self.tracebacks: deque[str] = deque(maxlen=5)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.exc_info or "Traceback (most recent call last)" in text:
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


def leave(code: int) -> NoReturn:
    """Ends the process of a command that has run a pipeline."""
    # Exit functions stop the job servers that Beam started; threads that read from them would log errors.
    threading.excepthook = lambda _: None
    atexit._run_exitfuncs()
    sys.stderr.flush()
    # Threads of a stopped run, or of an engine, must not keep the process alive.
    os._exit(code)
