"""Decodes in separate processes, one picture at a time, with the same pixels and errors as `preprocess.decode`.

For pictures that may crash or hang a decoder: such a picture costs one process, and the next picture gets a new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np

from transforms.errors import ItemError
from transforms.imaging import preprocess
from transforms.imaging.worker import NO_MEMORY, PIXELS, READY, REFUSED, REPLY, REQUEST

_PACKAGES = str(Path(__file__).resolve().parents[2])  # where the worker, too, can import this package
# By SIGKILL: a system out of memory is as likely a cause as the picture.
_ATTEMPTS = 2


class CannotIsolate(RuntimeError):
    """Decoding processes do not start on this machine."""


def decode(
    data: bytes, preprocessing: preprocess.Preprocessing, timeout_seconds: float, out: np.ndarray
) -> tuple[int, int]:
    """`preprocess.decode` in another process. Thread-safe: each call has a process to itself.

    Args:
      timeout_seconds: limit for decoding one picture; then the process is ended.
      out: C-contiguous float32 (image_size, image_size, 3). Undefined on error.

    Raises:
      ItemError: as `preprocess.decode`, or decoder_crash or decode_timeout.
      CannotIsolate: the process does not start; not the picture's fault.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        worker = _checked_out(preprocessing, timeout_seconds)
        try:
            reply = worker.request(data, out)
        except (EOFError, BrokenPipeError):
            exit_code = worker.end()
            if exit_code == -signal.SIGKILL and attempt < _ATTEMPTS:
                continue
            raise _item_error(exit_code, timeout_seconds) from None
        except BaseException:
            worker.end()
            raise
        _put_back(worker)
        if isinstance(reply, Exception):
            raise reply
        return reply
    raise AssertionError("the last attempt returns or raises")


def _item_error(exit_code: int, timeout_seconds: float) -> ItemError:
    if exit_code == -signal.SIGALRM:
        return ItemError(
            "decode_timeout",
            f"decoding did not end within {timeout_seconds:g} s; if the picture is genuine, raise --decode_timeout",
        )
    how = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
    return ItemError(
        "decoder_crash",
        f"the decoder's process died of it ({how}); keep the file for a report, or convert it",
    )


class _Worker:
    """A running decoding process."""

    def __init__(self, preprocessing: preprocess.Preprocessing, timeout_seconds: float):
        self.settings = preprocessing, timeout_seconds
        settings = {
            "preprocessing": asdict(preprocessing),
            "timeout_seconds": timeout_seconds,
            "lock_fd": _LARGE.fileno(),
        }
        # -c, not -m: this package need not be in the job's working directory.
        program = f"import sys; sys.path.insert(0, {_PACKAGES!r}); from transforms.imaging import worker; "
        self._process = subprocess.Popen(
            [sys.executable, "-c", program + "worker.main(sys.argv[1])", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[_LARGE.fileno()],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            kind, _, _ = self._reply()
        except EOFError:
            kind = b""
        if kind != READY:
            code = self.end()
            raise CannotIsolate(
                f"a decoding process does not start ({sys.executable}, exit code {code}); see its output above"
            )

    def request(self, data: bytes, out: np.ndarray) -> tuple[int, int] | Exception:
        """(width, height), with the pixels in `out`; or the error raised. EOFError or BrokenPipeError if the process died."""
        assert self._process.stdin
        self._process.stdin.write(REQUEST.pack(len(data)))
        self._process.stdin.write(data)
        self._process.stdin.flush()
        kind, first, second = self._reply()
        if kind == PIXELS:
            self._read_into(out.data.cast("B"))
            return first, second
        if kind == NO_MEMORY:
            return MemoryError("out of memory in a decoding process")
        text = bytearray(first if kind == REFUSED else 0)
        self._read_into(memoryview(text))
        try:
            code, message = json.loads(text)
        except ValueError:
            raise EOFError from None  # garbage from a process that is as good as dead
        return ItemError(code, message)

    def _reply(self) -> tuple[bytes, int, int]:
        head = bytearray(REPLY.size)
        self._read_into(memoryview(head))
        return REPLY.unpack(head)

    def _read_into(self, buffer: memoryview) -> None:
        assert self._process.stdout
        at = 0
        while at < len(buffer):
            count = self._process.stdout.readinto1(buffer[at:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            at += count

    def end(self) -> int:
        """Ends the process; its exit code, or the negative number of the signal that ended it."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait()


# Exists as long as this process; the one process that decodes a large picture locks it.
_LARGE = tempfile.TemporaryFile()  # noqa: SIM115
_lock = threading.Lock()
_idle: list[_Worker] = []
os.register_at_fork(after_in_child=_idle.clear)


def _checked_out(preprocessing: preprocess.Preprocessing, timeout_seconds: float) -> _Worker:
    with _lock:
        for worker in _idle:
            if worker.settings == (preprocessing, timeout_seconds):
                _idle.remove(worker)
                return worker
    return _Worker(preprocessing, timeout_seconds)


def _put_back(worker: _Worker) -> None:
    with _lock:
        _idle.append(worker)


def end_idle() -> None:
    """Ends the idle decoding processes; each takes some 60 MiB of memory."""
    with _lock:
        idle, _idle[:] = _idle[:], []
    for worker in idle:
        worker.end()
