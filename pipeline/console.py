"""What the job says to people, all of it on stderr: lines, log records, and the traceback that explains a failed run."""

from __future__ import annotations

import logging
import sys
from collections import deque

from pipeline import runners

_CHATTY = (
    "apache_beam.typehints",
    "apache_beam.utils.subprocess_server",
)  # they log nothing that a user could act on


def say(text: str) -> None:
    """Writes a line for people; stdout stays empty."""
    print(text, file=sys.stderr, flush=True)


class _Hold(logging.Filter):
    """Keeps tracebacks back until it is known whether the run's end needs them."""

    def __init__(self):
        super().__init__()
        self.tracebacks: deque[str] = deque(maxlen=5)

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.exc_info or "Traceback (most recent call last)" in text:
            self.tracebacks.append(logging.Formatter("%(levelname)s %(name)s: %(message)s").format(record))
            return False
        # RunInference says this whenever torch is missing; the job has no use for either.
        return "Resource module is not available" not in text


_hold = _Hold()


def configure_logging(runner: str) -> None:
    """Logs to stderr. Dataflow's launcher needs INFO: Airflow reads the job's id from its log."""
    level = logging.WARNING if runner == runners.LOCAL else logging.INFO
    logging.basicConfig(
        level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    _hold.tracebacks.clear()
    logging.getLogger().handlers[0].addFilter(_hold)


def log_warnings_only() -> None:
    """What an engine logs while it is being taken down does not concern the job."""
    logging.getLogger().setLevel(logging.WARNING)


def show_traceback() -> None:
    """Writes the last traceback that was kept back, if there is one: the run has failed."""
    if _hold.tracebacks:
        say(_hold.tracebacks[-1])
