"""The process that forks feeders, seen from the process with the model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from transforms.feeding.forker import EXIT, ORDER, READY
from transforms.feeding.settings import DecodeSettings
from transforms.feeding.slots import Slots, memory_file

_START_SECONDS = 60.0
_PACKAGES = str(Path(__file__).resolve().parents[2])  # where that process, too, can import this package


def python(program: str) -> list[str]:
    """The command that runs a program with `sys` and this process's packages."""
    # -c, not -m: this package need not be in the job's working directory. With -c Python looks for modules there first,
    # which this process may not do.
    path = sys.path if _PACKAGES in sys.path else [*sys.path, _PACKAGES]
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {program}"]


def started(settings: dict, descriptors: Sequence[int]) -> subprocess.Popen:
    """The process, which imports what decoding needs and then says that it is ready; it inherits the descriptors."""
    program = "from transforms.feeding import forker; forker.main(sys.argv[1])"
    return subprocess.Popen(
        [*python(program), json.dumps(settings)],
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


class CannotStart(RuntimeError):
    """Processes for decoding do not start on this machine."""


class Forking:
    """A running process that forks feeders."""

    def __init__(self, slots: Slots, decoding: DecodeSettings):
        """Returns once it can fork, in some 0.2 s. Raises CannotStart, or EOFError if it was killed meanwhile."""
        self.control, theirs = socket.socketpair()
        self._answers = b""
        lock = memory_file("lock")  # the feeders of this process lock it while one decodes a large image
        settings = {
            "control": theirs.fileno(),
            "pixels": slots.file,
            "lock": lock,
            "shape": decoding.shape,
            "slot_bytes": slots.slot_bytes,
            "preprocessing": asdict(decoding.preprocessing),
            "timeout_seconds": decoding.timeout_seconds,
        }
        try:
            self._process = started(settings, [theirs.fileno(), slots.file, lock])
        except OSError as error:
            self.control.close()
            raise CannotStart(f"{sys.executable}: {error}") from error
        finally:
            theirs.close()
            os.close(lock)
        self.control.settimeout(_START_SECONDS)
        try:
            answer = self.control.recv(1)
        except TimeoutError:
            self._process.kill()
            self.control.close()
            self._process.wait()
            raise CannotStart(f"{sys.executable} did not come up within {_START_SECONDS:g} s") from None
        self.control.settimeout(None)
        if answer != READY:
            self.control.close()
            code = self._process.wait()
            if code == -signal.SIGKILL:
                raise EOFError
            raise CannotStart(f"{sys.executable} ends with exit code {code}; see its output above")

    def fork(self, number: int, descriptors: Sequence[int]) -> None:
        """Orders the feeder `number`, which inherits copies of the descriptors: its connection and inboxes.

        Raises OSError if the forking process has ended."""
        socket.send_fds(self.control, [ORDER.pack(number)], descriptors)

    def kill(self, number: int) -> None:
        """Orders the end of the feeder `number`, which `ended` reports. Raises OSError if the forking process has ended."""
        self.control.send(ORDER.pack(number))

    def ended(self) -> Iterator[tuple[int, int]]:
        """Number and exit status of feeders that have ended; waits for one.

        Raises EOFError if the forking process has ended."""
        try:
            data = self.control.recv(4096)
        except ConnectionResetError:  # it has ended with an order that it did not read
            data = b""
        if not data:
            raise EOFError
        self._answers += data
        whole = len(self._answers) // EXIT.size * EXIT.size
        answers, self._answers = self._answers[:whole], self._answers[whole:]
        yield from EXIT.iter_unpack(answers)

    def close(self) -> None:
        """Ends all feeders; returns once they are gone."""
        self.control.close()
        self._process.wait()
