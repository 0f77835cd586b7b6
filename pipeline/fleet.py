"""The workers of a run on DirectRunner: the first error of any of them ends the wait for all."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import Any

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner import worker_handlers as beam

GRACE_SECONDS = 5.0  # for workers to end by themselves after a failure


class WorkerDied(RuntimeError):
    """A worker process has ended, or has not started, and no image is known to be the cause."""


class Fleet:
    """The workers of a run. Thread-safe.

    Attributes:
      error: why the run fails; None as long as it does not.
      failed_at: when that was, by time.monotonic.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: dict[str, beam.ControlFuture] = {}
        self._processes: list[subprocess.Popen] = []
        self.error: BaseException | None = None
        self.failed_at = 0.0

    def fail(self, error: BaseException) -> None:
        """Ends the wait for all bundles; only the first error counts."""
        with self._lock:
            if self.error is None:
                self.error, self.failed_at = error, time.monotonic()
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set(_failure(future.instruction_id, self.error))

    def follow(self, connection: beam.ControlConnection) -> None:
        """Watches the bundles of a worker that is reached over a connection."""
        push = connection.push

        def push_and_follow(request: Any) -> Any:
            future = push(request)
            if future and request.WhichOneof("request") == "process_bundle":
                self._watch(future)
            elif future and self.error:
                future.set(_failure(future.instruction_id, self.error))
            return future

        connection.push = push_and_follow  # type: ignore[method-assign, assignment]

    def _watch(self, future: beam.ControlFuture) -> None:
        set_response = future.set

        def set_and_look(response: Any) -> None:
            with self._lock:
                self._pending.pop(future.instruction_id, None)
            set_response(response)
            if response.error:
                self.fail(RuntimeError(response.error))

        future.set = set_and_look  # type: ignore[method-assign]
        with self._lock:
            if self.error is None:
                self._pending[future.instruction_id] = future
                return
        future.set(_failure(future.instruction_id, self.error))

    def add(self, process: subprocess.Popen) -> None:
        """Has `close` end a worker process, if it has not ended."""
        self._processes.append(process)

    def close(self) -> None:
        """Ends worker processes that are left."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()


def _failure(instruction: str, error: BaseException | None) -> Any:
    return beam_fn_api_pb2.InstructionResponse(instruction_id=instruction, error=str(error) or repr(error))
