"""How a command runs: nothing that only tells may end it or change its exit code, as in `python -m bit.models | head`."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class Guarded:
    """A stream of text on which writing raises none of `errors`; everything else is the stream's own."""

    def __init__(self, stream: Any, *errors: type[Exception]):
        self._stream, self._errors = stream, errors

    def write(self, text: str) -> int:
        """Writes what can be written; returns the length of the text."""
        with contextlib.suppress(*self._errors):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Passes on what can be passed on."""
        with contextlib.suppress(*self._errors):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def begin() -> None:
    """Before a command imports what it needs, which takes seconds.

    Ctrl-C ends it without a traceback, until `guard`. Where names of files are not UTF-8 by the locale, it is started again with
    UTF-8: keys are made of names, and some would not exist. Exits with 2 if there is nowhere for temporary files, as no import of
    Beam works then.
    """
    import tempfile

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"  # for the processes that it starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    try:
        tempfile.gettempdir()
    except OSError as error:
        print(
            f"error: temporary files have no place ({error}): set TMPDIR to a folder that can be written to",
            file=sys.stderr,
        )
        sys.exit(2)


def guard() -> None:
    """Lets this process survive the loss of its standard streams; the first thing that a command does after its imports.

    stderr may be closed, full, or without a reader. stdout may be closed or without a reader; that it is full is an error, as it
    holds a result. Descriptors that are closed lead to nowhere, or the next file to be opened, such as an output, would get
    their numbers and what libraries write to them.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
    nowhere = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives
    sys.stdout = Guarded(sys.stdout or nowhere, BrokenPipeError)
    sys.stderr = Guarded(sys.stderr or nowhere, OSError, ValueError)


def exit_with(main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` with guarded streams, and exits with its code."""
    guard()
    try:
        sys.exit(main())
    finally:
        gc.freeze()  # as it ends, the interpreter looks for garbage, which takes it a second after Beam and TensorFlow
