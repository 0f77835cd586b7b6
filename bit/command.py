"""How a command of which stdout is the result ends: `python -m bit.models | head` is no error."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from typing import NoReturn


def exit_with(main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` and exits with its code; with 0 as soon as nobody reads its stdout any more."""
    code: str | int | None
    try:
        try:
            code = main()
        except SystemExit as ending:
            code = ending.code
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _has_no_reader(sys.stdout.fileno()):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        code = 0
    sys.exit(code)


def _has_no_reader(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
