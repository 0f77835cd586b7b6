"""A stand-in for the Dataflow service on loopback: takes jobs over its REST interface and runs them with FnApiRunner.

A job runs in a process of its own that knows nothing but the submitted pipeline, as a worker does.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests import helpers


@dataclass
class Job:
    """A submitted job: its request, and the process that runs it."""

    request: dict
    process: subprocess.Popen | None = None
    cancelled: bool = False

    @property
    def state(self) -> str:
        if self.cancelled:
            return "JOB_STATE_CANCELLED"
        code = self.process.poll() if self.process else None
        return {None: "JOB_STATE_RUNNING", 0: "JOB_STATE_DONE"}.get(code, "JOB_STATE_FAILED")


@dataclass
class DataflowService:
    """The jobs that were submitted, and the environment that their workers get."""

    environment: dict[str, str]
    jobs: list[Job] = field(default_factory=list)

    def __enter__(self) -> DataflowService:
        self._server = ThreadingHTTPServer(("localhost", 0), type("Bound", (_Handler,), {"service": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for job in self.jobs:
            if job.process:
                job.process.kill()
                job.process.wait()

    @property
    def url(self) -> str:
        return f"http://localhost:{self._server.server_address[1]}"

    def create(self, request: dict) -> Job:
        options = request["environment"]["sdkPipelineOptions"]["options"]
        job = Job(request)
        job.process = subprocess.Popen(
            [sys.executable, "-m", "tests.dataflow_service", options["pipelineUrl"]],
            cwd=helpers.REPO,
            env=self.environment,
        )
        self.jobs.append(job)
        return job

    def answer(self, number: int) -> dict:
        job = self.jobs[number]
        return {
            "id": f"job-{number}",
            "name": job.request["name"],
            "projectId": "project",
            "location": "europe-west4",
            "currentState": job.state,
        }


def metric(name: str, value: int, step: str, tentative: bool) -> dict:
    """A user's counter as the service gives it: each once as committed and once as tentative."""
    context = {"namespace": "bit_features", "step": step, **({"tentative": "true"} if tentative else {})}
    return {"name": {"origin": "user", "name": name, "context": context}, "scalar": value}


# Of any job, since this service does not look into the workers.
METRICS = [metric("out-features", count, f"s{count}", later) for count in (3, 2) for later in (False, True)]


class _Handler(BaseHTTPRequestHandler):
    service: DataflowService
    protocol_version = "HTTP/1.1"

    def _reply(self, answer: dict) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        body = self._body()
        if self.path.startswith("/token"):
            self._reply({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})
        else:
            self.service.create(json.loads(body))
            self._reply(self.service.answer(len(self.service.jobs) - 1))

    def do_GET(self) -> None:
        number = int(re.search(r"/jobs/job-(\d+)", self.path)[1])
        if "/messages" in self.path:
            self._reply({})
        elif "/metrics" in self.path:
            self._reply({"metrics": METRICS})
        else:
            self._reply(self.service.answer(number))

    def do_PUT(self) -> None:
        request = json.loads(self._body())
        number = int(re.search(r"/jobs/job-(\d+)", self.path)[1])
        if request.get("requestedState") in ("JOB_STATE_CANCELLED", 5):
            self.service.jobs[number].process.kill()
            self.service.jobs[number].cancelled = True
        self._reply(self.service.answer(number))

    def log_message(self, *_) -> None:
        pass


def service_account(path: Path, token_url: str) -> Path:
    """Writes credentials that are valid in form and good for nothing: without any, clients search for long."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "project",
        "private_key": pem.decode(),
        "client_email": "nobody@project.iam.gserviceaccount.com",
        "token_uri": token_url,
    }
    path.write_text(json.dumps(account))
    return path


def _run(pipeline_url: str) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability.api import beam_runner_api_pb2
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
    from apache_beam.transforms import environments

    from transforms.storage import door

    pipeline = beam_runner_api_pb2.Pipeline.FromString(door.read_bytes(pipeline_url))
    here = environments.EmbeddedPythonEnvironment.default().to_runner_api(None)
    for environment in pipeline.components.environments.values():
        environment.CopyFrom(here)
    FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()


if __name__ == "__main__":
    _run(sys.argv[1])
