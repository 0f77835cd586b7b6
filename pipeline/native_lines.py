"""A program of its own between a job's file descriptor 2 and the terminal: leaves out what TensorFlow says to its developers.

TensorFlow writes before any log level can be set, from C++. A process of its own still passes on what a crashing one
wrote last. Standard library only: it starts in milliseconds.
"""

from __future__ import annotations

import os
import re
import select
import signal

CLEAR = b"\r\x1b[K"  # erases the progress, which has no end of line
_SILENCE_SECONDS = 0.2  # after which the beginning of a line is shown

_PREFIX = rb"\d{4} \d\d:\d\d:\d+\.\d+ +\d+ \S+\.(?:cc|h|cu):\d+\] "  # absl's, behind the severity
_LEFT_OUT = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|I" + _PREFIX +
    # `transforms.model.gpu_check` says it where there is a GPU.
    rb"|[WE]" + _PREFIX + rb"failed call to cuInit"
    rb"|[WE]" + _PREFIX + rb"Unable to register cu(?:FFT|DNN|BLAS) factory"
    rb"|[WE]" + _PREFIX + rb"computation placer already registered"
)  # fmt: skip


def is_shown(line: bytes) -> bool:
    """Whether a user can act on a line. Whatever is not known stays: errors, and texts of crashes."""
    return not _LEFT_OUT.match(line)


def main() -> None:
    """Copies stdin to stderr until all who can write to it have ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    rest, in_line = b"", False
    while True:
        waits = select.select([0], [], [], _SILENCE_SECONDS if rest else None)[0]
        block = os.read(0, 1 << 16) if waits else b""
        *lines, rest = (rest + block).split(b"\n")
        # The end of a line of which the beginning was shown belongs to it.
        shown = [line for index, line in enumerate(lines) if (in_line and not index) or is_shown(line)]
        text = b"".join(line + b"\n" for line in shown)
        if not block and is_shown(rest):
            text, rest = text + rest, b""
        if text:
            _write(text if in_line else CLEAR + text)
        in_line = (in_line and not lines) or (bool(text) and not text.endswith(b"\n"))
        if waits and not block:
            return


def _write(text: bytes) -> None:
    try:
        while text:
            text = text[os.write(2, text) :]
    except OSError:  # a terminal that is gone: those who write must not notice
        pass


if __name__ == "__main__":
    main()
