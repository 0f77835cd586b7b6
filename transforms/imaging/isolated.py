"""Decodes in processes of their own, a picture at a time, with the same pixels and errors as `preprocess.decode`.

For pictures that may crash or hang a decoder: here such a picture costs a process, and the next picture gets another.
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
from transforms.imaging.worker import ANSWER, NO_MEMORY, PIXELS, QUESTION, READY, REFUSED

_PACKAGES = str(Path(__file__).resolve().parents[2])  # where the worker, too, finds this package
# By SIGKILL, which is as likely to come from a system out of memory as to be the picture's fault.
_KILLED_MAX = 2


class CannotIsolate(RuntimeError):
    """Decoding processes do not start on this machine."""


def decode(
    data: bytes, preprocessing: preprocess.Preprocessing, timeout_seconds: float, out: np.ndarray
) -> tuple[int, int]:
    """`preprocess.decode` in another process. Several threads may call it; each then has a process to itself.

    Args:
      timeout_seconds: how long decoding may take before the process is ended.
      out: C-contiguous float32 (image_size, image_size, 3). Undefined on error.

    Raises:
      ItemError: what `preprocess.decode` says, and decoder_crash or decode_timeout.
      CannotIsolate: no picture is at fault.
    """
    for attempt in range(1, _KILLED_MAX + 1):
        worker = _checked_out(preprocessing, timeout_seconds)
        try:
            answer = worker.ask(data, out)
        except (EOFError, BrokenPipeError):
            died = worker.end()
            if died == -signal.SIGKILL and attempt < _KILLED_MAX:
                continue
            raise _verdict(died, timeout_seconds) from None
        except BaseException:
            worker.end()
            raise
        _put_back(worker)
        if isinstance(answer, Exception):
            raise answer
        return answer
    raise AssertionError("the last attempt returns or raises")


def _verdict(died: int, timeout_seconds: float) -> ItemError:
    if died == -signal.SIGALRM:
        return ItemError(
            "decode_timeout",
            f"decoding did not end within {timeout_seconds:g} s; if the picture is genuine, raise --decode_timeout",
        )
    how = signal.Signals(-died).name if died < 0 else f"exit code {died}"
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
        # -c, and not -m: the folder of the job may not be where this package is.
        program = f"import sys; sys.path.insert(0, {_PACKAGES!r}); from transforms.imaging import worker; "
        self._process = subprocess.Popen(
            [sys.executable, "-c", program + "worker.main(sys.argv[1])", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[_LARGE.fileno()],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            kind, _, _ = self._answer()
        except EOFError:
            kind = b""
        if kind != READY:
            code = self.end()
            raise CannotIsolate(
                f"a process for decoding does not start ({sys.executable}, exit code {code}); see what it wrote above"
            )

    def ask(self, data: bytes, out: np.ndarray) -> tuple[int, int] | Exception:
        """Size, with the pixels in `out`; or what was raised. EOFError or BrokenPipeError if the process died."""
        assert self._process.stdin
        self._process.stdin.write(QUESTION.pack(len(data)))
        self._process.stdin.write(data)
        self._process.stdin.flush()
        kind, first, second = self._answer()
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
            raise EOFError from None  # nonsense, from a process that is as good as dead
        return ItemError(code, message)

    def _answer(self) -> tuple[bytes, int, int]:
        head = bytearray(ANSWER.size)
        self._read_into(memoryview(head))
        return ANSWER.unpack(head)

    def _read_into(self, room: memoryview) -> None:
        assert self._process.stdout
        at = 0
        while at < len(room):
            count = self._process.stdout.readinto1(room[at:])  # type: ignore[attr-defined]
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


# Kept as long as this process; locked by the one process that decodes a large picture.
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
    """Ends the processes that decode nothing now; each takes some 60 MiB of memory."""
    with _lock:
        idle, _idle[:] = _idle[:], []
    for worker in idle:
        worker.end()
