"""The Python workers of a TaskManager on this machine: `worker_pool.py HOST:PORT`; further arguments only mark the process.

Beam's own pool listens on all addresses, and a TaskManager waits without end for a worker that dies before it is connected. So a
worker that dies young is started again, as Beam's boot program does in a container.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc as api
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

_YOUNG_SECONDS = 120  # later it is connected, and its TaskManager knows of its end
_STARTS = 4  # of Beam's boot program


class Pool(BeamFnExternalWorkerPoolServicer):
    """Beam's pool, which looks after the processes that it has started."""

    def __init__(self):
        super().__init__(use_process=True)
        self._lock = threading.Lock()

    def StartWorker(self, start_worker_request, context):
        """Starts a worker."""
        response = super().StartWorker(start_worker_request, context)
        if not response.error:
            name = start_worker_request.worker_id
            threading.Thread(
                target=self._watch, args=(name, self._worker_processes[name]), daemon=True
            ).start()
        return response

    def StopWorker(self, stop_worker_request, context):
        """Ends a worker."""
        with self._lock:
            return super().StopWorker(stop_worker_request, context)

    def _watch(self, name: str, process: subprocess.Popen) -> None:
        for starts in range(1, _STARTS + 1):
            began = time.monotonic()
            code = process.wait()
            with self._lock:
                was_stopped = self._worker_processes.get(name) is not process
                if was_stopped or not code or time.monotonic() - began > _YOUNG_SECONDS:
                    return
                if starts == _STARTS:
                    logging.error(
                        "worker %s ended with %d, %d times: its last words are above", name, code, starts
                    )
                    return
                logging.warning("worker %s ended with %d soon after its start: starting it again", name, code)
                process = self._worker_processes[name] = subprocess.Popen(process.args)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    server = grpc.server(shared_unbounded_instance(), options=[("grpc.so_reuseport", 0)])
    server.add_insecure_port(sys.argv[1])
    api.add_BeamFnExternalWorkerPoolServicer_to_server(Pool(), server)
    server.start()
    threading.Event().wait()
