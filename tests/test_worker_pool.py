"""The pool of Python workers on the local Flink cluster, with a program in place of `python` that it starts."""

import os
import subprocess
import sys
import time

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2 as messages
from apache_beam.portability.api import beam_fn_api_pb2_grpc as api

from tests import helpers
from tests.engines import free_ports, wait_for_port

POOL = helpers.REPO / "deploy" / "flink" / "worker_pool.py"


@pytest.fixture
def pool(tmp_path):
    """Starts a worker of which each process runs a line of shell; returns the stub, and what has run so far."""
    (port,) = free_ports(1)
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([sys.executable, POOL, f"127.0.0.1:{port}"], env=environment, stderr=log)
    wait_for_port(port)

    def start(line):
        program.write_text(f"#!/bin/sh\necho $$ >>{tmp_path}/started\n{line}\n")
        program.chmod(0o755)
        stub = api.BeamFnExternalWorkerPoolStub(grpc.insecure_channel(f"127.0.0.1:{port}"))
        assert not stub.StartWorker(messages.StartWorkerRequest(worker_id="1-1")).error
        return stub

    try:
        yield start
    finally:
        process.kill()
        process.wait()


def started(tmp_path):
    path = tmp_path / "started"
    return len(path.read_text().split()) if path.exists() else 0


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("line", ["exit 1", "kill -9 $$"])
def test_a_worker_that_dies_young_is_started_again_as_often_as_in_a_container(tmp_path, pool, line):
    pool(line)
    wait_until(lambda: "4 times: its last words are above" in (tmp_path / "log").read_text())
    assert started(tmp_path) == 4


@pytest.mark.parametrize(
    ("line", "stop"),
    [("exit 0", False), ("exec sleep 600", True), ("trap 'exit 9' TERM; sleep 600 & wait", True)],
)
def test_one_that_is_done_or_stopped_is_not(tmp_path, pool, line, stop):
    stub = pool(line)
    wait_until(lambda: started(tmp_path) == 1)
    if stop:
        assert not stub.StopWorker(messages.StopWorkerRequest(worker_id="1-1")).error
    time.sleep(1)  # in which it would be started
    assert started(tmp_path) == 1
    assert "again" not in (tmp_path / "log").read_text()
