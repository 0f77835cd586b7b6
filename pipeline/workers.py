"""DirectRunner's workers, watched: a bundle that fails, or a process that dies, ends the run in seconds.

Beam itself waits for the bundles of all workers after one has failed, starts worker processes through a shell, waits for
ever for one that does not come up, and takes a killed one for a broken connection.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner import worker_handlers as beam
from apache_beam.runners.worker import sdk_worker

from pipeline import fleet as fleets
from pipeline.fleet import Fleet
from pipeline.worker_process import Process

_READER = "wait_until_finish_read"  # Beam's thread for the messages of an engine


@contextlib.contextmanager
def watched() -> Iterator[Fleet]:
    """A context in which Beam's DirectRunner uses the workers of this module, those of a fleet."""
    fleet = Fleet()
    handlers = beam.WorkerHandler._registered_environments
    before, hook = dict(handlers), threading.excepthook
    handlers[python_urns.EMBEDDED_PYTHON] = partial(_Inside, fleet), None
    handlers[python_urns.EMBEDDED_PYTHON_GRPC] = partial(_Thread, fleet), bytes
    handlers[python_urns.SUBPROCESS_SDK] = partial(Process, fleet), bytes

    def tell(what: threading.ExceptHookArgs) -> None:
        # What ends Beam's threads when a worker process dies, or a JobManager goes away, is told otherwise.
        if not issubclass(what.exc_type, grpc.RpcError) and getattr(what.thread, "name", "") != _READER:
            hook(what)

    threading.excepthook = tell
    sdk_worker.print = lambda *_, **__: None  # type: ignore[attr-defined]  # tracebacks, which it also logs
    try:
        yield fleet
    finally:
        del sdk_worker.print  # type: ignore[attr-defined]
        threading.excepthook = hook
        handlers.update(before)
        fleet.close()


class _Inside(beam.EmbeddedWorkerHandler):
    """A worker on the thread that asks it to work."""

    def __init__(self, fleet: Fleet, *arguments: Any):
        self._fleet = fleet
        super().__init__(*arguments)

    def push(self, request: Any) -> Any:
        try:
            return super().push(request)
        except BaseException as error:
            self._fleet.fail(error)
            raise


class _Thread(beam.EmbeddedGrpcWorkerHandler):
    """A worker on a thread of its own."""

    def __init__(self, fleet: Fleet, *arguments: Any):
        super().__init__(*arguments)
        self._fleet = fleet
        self._fleet.follow(self.control_conn)

    def stop_worker(self) -> None:
        """Leaves a thread to itself that is in the middle of a bundle of a failed run."""
        self.worker_thread.join(fleets.GRACE_SECONDS if self._fleet.error else None)
