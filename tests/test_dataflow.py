"""The job on Dataflow as far as one machine can go: submitted for real, to a service that runs it here."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from google.cloud import dataflow_v1beta3
from google.cloud.storage import Client

from pipeline import options
from tests import engines, helpers
from tests.dataflow_service import DataflowService, service_account

DEPLOY = helpers.REPO / "deploy" / "dataflow"
GPUS = {
    "t4": ("nvidia-tesla-t4", "n1-standard-8", "float16"),
    "l4": ("nvidia-l4", "g2-standard-8", "bfloat16"),
    "a100": ("nvidia-tesla-a100", "a2-highgpu-1g", "bfloat16"),
    "h100": ("nvidia-h100-80gb", "a3-highgpu-1g", "bfloat16"),
}
IMAGE = "europe-west4-docker.pkg.dev/project/images/bit-features:1"
COMMON = ("--project=project", "--region=europe-west4", f"--sdk_container_image={IMAGE}", "--no_auth")


def flags_of(gpu):
    return (DEPLOY / f"{gpu}.flags").read_text().split()


def fused_stages(pipeline):
    _, stages = FnApiRunner().create_stages(pipeline)
    return [[transform.unique_name for transform in stage.transforms] for stage in stages]


def assert_one_stage(pipeline):
    (holding,) = [names for names in fused_stages(pipeline) if any("ReadShards" in name for name in names)]
    for step in ("ReadShards", "DecodeImages", "RunInference", "WriteShards"):
        assert any(name.startswith(step) for name in holding), step


def assert_gpu_job(job, gpu):
    """Asserts on the REST form of a job: GPU, image, one process of two threads, nothing of a main session."""
    accelerator, machine, _ = GPUS[gpu]
    environment = job["environment"]
    (pool,) = environment["workerPools"]
    assert environment["serviceOptions"] == [
        f"worker_accelerator=type:{accelerator};count:1;install-nvidia-driver"
    ]
    assert (pool["machineType"], pool["numThreadsPerWorker"], pool["diskSizeGb"]) == (machine, 2, 100)
    assert pool["diskType"].endswith("/diskTypes/pd-balanced")
    assert pool["workerHarnessContainerImage"] == IMAGE
    (sdk,) = pool["sdkHarnessContainerImages"]
    assert sdk["containerImage"] == IMAGE
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    assert not any("main_session" in package["name"] for package in pool.get("packages", []))


@pytest.mark.parametrize("gpu", GPUS)
def test_the_flags_of_a_gpu_make_its_job(tmp_path, capfd, gpu):
    """Launched as a template is: the description of the job goes to a file, and the launcher ends."""
    pattern = helpers.write_shards(tmp_path / "in", (1, 1))
    template = tmp_path / "job.json"
    staging = tmp_path / "staging"
    staging.mkdir()
    helpers.job(
        *flags_of(gpu),
        *COMMON,
        f"--input={pattern}",
        f"--template_location={template}",
        f"--temp_location={staging}",
        f"--staging_location={staging}",
        "--dataflow_endpoint=http://localhost:9",
        output=tmp_path / "out",
    )
    job = json.loads(template.read_text())
    assert_gpu_job(job, gpu)
    (path,) = staging.rglob("pipeline.pb")
    assert_one_stage(beam_runner_api_pb2.Pipeline.FromString(path.read_bytes()))
    out, err = capfd.readouterr()
    assert out == ""
    assert "submitted to DataflowRunner" in err
    config, _ = options.parse([*helpers.TINY, "--input=a", "--output=b", *flags_of(gpu)])
    assert (config.model.precision, config.model.batch_size) == (GPUS[gpu][2], 128)


@pytest.fixture
def cloud(tmp_path):
    """An emulated Cloud Storage with a bucket, and a Dataflow service: (service, environment, bucket)."""
    (port,) = engines.free_ports(1)
    environment = {
        **os.environ,
        "STORAGE_EMULATOR_HOST": f"http://localhost:{port}",
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "account.json"),
        "GOOGLE_CLOUD_PROJECT": "project",
    }
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host=localhost", f"--port={port}"]
    store = subprocess.Popen(
        [*command, "--in-memory", "--default-bucket=bucket"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        engines.wait_for_port(port)
        with DataflowService(environment) as service:
            service_account(tmp_path / "account.json", f"{service.url}/token")
            from google.auth.credentials import AnonymousCredentials

            client = Client(
                "project", AnonymousCredentials(), client_options={"api_endpoint": f"http://localhost:{port}"}
            )
            yield service, environment, client.bucket("bucket")
    finally:
        store.kill()
        store.wait()


def test_a_submitted_job_runs_to_its_end(tmp_path, cloud):
    service, environment, bucket = cloud
    pattern = helpers.write_shards(tmp_path / "in", (3, 2, 0))
    for path in (tmp_path / "in").iterdir():
        bucket.blob(f"in/{path.name}").upload_from_filename(path)
    common = [*helpers.TINY, "--batch_size=2"]
    command = [
        *COMMON,
        *common,
        "--input=gs://bucket/in/*",
        "--output=gs://bucket/out",
        "--temp_location=gs://bucket/tmp",
        f"--dataflow_endpoint={service.url}",
        "--precision=float32",
        f"--report_file={tmp_path / 'report.json'}",
    ]
    # As the documentation has it: the shell puts the flags of the GPU into the command.
    written = (
        f"{shlex.quote(sys.executable)} -m pipeline.main $(<deploy/dataflow/l4.flags) {shlex.join(command)}"
    )
    done = subprocess.run(
        ["bash", "-c", written],
        cwd=helpers.REPO,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "Created job with id: [job-0]" in done.stderr  # Airflow's operator looks for it
    assert "gs://bucket/out: 5 features, 0 failures" in done.stderr
    assert json.loads((tmp_path / "report.json").read_text())["counters"]["out-features"] == 5
    (job,) = service.jobs
    assert_gpu_job(job.request, "l4")
    (pipeline,) = [blob for blob in bucket.list_blobs(prefix="tmp/") if blob.name.endswith("pipeline.pb")]
    assert_one_stage(beam_runner_api_pb2.Pipeline.FromString(pipeline.download_as_bytes()))
    helpers.job(*common, f"--input={pattern}", output=tmp_path / "direct")
    written = {
        blob.name[len("out/") :]: blob.download_as_bytes()
        for blob in bucket.list_blobs(prefix="out/features")
    }
    expected = {
        name: data for name, data in helpers.contents(tmp_path / "direct").items() if name.startswith("feat")
    }
    assert written == expected


def test_the_template_has_every_flag_with_a_pattern_that_fits(tmp_path):
    spec = json.loads((DEPLOY / "flex_template.json").read_text())
    dataflow_v1beta3.ContainerSpec.from_json(json.dumps(spec))  # refuses unknown fields
    parameters = {parameter["name"]: parameter for parameter in spec["metadata"]["parameters"]}
    flags = {action.dest: action for action in options.parser()._actions if action.dest != "help"}
    assert list(parameters) == list(flags)
    for name, flag in flags.items():
        parameter = parameters[name]
        assert parameter["isOptional"] is (name not in ("input", "output", "model")), name
        assert parameter["label"], name
        assert parameter["helpText"].endswith("."), name
        (pattern,) = parameter["regexes"]
        for value in flag.choices or ():
            assert re.fullmatch(pattern, value), name
        if flag.default and not isinstance(flag.default, list) and name != "max_bytes":
            assert re.fullmatch(pattern, str(flag.default)), name
        assert not re.fullmatch(pattern, ""), name
    good = {
        "input": "gs://bucket/in/*.tfrecord,gs://bucket/more/*",
        "output": "gs://bucket/out",
        "model": "bit/m-r101x3",
        "overwrite": "true",
        "max_bytes": "64MiB",
        "uri_schemes": "https,gs",
        "allow_private_networks": "10.0.0.0/8,fd00::/8",
        "pass_through": "image/class/label,caption",
    }
    for name, value in good.items():
        assert re.fullmatch(parameters[name]["regexes"][0], value), name
    config, _ = options.parse([f"--{name}={value}" for name, value in good.items()])
    assert (config.overwrite, config.read.fetch.max_bytes) == (True, 64 << 20)
    for name, value in {"output": "/tmp/out", "model": "x", "batch_size": "0", "overwrite": "yes"}.items():
        assert not re.fullmatch(parameters[name]["regexes"][0], value), name
