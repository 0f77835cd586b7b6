"""Workers use the launcher's stores, whatever an engine passes on to them, or refuse."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker import worker_pool_main

from tests import engines, helpers, stores
from transforms.commit.layout import Layout
from transforms.storage import door
from transforms.storage.door import StoreSettings
from transforms.write import WriteShards

pytestmark = pytest.mark.xdist_group("stores")

SECRET = "not-for-logs"
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("AWS_") and name != "STORAGE_EMULATOR_HOST"
}


@pytest.fixture(scope="module")
def s3():
    with stores.s3() as store:
        store.use()
        yield store


@contextlib.contextmanager
def worker_pool(**variables: str) -> Iterator[int]:
    """A pool of Python workers as on a Flink host: it gets none of Beam's options, and knows no store but by `variables`."""
    (port,) = engines.free_ports(1)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-m", worker_pool_main.__name__, f"--service_port={port}"],
        cwd=helpers.REPO,
        env={**CLEAN, "PATH": path, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        engines.wait_for_port(port)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def test_flags_for_a_store_reach_worker_processes(tmp_path, s3):
    pattern = helpers.write_shards(tmp_path / "in", (3, 2))
    helpers.job(f"--input={pattern}", "--batch_size=2", output=tmp_path / "out")
    s3.use()
    output, flags = s3.folder(), [*helpers.TINY, f"--input={pattern}", "--batch_size=2", *s3.flags]
    processes = ("--direct_num_workers=1", "--direct_running_mode=multi_processing")
    helpers.job_process(*flags, *processes, f"--output={output}")
    assert stores.contents(output) == helpers.contents(tmp_path / "out")


def test_flags_for_a_store_reach_a_worker_pool(tmp_path, s3):
    pattern = helpers.write_shards(tmp_path / "in", (3, 2))
    helpers.job(f"--input={pattern}", "--batch_size=2", output=tmp_path / "out")
    s3.use()
    output, flags = s3.folder(), [*helpers.TINY, f"--input={pattern}", "--batch_size=2", *s3.flags]
    with worker_pool() as port:
        engine = ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL")
        done = helpers.job_process(
            *flags, *engine, f"--environment_config=localhost:{port}", f"--output={output}"
        )
    assert "secret" not in done.stderr
    assert stores.contents(output) == helpers.contents(tmp_path / "out")


# Forks a new process for each line: an environment, a pickled step that it sets up, and what to show of it. A worker that
# has its environment before it imports anything is in the test of a worker pool above, and in those of engines.
WORKERS = """
import base64, json, os, pickle, sys, traceback
import transforms.write
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import *
from transforms.storage.stores import store_of

for line in sys.stdin:
    environment, step, shown = json.loads(line)
    reader, writer = os.pipe()
    if not os.fork():
        os.environ.update(environment)
        try:
            pickle.loads(base64.b64decode(step)).setup()
            options = FileSystems._pipeline_options
            said = str(eval(shown))
        except BaseException as error:
            said = traceback.format_exception_only(error)[-1].strip()
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    print(json.dumps(open(reader, "rb").read().decode()), flush=True)
    os.wait()
"""


@pytest.fixture(scope="module")
def on_a_worker():
    """What the last argument is in a new process in which a step of a job with these settings has been set up."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}

    def ask(settings: StoreSettings, environment: Mapping[str, str], shown: str) -> str:
        step = base64.b64encode(pickle.dumps(WriteShards(Layout("/nowhere"), {}, settings))).decode()
        process.stdin.write(json.dumps([environment, step, shown]) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, "the process that forks workers has ended"
        return json.loads(answer)

    with subprocess.Popen([sys.executable, "-c", WORKERS], cwd=helpers.REPO, env=CLEAN, **pipes) as process:
        yield ask


S3_CLIENT = "store_of('s3://')._client.meta.endpoint_url"
GCS_CLIENT = "store_of('gs://').endpoint(options)"
HERE = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("flags", "variables", "shown", "expected"),
    [
        ((f"--s3_endpoint_url={HERE}",), {}, S3_CLIENT, HERE),
        ((), {"AWS_ENDPOINT_URL": HERE}, S3_CLIENT, HERE),
        ((), {"AWS_ENDPOINT_URL_S3": HERE}, S3_CLIENT, HERE),
        ((), {"STORAGE_EMULATOR_HOST": HERE}, GCS_CLIENT, HERE),
        ((), {}, GCS_CLIENT, "https://storage.googleapis.com"),
        (("--project=p",), {}, "options.view_as(GoogleCloudOptions).project", "p"),
        (("--hdfs_host=h", "--hdfs_port=9", "--hdfs_user=u"), {},
         "options.view_as(HadoopFileSystemOptions).hdfs_host", "h"),
    ],
)  # fmt: skip
def test_what_the_launcher_was_told_holds_on_workers(
    monkeypatch, on_a_worker, flags, variables, shown, expected
):
    for name in (*os.environ.keys() - CLEAN.keys(),):
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = door.of_launcher(PipelineOptions(list(flags)), ["s3://bucket/in", "gs://bucket/out"])
    assert on_a_worker(settings, {}, shown) == expected
    assert on_a_worker(settings, variables, shown) == expected


@pytest.mark.parametrize(
    ("flags", "worker", "named"),
    [
        ((), {"AWS_ENDPOINT_URL": HERE}, "AWS_ENDPOINT_URL"),
        ((), {"STORAGE_EMULATOR_HOST": HERE}, "STORAGE_EMULATOR_HOST"),
    ],
)
def test_a_worker_that_was_told_something_else_refuses(monkeypatch, on_a_worker, flags, worker, named):
    for name in (*os.environ.keys() - CLEAN.keys(),):
        monkeypatch.delenv(name)
    settings = door.of_launcher(PipelineOptions(list(flags)), ["s3://bucket/in", "gs://bucket/out"])
    said = on_a_worker(settings, worker, "'used'")
    assert f"at {HERE}, the launcher at " in said
    assert f"set {named} to the same on both" in said


def test_secrets_are_not_shown():
    options = PipelineOptions([f"--s3_secret_access_key={SECRET}", f"--s3_session_token={SECRET}"])
    settings = door.of_launcher(options, ["s3://bucket/in"])
    assert SECRET in settings.options
    assert SECRET not in repr(settings)
    assert SECRET not in str(door.without_secrets(options).get_all_options())
