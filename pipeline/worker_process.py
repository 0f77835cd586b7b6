"""A worker of DirectRunner in a process of its own: how it starts, what it logs, and what its end means."""

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2
from apache_beam.runners.portability.fn_api_runner import worker_handlers as beam
from apache_beam.runners.worker.log_handler import LOGENTRY_TO_LOG_LEVEL_MAP
from google.protobuf import json_format, text_format

from pipeline.fleet import GRACE_SECONDS, Fleet, WorkerDied
from transforms import cpus
from transforms.feeding.forking import python

# Not by -m, which looks for modules in the working directory first.
COMMAND = python(
    "import runpy; runpy.run_module('apache_beam.runners.worker.sdk_worker_main', run_name='__main__', alter_sys=True)"
)
_START_SECONDS = 60.0
_MOST_STARTS = 10  # times that, if it computes meanwhile
_BUSY = 0.02  # the least share of a CPU that a process takes which is loading what it needs
_END_SECONDS = 60.0  # after the last bundle, for what the steps have open
_LINES = 20  # of what a process wrote to stderr


def started(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen:
    """A process whose stderr can be read. Raises OSError if it does not start."""
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0
    )


class Process(beam.GrpcWorkerHandler):
    """A worker in a process of its own."""

    def __init__(self, fleet: Fleet, command: bytes, *arguments: Any):
        """`command` is Beam's, for a shell, which would split a path at its blanks."""
        super().__init__(*arguments)
        self._fleet = fleet
        self._process: subprocess.Popen | None = None
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
            process = started(COMMAND, environment)
        except OSError as error:
            raise WorkerDied(f"a worker process does not start: {sys.executable}: {error}") from error
        self._process = process
        self._fleet.add(process)
        self._listener = threading.Thread(target=self._listen, args=(process,), daemon=True, name="worker")
        self._listener.start()
        threading.Thread(target=self._wait, args=(process,), daemon=True, name="worker").start()

    def stop_worker(self) -> None:
        """Returns once the process has ended, by itself or not."""
        self._is_ending = True
        if self._process:
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

    def _listen(self, process: subprocess.Popen) -> None:
        assert process.stderr
        with process.stderr as stream:
            for line in stream:
                self._said.append(line.decode("utf-8", "replace").rstrip())

    def _wait(self, process: subprocess.Popen) -> None:
        """Fails the run if the process does not come up, or ends before it should."""
        started, computed = time.monotonic(), 0.0
        while True:
            try:
                process.wait(_START_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if self.control_conn._state != beam.BeamFnControlServicer.UNSTARTED_STATE:
                    break
                before, computed = computed, cpus.seconds_of(process.pid)
                taken = time.monotonic() - started
                # On a busy machine it may take longer, as long as it does something.
                if computed - before < _BUSY * _START_SECONDS or taken > _MOST_STARTS * _START_SECONDS:
                    process.kill()
                    what = f"did not come up within {taken:.0f} s"
                    return self._fleet.fail(WorkerDied(self._sentence(process, what, tells=True)))
        code = process.wait()
        if not self._is_ending:
            self._listener.join(1)  # what it wrote last
            self._fleet.fail(WorkerDied(self._sentence(process, f"ended {how(code)}", tells=code >= 0)))
        return None

    def _sentence(self, process: subprocess.Popen, what: str, tells: bool) -> str:
        said = " | ".join(line for line in self._said if line)[-2000:]
        tail = f"; it wrote: {said}" if tells and said else ""
        return f"worker process {process.pid} {what}: run the same command again to resume{tail}"


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


def how(code: int) -> str:
    """How a process ended, from the exit code that `subprocess` reports."""
    if code >= 0:
        return f"with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = ", as where memory runs out" if -code == signal.SIGKILL else ""
    return f"by {name}{hint}"
