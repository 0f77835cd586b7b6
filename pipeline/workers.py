"""The workers of DirectRunner, watched: a bundle that fails, or a process that dies, ends the run in seconds.

Beam itself waits for the bundles of all workers after one has failed, starts worker processes through a shell, waits for
ever for one that does not come up, and takes a killed one for a broken connection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2
from apache_beam.runners.portability.fn_api_runner import worker_handlers as beam
from apache_beam.runners.worker.log_handler import LOGENTRY_TO_LOG_LEVEL_MAP
from google.protobuf import json_format, text_format

_COMMAND = [sys.executable, "-m", "apache_beam.runners.worker.sdk_worker_main"]
_START_SECONDS = 60.0
_END_SECONDS = 60.0  # after the last bundle, for what the workers' steps have open
GRACE_SECONDS = 5.0  # the same after a failure
_LINES = 20  # of what a process wrote to stderr


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

    def start(self, environment: dict[str, str]) -> subprocess.Popen:
        """Starts a worker process. Not through a shell, which would split a path at its blanks."""
        process = subprocess.Popen(
            _COMMAND, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        """Ends worker processes that are left."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()


_fleet = Fleet()  # Beam makes the handlers, and passes nothing on to them


@contextlib.contextmanager
def watched() -> Iterator[Fleet]:
    """A context in which Beam's DirectRunner uses the workers of this module, those of a fleet."""
    global _fleet
    _fleet = fleet = Fleet()
    handlers = beam.WorkerHandler._registered_environments
    before = dict(handlers)
    handlers[python_urns.EMBEDDED_PYTHON] = _Inside, None
    handlers[python_urns.EMBEDDED_PYTHON_GRPC] = _Thread, bytes
    handlers[python_urns.SUBPROCESS_SDK] = _Process, bytes
    try:
        yield fleet
    finally:
        handlers.update(before)
        fleet.close()


class _Inside(beam.EmbeddedWorkerHandler):
    """A worker on the thread that asks it to work."""

    def __init__(self, *arguments: Any):
        self._fleet = _fleet
        super().__init__(*arguments)

    def push(self, request: Any) -> Any:
        try:
            return super().push(request)
        except BaseException as error:
            self._fleet.fail(error)
            raise


class _Thread(beam.EmbeddedGrpcWorkerHandler):
    """A worker on a thread of its own."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self._fleet = _fleet
        self._fleet.follow(self.control_conn)

    def stop_worker(self) -> None:
        """Leaves a thread to itself that is in the middle of a bundle of a failed run."""
        self.worker_thread.join(GRACE_SECONDS if self._fleet.error else None)


class _Process(beam.GrpcWorkerHandler):
    """A worker in a process of its own."""

    def __init__(self, command: bytes, *arguments: Any):
        super().__init__(*arguments)
        self._fleet = _fleet
        self._fleet.follow(self.control_conn)
        self._said: deque[str] = deque(maxlen=_LINES)
        self._is_ending = False
        # Beam's own thread writes a traceback when the process is killed.
        self.control_conn._read_thread = threading.Thread(target=self._read, daemon=True)

    def start_worker(self) -> None:
        """Returns at once; the process comes up meanwhile."""
        self._logs = grpc.server(ThreadPoolExecutor(2))
        port = self._logs.add_insecure_port("localhost:0")
        beam_fn_api_pb2_grpc.add_BeamFnLoggingServicer_to_server(_Logs(), self._logs)
        self._logs.start()
        options = self.provision_info.provision_info.pipeline_options
        environment = {
            **os.environ,
            "CONTROL_API_SERVICE_DESCRIPTOR": _descriptor(self.control_address),
            "LOGGING_API_SERVICE_DESCRIPTOR": _descriptor(f"localhost:{port}"),
            "PIPELINE_OPTIONS": json_format.MessageToJson(options),
            "WORKER_ID": self.worker_id,
        }
        try:
            self._process = self._fleet.start(environment)
        except OSError as error:
            raise WorkerDied(f"a worker process does not start: {sys.executable}: {error}") from error
        self._threads = [
            threading.Thread(target=target, daemon=True, name="worker")
            for target in (self._listen, self._wait)
        ]
        for thread in self._threads:
            thread.start()

    def stop_worker(self) -> None:
        """Returns once the process has ended, by itself or not."""
        self._is_ending = True
        try:
            self._process.wait(GRACE_SECONDS if self._fleet.error else _END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._logs.stop(0)

    def close(self) -> None:
        """Ends the connections and the process."""
        self._is_ending = True
        super().close()

    def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError, KeyError):
            self.control_conn._read()

    def _listen(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._said.append(line.decode("utf-8", "replace").rstrip())

    def _wait(self) -> None:
        """Fails the run if the process does not come up, or ends before it should."""
        try:
            self._process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            if self.control_conn._state == beam.BeamFnControlServicer.UNSTARTED_STATE:
                self._process.kill()
                what = f"did not come up within {_START_SECONDS:g} s"
                return self._fleet.fail(WorkerDied(self._sentence(what, tells=True)))
        code = self._process.wait()
        if not self._is_ending:
            self._threads[0].join(1)  # what it wrote last
            self._fleet.fail(WorkerDied(self._sentence(f"ended {how(code)}", tells=code >= 0)))
        return None

    def _sentence(self, what: str, tells: bool) -> str:
        said = " | ".join(line for line in self._said if line)[-2000:]
        tail = f"; it wrote: {said}" if tells and said else ""
        return f"worker process {self._process.pid} {what}: run the same command again to resume{tail}"


class _Logs(beam_fn_api_pb2_grpc.BeamFnLoggingServicer):
    """What the steps log in a worker process, logged here."""

    def Logging(self, messages: Iterable[Any], context: Any = None) -> Iterator[Any]:
        """Called by Beam's log handler in the worker."""
        yield beam_fn_api_pb2.LogControl()
        with contextlib.suppress(Exception):  # the process has died
            for message in messages:
                for entry in message.log_entries:
                    # Beam's own warnings of this kind are no news in a process that this module has started.
                    if "apache_beam/runners/worker/sdk_worker_main" not in entry.log_location:
                        level = LOGENTRY_TO_LOG_LEVEL_MAP[entry.severity]
                        logging.getLogger("worker").log(level, "%s", entry.message)


def _descriptor(address: str) -> str:
    return text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=address))


def _failure(instruction: str, error: BaseException | None) -> Any:
    return beam_fn_api_pb2.InstructionResponse(instruction_id=instruction, error=str(error) or repr(error))


def how(code: int) -> str:
    """How a process ended, from the exit code that `subprocess` reports."""
    if code >= 0:
        return f"with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = ", as where memory runs out" if -code == signal.SIGKILL else ""
    return f"by {name}{hint}"
