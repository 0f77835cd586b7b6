"""The program between a launcher and a job server: the server ends with the launcher, and leaves no folder.

Nothing but the standard library is imported, so that it takes a few MB of memory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any


def main(folder: str, *command: str) -> None:
    """Runs a command until it ends, or this process's standard input does, which the launcher holds open.

    Removes the folder then, and ends with the command's exit code.
    """
    # This process inherits a lock on the folder, which says that it is in use; the command does not.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end(*_: Any) -> None:
        process.kill()  # a job server has nothing to save, and takes seconds to end by itself

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)

    def wait_for_launcher() -> None:
        sys.stdin.buffer.read()
        end()

    threading.Thread(target=wait_for_launcher, daemon=True).start()
    code = process.wait()
    shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.flush()
    os._exit(code if code >= 0 else 128 - code)  # the thread may be in the middle of its read
