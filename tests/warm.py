"""Processes forked from one that has imported already what they need: imports are much of what a small job takes.

For the processes that a job starts. What a process has from its start, such as an environment that changes how modules are
imported, is not tested with these: see `Warm.fits`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from pipeline import worker_process
from tests import forks, helpers
from tests.forks import NUMBER
from transforms.feeding import forking

COLD_FORKER = forking.started
COLD_WORKER = worker_process.started
_COMMAND = worker_process.COMMAND  # which tests replace
# What of an environment changes an import.
_MATTERS = ("PYTHON", "LD_", "MALLOC_", "OMP_", "OPENBLAS_", "OPENCV_", "PATH", "TF_", "BIT_", "XLA_")


class Process:
    """As much of a `subprocess.Popen` as jobs use."""

    def __init__(self, answers: int, stderr: int | None = None):
        """`answers`: a pipe that first tells the process, and at its end how it ended."""
        self._answers = io.FileIO(answers)
        self._lock = threading.Lock()
        self.stderr = None if stderr is None else io.FileIO(stderr)
        self.pid = self._next()
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        with contextlib.suppress(ValueError):  # closed by another thread, which waits as well
            ready = select.poll()
            ready.register(self._answers, select.POLLIN)
            if not ready.poll(None if timeout is None else 1000 * timeout):
                raise subprocess.TimeoutExpired("a warm process", timeout or 0)
        with self._lock:
            if self.returncode is None:
                with self._answers:
                    self.returncode = os.waitstatus_to_exitcode(self._next())
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _next(self) -> int:
        (number,) = NUMBER.unpack(self._answers.read(NUMBER.size))
        return number


class Warm:
    """A process that has imported some modules, and forks."""

    def __init__(self, environment: Mapping[str, str], *modules: str):
        self._environment, self._path = _that_matters(environment), list(sys.path)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        forking_one = "from tests import forks; forks.serve(int(sys.argv[1]), sys.argv[2:])"
        program = f"sys.path.insert(0, {str(helpers.REPO)!r}); {forking_one}"
        with theirs:
            self._process = subprocess.Popen(
                [*forking.python(program), str(theirs.fileno()), *modules],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**environment, "OPENBLAS_NUM_THREADS": "1"},
            )

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether a process that imports its modules by itself would be the same."""
        return (_that_matters(environment), sys.path) == (self._environment, self._path)

    def start(
        self, call: str, argument: object, environment: Mapping[str, str], descriptors: Sequence[int]
    ) -> int:
        """Forks a process that calls a function `module:name` with the argument, and with copies of the descriptors.

        Returns what `Process` takes. Raises RuntimeError if the process that forks has ended: nothing that a job knows of."""
        answers, theirs = os.pipe()
        try:
            order = json.dumps([call, argument, dict(environment), os.getcwd()]).encode()
            socket.send_fds(self._control, [order], [theirs, *descriptors])
        except OSError as error:
            os.close(answers)
            raise RuntimeError("the process that forks others for the tests has ended") from error
        finally:
            os.close(theirs)
        return answers

    def close(self) -> None:
        self._control.shutdown(socket.SHUT_RDWR)  # forks of this process have it, too
        self._control.close()
        self._process.wait()


def _that_matters(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_MATTERS)}


class Forkers:
    """A stand-in for `forking.started`."""

    def __init__(self) -> None:
        self._warm = Warm(os.environ, "transforms.feeding.forker")

    def started(self, settings: dict, descriptors: Sequence[int]) -> subprocess.Popen | Process:
        if not self._warm.fits(os.environ):
            return COLD_FORKER(settings, descriptors)
        return Process(self._warm.start("tests.forks:be_forker", settings, os.environ, descriptors))

    def close(self) -> None:
        self._warm.close()


class Workers:
    """A stand-in for `worker_process.started`."""

    def __init__(self) -> None:
        self._warm: Warm | None = None
        self._environment = dict(os.environ)

    def started(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen | Process:
        if self._warm is None:
            self._warm = Warm(
                self._environment, "bit.tensorflow", "transforms.infer", "pipeline.graph", forks.WORKER
            )
        if command is not _COMMAND or not self._warm.fits(environment):
            return COLD_WORKER(command, environment)
        stderr, theirs = os.pipe()
        try:
            answers = self._warm.start("tests.forks:be_worker", None, environment, [theirs])
        finally:
            os.close(theirs)
        return Process(answers, stderr)

    def close(self) -> None:
        if self._warm:
            self._warm.close()
