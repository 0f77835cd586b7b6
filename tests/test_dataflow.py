"""The job on Dataflow as far as one machine can go: submitted for real, to a service that runs it here."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from google.cloud import dataflow_v1beta3
from google.cloud.storage import Client

from pipeline import options
from tests import engines, helpers
from tests.bit.test_mirrors import NAMES
from tests.dataflow_service import DataflowService, service_account
from tests.pages import blocks

DEPLOY = helpers.REPO / "deploy" / "dataflow"
GPUS = {
    "t4": ("nvidia-tesla-t4", "n1-standard-8", "float16"),
    "l4": ("nvidia-l4", "g2-standard-8", "bfloat16"),
    "a100": ("nvidia-tesla-a100", "a2-highgpu-1g", "bfloat16"),
    "h100": ("nvidia-h100-80gb", "a3-highgpu-1g", "bfloat16"),
}
# On demand there is no machine with one H100.
PROVISIONING = {"h100": ";provisioning_model:FLEX_START"}
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
        f"worker_accelerator=type:{accelerator};count:1;install-nvidia-driver{PROVISIONING.get(gpu, '')}"
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


def examples_of_models():
    """Those of the table in docs/models.md that are no local path, and all other forms of official names."""
    table = (helpers.REPO / "docs" / "models.md").read_text().partition("|---|---|\n")[2].partition("\n\n")[0]
    for text in re.findall(r"`([^`]+)`", "".join(line.split("|")[2] for line in table.splitlines())):
        if text.startswith(".") or text == "bit.export":
            continue  # a suffix, and what writes a local folder
        for name in (text.replace("(s)", ""), text.replace("(s)", "s")):
            yield f"{name}bucket/module" if name.endswith(("/", ":")) else name
    for names in NAMES.values():
        yield from names


def test_the_template_takes_every_name_that_is_documented():
    spec = json.loads((DEPLOY / "flex_template.json").read_text())
    (pattern,) = next(p["regexes"] for p in spec["metadata"]["parameters"] if p["name"] == "model")
    names = set(examples_of_models())
    assert {"vtab/BiT-M-R101x3-run0-caltech101.npz", "s3://bucket/module", "http://bucket/module"} <= names
    assert {"hf-hub:bucket/module", "gs://bit_models/...", "untrained/tiny"} <= names
    assert [name for name in sorted(names) if not re.fullmatch(pattern, name)] == []
    for name in ("", "x", "/models/mine.npz", "mine.npz", "./mine", "bit/", "file:///m.npz", "bit/m-r101x3 "):
        assert not re.fullmatch(pattern, name), name


# The flags of gcloud's commands, from its reference (528.0.0), as far as the documentation uses these commands.
OF_TEMPLATES = (
    *("--additional-experiments", "--additional-user-labels", "--dataflow-kms-key", "--disable-public-ips"),
    *("--enable-streaming-engine", "--max-workers", "--network", "--num-workers", "--service-account-email"),
    *("--staging-location", "--subnetwork", "--temp-location", "--worker-machine-type", "--worker-region"),
    "--worker-zone",
)
GCLOUD = {
    "config set": (),
    "services enable": (),
    "storage buckets create": ("--location",),
    "artifacts repositories create": ("--repository-format", "--location"),
    "iam service-accounts create": (),
    "projects add-iam-policy-binding": ("--member", "--role"),
    "compute networks subnets update": ("--region", "--enable-private-ip-google-access"),
    "auth configure-docker": (),
    "dataflow flex-template build": (*OF_TEMPLATES, "--image", "--sdk-language", "--metadata-file"),
    "dataflow flex-template run": (
        *OF_TEMPLATES,
        *("--additional-pipeline-options", "--flexrs-goal", "--launcher-machine-type", "--parameters"),
        *("--region", "--template-file-gcs-location", "--transform-name-mappings", "--update"),
    ),
}
DOCKER = {"build": ("--file", "--build-arg", "--tag"), "push": ()}
LAUNCH = (
    *("--project", "--region", "--temp_location", "--sdk_container_image", "--service_account_email"),
    *(
        "--max_num_workers",
        "--no_use_public_ips",
        "--subnetwork",
        "--input",
        "--output",
        "--model",
        "--offline",
    ),
)
PAGE = helpers.REPO / "docs" / "running.md"
RECORDER = '#!/bin/bash\n{ printf "%s\\0" "${0##*/}" "$@"; echo; } >>"$RECORD"\n'


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """What the blocks of the documentation's section call, in order: each as the list of its words; and their folder."""
    folder = tmp_path_factory.mktemp("documented")
    (folder / "bin").mkdir()
    for program in ("gcloud", "docker", "python"):
        path = folder / "bin" / program
        path.write_text(RECORDER)
        path.chmod(0o755)
    (folder / "deploy").symlink_to(helpers.REPO / "deploy")
    section = [text for text in blocks(PAGE, "bash") if "$PROJECT" in text or "flex-template" in text]
    assert len(section) == 3
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    environment["RECORD"] = str(folder / "record")
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(section)]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=60)
    lines = (folder / "record").read_text().splitlines()
    return [line.split("\0")[:-1] for line in lines], folder


def called(documented, *start):
    return [words for words in documented[0] if tuple(words[: len(start)]) == start]


def values_of(words):
    return dict(word.partition("=")[::2] for word in words if word.startswith("--"))


def listed(text):
    return dict(part.partition("=")[::2] for part in text.split(","))


def test_the_commands_of_the_documentation_have_flags_of_their_programs(documented):
    programs = {"gcloud": GCLOUD, "docker": DOCKER}
    used = set()
    for program, *words in documented[0]:
        if program == "python":
            assert words[:2] == ["-m", "pipeline.main"]
            continue
        (verb,) = [verb for verb in programs[program] if words[: len(verb.split())] == verb.split()]
        used.add(verb)
        assert set(values_of(words)) <= {*programs[program][verb]}, words
    assert used == {*GCLOUD, *DOCKER}


def test_gcloud_itself_accepts_the_commands_of_the_documentation(documented, tmp_path):
    """It gets as far as asking for an account, and knows all flags and their values by then."""
    gcloud = shutil.which("gcloud")
    if not gcloud:
        pytest.skip("gcloud is not installed: the flags are compared with its reference only")
    environment = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    commands = [words for words in called(documented, "gcloud") if words[1] not in ("config", "auth")]
    assert len(commands) == 11
    for words in commands:
        done = subprocess.run(
            [gcloud, *words[1:], "--project=project"],
            cwd=documented[1],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1, done.stderr
        assert "You do not currently have an active account selected" in done.stderr, done.stderr


def test_the_documented_launch_is_that_of_the_flags(documented):
    (command,) = called(documented, "python")
    flags = command[3:]
    assert [flag.partition("=")[0] for flag in flags[-len(LAUNCH) :]] == list(LAUNCH)
    assert flags[: -len(LAUNCH)] == flags_of("l4")
    config, beam_options = options.parse(flags)
    assert (config.model.precision, config.model.batch_size, config.model.offline) == ("bfloat16", 128, True)
    settings = beam_options.get_all_options()
    assert (settings["use_public_ips"], settings["max_num_workers"]) == (False, 8)


def test_the_documented_template_asks_for_what_the_flags_ask_for(documented):
    """Each value of l4.flags by the way in which gcloud takes it, and nothing besides."""
    (build,), (run,) = (
        called(documented, "gcloud", "dataflow", "flex-template", v) for v in ("build", "run")
    )
    asked = values_of(run)
    template = json.loads((DEPLOY / "flex_template.json").read_text())["metadata"]
    assert json.loads((documented[1] / values_of(build)["--metadata-file"]).read_text()) == template
    assert asked["--template-file-gcs-location"] == build[4]
    parameters = listed(asked["--parameters"])
    patterns = {entry["name"]: entry["regexes"][0] for entry in template["parameters"]}
    assert all(re.fullmatch(patterns[name], value) for name, value in parameters.items())
    extra = listed(asked["--additional-pipeline-options"])
    assert extra.pop("sdk_container_image") == values_of(build)["--image"]
    flags = listed(",".join(flag[2:] for flag in flags_of("l4")))
    experiments = [flags.pop("experiments"), flags.pop("dataflow_service_options")]
    assert asked["--additional-experiments"].split(",") == experiments
    assert flags.pop("machine_type") == asked["--worker-machine-type"]
    assert flags.pop("runner") == "DataflowRunner"  # the template's launcher adds it
    assert {name: flags.pop(name) for name in ("batch_size", "precision")} == {
        name: parameters[name] for name in ("batch_size", "precision")
    }
    assert extra == flags
    config, _ = options.parse([f"--{name}={value}" for name, value in parameters.items()])
    assert config.model.offline
    launched = values_of(called(documented, "python")[0])
    for gcloud, beam in (
        ("--service-account-email", "--service_account_email"),
        ("--max-workers", "--max_num_workers"),
        ("--subnetwork", "--subnetwork"),
        ("--temp-location", "--temp_location"),
        ("--region", "--region"),
    ):
        assert asked[gcloud] == launched[beam]
    assert asked["--disable-public-ips"] == ""


def test_the_documented_table_is_that_of_the_files():
    rows = re.findall(r"^\| `(\w+)\.flags` \| (\S+) \| (\S+) \| (\S+) \|", PAGE.read_text(), re.MULTILINE)
    assert {gpu: tuple(rest) for gpu, *rest in rows} == GPUS
    assert {path.stem for path in DEPLOY.glob("*.flags")} == set(GPUS)
