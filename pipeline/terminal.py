"""A terminal as stderr: one live line below all that is printed, by whomever, and none of TensorFlow's own messages."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import threading
from typing import TextIO

from pipeline import native_lines

_CLEAR = native_lines.CLEAR.decode()
_DRAIN_SECONDS = 0.5


class Terminal(io.TextIOBase):
    """Takes the place of sys.stderr. Nothing that is written raises: a terminal may go away."""

    def __init__(self, out: TextIO):
        self._out = out
        self._lock = threading.RLock()
        self._begun: dict[int, str] = {}  # by thread, the text of a line without its end
        self._is_live = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the terminal."""
        return self._out.encoding

    def fileno(self) -> int:
        """The terminal's, past the filter of native lines."""
        return self._out.fileno()

    def isatty(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, text: str) -> int:
        """Shows the complete lines; what follows them waits for its end, or for `flush`."""
        with self._lock:
            thread = threading.get_ident()
            lines, end, rest = (self._begun.pop(thread, "") + text).rpartition("\n")
            if rest:
                self._begun[thread] = rest
            if end:
                self._put(lines + end)
        return len(text)

    def flush(self) -> None:
        """Shows what this thread has begun."""
        with self._lock:
            if rest := self._begun.pop(threading.get_ident(), ""):
                self._put(rest)

    def live(self, line: str) -> None:
        """Shows one line in place of the last live one; '' for none. As long as the terminal is wide."""
        with self._lock:
            if line or self._is_live:
                self._put(line[: _columns(self._out) - 1])
                self._is_live = bool(line)

    def _put(self, text: str) -> None:
        start, self._is_live = _CLEAR if self._is_live else "", False
        with contextlib.suppress(OSError, ValueError):
            self._out.write(start + text)
            self._out.flush()


def _columns(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except OSError:
        return 80


class Screen:
    """For the life of a program whose stderr is a terminal: sys.stderr becomes a `Terminal`, and file descriptor 2 is filtered.

    Child processes inherit the filter. With TF_CPP_MIN_LOG_LEVEL=0 all native lines are shown. Elsewhere nothing changes:
    a log is complete.
    """

    def __init__(self):
        self._filter: subprocess.Popen[bytes] | None = None
        self._before = sys.stderr

    def __enter__(self) -> Screen:
        try:
            if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
                return self
            descriptor = os.dup(2)
            sys.stderr = Terminal(open(descriptor, "w", encoding="utf-8", errors="backslashreplace"))
            if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":
                command = [sys.executable, "-I", "-S", native_lines.__file__]
                # In a session of its own, so that no Ctrl-C ends it before those it serves.
                self._filter = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
                assert self._filter.stdin
                os.dup2(self._filter.stdin.fileno(), 2)
                self._filter.stdin.close()
        except (OSError, ValueError, AttributeError):  # no stderr, or no process to be had: all is shown
            pass
        return self

    def __exit__(self, *_) -> None:
        if isinstance(sys.stderr, Terminal):
            sys.stderr.live("")
            sys.stderr.flush()
            os.dup2(sys.stderr.fileno(), 2)
            sys.stderr = self._before
        if self._filter:
            with contextlib.suppress(subprocess.TimeoutExpired):  # where a child still holds the descriptor
                self._filter.wait(_DRAIN_SECONDS)  # so that the last lines come before the shell's prompt
