"""The process that forks others for the tests: see warm.py. It imports no more than it is told to, as forks copy all of it."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Sequence

NUMBER = struct.Struct("i")  # what it answers: the process, and at its end how it ended
WORKER = "apache_beam.runners.worker.sdk_worker_main"
_DESCRIPTORS_MAX = 8


def be_forker(settings: dict, descriptors: Sequence[int]) -> None:
    from transforms.feeding import forker

    names = ("control", "pixels", "lock")
    forker.main(json.dumps({**settings, **dict(zip(names, descriptors, strict=True))}))


def be_worker(_: None, descriptors: Sequence[int]) -> None:
    os.dup2(descriptors[0], 2)
    main = importlib.import_module(WORKER).main
    main([])


def serve(number: int, modules: Sequence[str]) -> None:
    """Forks as ordered, and says how each ended, until the ordering socket is closed."""
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # else the first collection of each fork copies all objects
    control = socket.socket(fileno=number)
    wake, waken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {one: signal.getsignal(one) for one in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)}
    signal.set_wakeup_fd(waken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    answers: dict[int, int] = {}  # by process
    while True:
        ready, _, _ = select.select([control, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            while answers:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                answer = answers.pop(pid)
                with contextlib.suppress(BrokenPipeError):
                    os.write(answer, NUMBER.pack(status))
                os.close(answer)
        if control not in ready:
            continue
        order, passed, _, _ = socket.recv_fds(control, 1 << 20, _DESCRIPTORS_MAX)
        if not order:
            return None
        answer, *descriptors = passed
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            for one, handler in before.items():
                signal.signal(one, handler)
            control.close()
            for descriptor in (wake, waken, answer, *answers.values()):
                os.close(descriptor)
            call, argument, environment, folder = json.loads(order)
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            _end_with(call, argument, descriptors)
        with contextlib.suppress(BrokenPipeError):
            os.write(answer, NUMBER.pack(pid))
        answers[pid] = answer
        for descriptor in descriptors:
            os.close(descriptor)


def _end_with(call: str, argument: object, descriptors: Sequence[int]) -> None:
    """Ends the process as the interpreter does, but that it takes no module apart: a second for those of TensorFlow and Beam."""
    code = 1
    try:
        module, name = call.split(":")
        getattr(importlib.import_module(module), name)(argument, descriptors)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # waits for its threads
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
