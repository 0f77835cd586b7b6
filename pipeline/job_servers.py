"""Job servers that Beam starts beside the launcher, as for Flink, Spark and Prism: they end with it, however it ends.

Beam connects them with the launcher by pipes and sockets only: after a SIGKILL they would stay for ever, with their files.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from apache_beam.portability.api import beam_job_api_pb2_grpc
from apache_beam.runners.portability import job_server as beam
from apache_beam.utils.subprocess_server import SubprocessServer

from transforms.feeding.forking import python

_PREFIX = "bit-features-engine-"  # of folders for a job server's temporary files
_LOCK = "lock"  # in such a folder, locked as long as launcher or guard live
_END_SECONDS = 30.0
_TRACE = re.compile(
    r"\s+at |\s+\.\.\. \d+ more|Caused by: |Exception in thread |(\w+\.)+\w*(Exception|Error)\b"
)


def guard() -> None:
    """Has Beam start job servers under a guard from now on, which ends them with this process (`guard.py`)."""
    beam.SubprocessJobServer.start = _start  # type: ignore[method-assign]
    beam.SubprocessJobServer.stop = _stop  # type: ignore[method-assign]


def _start(server: beam.SubprocessJobServer) -> beam_job_api_pb2_grpc.JobServiceStub:
    """Starts the process, in place of SubprocessJobServer.start, and returns once it answers."""
    folder = server._local_temp_root or tempfile.mkdtemp(prefix=_PREFIX)
    try:
        if server._server is None:
            server._local_temp_root = folder
            command, endpoint = server.subprocess_cmd_and_endpoint()
            logger = logging.getLogger(type(server).__name__)
            if server._log_filter is not None:
                logger.addFilter(server._log_filter)
                logger.setLevel(logging.INFO)
            server._server = _Server(folder, command, endpoint, logger)
        return server._server.start()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _stop(server: beam.SubprocessJobServer) -> None:
    """In place of SubprocessJobServer.stop, which stumbles over files that the process still writes."""
    if server._server is not None:
        server._server.stop()


class _Server(SubprocessServer):
    """A job server under a guard; Beam's class waits until it answers."""

    def __init__(self, folder: str, command: list[str], endpoint: str, logger: logging.Logger):
        super().__init__(beam_job_api_pb2_grpc.JobServiceStub, command, logger=logger)
        self._folder, self._endpoint = folder, endpoint
        self._process: subprocess.Popen | None = None

    def start_process(self) -> tuple[subprocess.Popen, str]:
        """Called by `start`, again if the process ends before it answers."""
        program, *arguments = self._cmd
        if not shutil.which(program):
            raise FileNotFoundError(
                f"{program}, which the engine's job server needs, is not on PATH: install it (Java: apt install "
                "default-jre-headless), or name it in --job_server_java_launcher"
            )
        os.makedirs(self._folder, exist_ok=True)
        if "-jar" in arguments:
            # Images never pass through Java, an embedded engine included: it has little to do that repays compiling with C2.
            arguments = ["-XX:TieredStopAtLevel=1", f"-Djava.io.tmpdir={self._folder}", *arguments]
        lock = os.open(os.path.join(self._folder, _LOCK), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._lock = lock
        self._process = subprocess.Popen(
            [
                *python("from pipeline import guard; guard.main(*sys.argv[1:])"),
                self._folder,
                program,
                *arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
            env={**os.environ, "TMPDIR": self._folder},
            start_new_session=True,  # Ctrl-C is for the launcher, which then needs it to cancel the job
        )
        threading.Thread(target=self._log, args=(self._process,), daemon=True).start()
        return self._process, self._endpoint

    def _log(self, process: subprocess.Popen) -> None:
        assert process.stdout
        trace: list[str] = []  # of an exception in Java, which is one record
        for data in process.stdout:
            line = data.decode("utf-8", "backslashreplace").rstrip()
            if _TRACE.match(line):
                trace.append(line)
                continue
            if trace:
                self._logger.info("%s", "\n".join(trace))
                trace.clear()
            self._logger.info("%s", line)
        if trace:
            self._logger.info("%s", "\n".join(trace))

    def stop_process(self) -> None:
        """Called by `stop`."""
        with contextlib.suppress(Exception):
            if self._grpc_channel:
                self._grpc_channel.close()
        self._grpc_channel = None
        if self._process:
            assert self._process.stdin
            self._process.stdin.close()  # by which the guard ends it
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
            self._process = None
            os.close(self._lock)

    stop_force = stop_process


def sweep() -> list[str]:
    """Ends job servers whose launcher and guard are gone, and removes their folders; returns what to say of each."""
    lines = []
    for folder in glob.glob(os.path.join(glob.escape(tempfile.gettempdir()), f"{_PREFIX}*")):
        with contextlib.suppress(OSError), open(os.path.join(folder, _LOCK), "rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if it is in use
            processes = _processes_with(folder)
            for process in processes:
                os.kill(process, signal.SIGKILL)
            shutil.rmtree(folder)
            ended = f"job server {', '.join(map(str, processes))} and " if processes else ""
            lines.append(f"removed what a killed run left on this machine: {ended}{folder}")
    return lines


def _processes_with(word: str) -> list[int]:
    """The processes, on a system with /proc, whose command holds a text."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found
