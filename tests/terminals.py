"""A command in a terminal, and what stands on its screen afterwards."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

from tests import helpers

COLUMNS = 80


def run(command: Sequence[str], cwd: Path = helpers.REPO, **environment: str) -> tuple[int, str]:
    """The exit code (negative: the signal) of a command, and all that it wrote to a terminal of 80 columns.

    `environment`: variables to set; '' removes one."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    variables = {**os.environ, "PYTHONPATH": str(helpers.REPO), **environment}
    variables = {name: value for name, value in variables.items() if value}
    process = subprocess.Popen(command, cwd=cwd, env=variables, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # nobody has the terminal open any more
            break
        if not block:
            break
        written += block
    os.close(ours)
    return process.wait(timeout=60), written.decode()


def screen(written: str) -> list[str]:
    """The lines that remain, as a terminal of 80 columns shows them."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[K|.", written, re.DOTALL):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif part == "\x1b[K":
            rows[row] = rows[row][:column]
        else:
            if column == COLUMNS:
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            rows[row] = f"{rows[row][:column]:{column}}{part}{rows[row][column + 1 :]}"
            column += 1
    return [text.rstrip() for text in rows[: len(rows) - (not rows[-1])]]
