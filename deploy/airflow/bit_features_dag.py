"""Airflow 3: two DAGs that run the job and verify its output. `bit_features` starts it on DirectRunner, Flink or Dataflow;
`bit_features_template` starts the Dataflow Flex Template. Each file in the folder `scheduled` beside this one makes a further
DAG, with a schedule.

BIT_FEATURES_PYTHON names the interpreter of the virtual environment in which the project is installed: `bit_features` runs
the job with it, and both DAGs verify the output with it. The files in deploy/airflow/conf are configurations of runs. See
docs/running.md.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator
from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Asset, Param, chain, dag, get_current_context, task
from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowFailException

PYTHON = os.environ.get("BIT_FEATURES_PYTHON", "/opt/bit-features/bin/python")
FEATURES = Asset("bit_features")
SCHEDULED = Path(__file__).parent / "scheduled"  # a file for each DAG with a schedule: it, and params
# The job's: 2 the request is wrong, 3 too many images failed. A retry would end the same way.
FINAL_EXIT_CODES = (2, 3)
OPTIONAL = ["null", "string"]
OUTPUT = "Folder for features, failure ledgers, receipts and manifest; an unfinished run is resumed"

REQUEST = {
    "input": Param(
        type="string",
        minLength=1,
        description="TFRecords, WebDataset tars, Parquet files with images, lists of URIs (.txt, .csv, .tsv, .jsonl, .parquet) "
        "or image files: paths, folders, globs or {00..12} ranges, separated by commas",
    ),
    "output": Param(type="string", pattern=r"^(/|[a-z0-9]+://).*[^/]$", description=OUTPUT),
    "model": Param(
        "bit/m-r101x3",
        type="string",
        minLength=1,
        description="A name that `python -m bit.models` lists, on TF-Hub, Kaggle or timm, or the path of an .npz or SavedModel",
    ),
    "input_format": Param(
        "auto", pattern=r"^[a-z_]+$", description="Kind of the input files; auto: by name and first bytes"
    ),
    "image_feature": Param(
        None,
        type=OPTIONAL,
        minLength=1,
        description="Feature, column or tar member that holds the image. Default: in TFRecords image/encoded, in Parquet "
        "the only column of images, in tars the first image",
    ),
    "uri_column": Param(
        None,
        type=OPTIONAL,
        minLength=1,
        description="Column of a CSV, JSON Lines or Parquet list that holds the URI. Default: uri",
    ),
    "key_feature": Param(
        None,
        type=OPTIONAL,
        minLength=1,
        description="Feature, column or tar member to use as the record's key. Default: the image's URI, file#position, "
        "or file#key in tars",
    ),
    "pass_through": Param(
        None,
        type=OPTIONAL,
        minLength=1,
        description="Features, columns or tar members to copy to the output, separated by commas; NAME:int64, NAME:float "
        "or NAME:bytes sets the type",
    ),
    "images_per_shard": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        description="Images per shard of lists, image files and Parquet. Default: about 200 shards of whole batches, of at "
        "most 1024 images; a resumed output keeps its shards",
    ),
    "skip_done": Param(
        None,
        type=OPTIONAL,
        minLength=1,
        description="For an input that grows: finished outputs, or globs of them, whose inputs are left out, separated by commas",
    ),
    "image_size": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        description="Side of the square model input, in pixels. Default: what the model was trained at, or 224",
    ),
    "batch_size": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        description="Images per model call. Default: that of flags_file, or 32; 128 suits a GPU",
    ),
    "precision": Param(
        None,
        enum=[None, "float32", "tensorfloat32", "bfloat16", "float16"],
        description="Number format of the network: on GPUs, bfloat16 (T4, V100: float16) is faster and less exact. "
        "Default: that of flags_file, or float32",
    ),
    "max_failure_rate": Param(
        0.5,
        type="number",
        minimum=0,
        maximum=1,
        description="Share of the images, 0 to 1, that may fail",
    ),
}
FURTHER = {
    "flags_file": Param(
        None,
        type=OPTIONAL,
        minLength=1,
        description="File of flags on the Airflow host, such as deploy/dataflow/l4.flags; relative to the DAG's folder. "
        "Params and options come before what it says; experiments and service options are added to its own",
    ),
    "options": Param(
        {},
        type="object",
        propertyNames={"pattern": "^[a-z][a-z0-9_]*$", "not": {"enum": ["overwrite"]}},
        description="Further flags of the job and of its runner, without the dashes",
    ),
}
GOOGLE = {
    "project": Param(None, type=OPTIONAL, minLength=1, description="Google Cloud project; only for Dataflow"),
    "region": Param(
        "us-central1", type="string", minLength=1, description="Google Cloud region; only for Dataflow"
    ),
}
# Where the request for a Flex Template has what a launch from a host says with these flags of Beam:
# docs.cloud.google.com/dataflow/docs/reference/rest/v1b3, FlexTemplateRuntimeEnvironment.
ENVIRONMENT = {
    "machine_type": "machineType",
    "num_workers": "numWorkers",
    "max_num_workers": "maxWorkers",
    "worker_zone": "workerZone",
    "worker_region": "workerRegion",
    "service_account_email": "serviceAccountEmail",
    "network": "network",
    "subnetwork": "subnetwork",
    "temp_location": "tempLocation",
    "staging_location": "stagingLocation",
    "dataflow_kms_key": "kmsKeyName",
    "sdk_container_image": "sdkContainerImage",
    "launcher_machine_type": "launcherMachineType",  # of the request only
}
EXPERIMENTS = ("experiments", "dataflow_service_options")
PRIVATE = "no_use_public_ips"
# The launcher of a template gets them from the request itself.
LAUNCHERS = {"project": "project", "region": "region", "job_name": "", "runner": ""}
# Flags of the job besides REQUEST: the template has them as parameters. All others are Beam's.
JOBS = (
    "split_bytes",
    "overwrite",
    "retry_failures",
    "report_file",
    "dry_run",
    "price_per_hour",
    "offline",
    "outputs",
    "top_k",
    "outputs_map",
    "exif_orientation",
    "scaled_decoding",
    "max_pixels",
    "decode_processes",
    "decode_timeout",
    "timeout",
    "retries",
    "max_bytes",
    "fetch_threads",
    "per_host",
    "uri_schemes",
    "allow_private_networks",
    "user_agent_contact",
    "no_opt_out",
    "trust_env_proxies",
)
# Beam's options for the access to stores among the job's flags, one per line.
ACCESS = """
{%- for name, value in ti.xcom_pull(task_ids="flags").items() if name.startswith(("s3_", "hdfs_", "azure_", "blob_")) -%}
--{{ name }}{{ "" if value is sameas true else "=" ~ value }}
{% endfor -%}
"""
DEFAULTS: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 2.0,
}


class RetryUnlessFinal(RetryPolicy):
    """Fails a task without retries if the job's exit code says that a retry would end the same way."""

    def evaluate(self, exception, try_number, max_tries, context=None) -> RetryDecision:
        """Called by Airflow for each failed try; the exit code is in the exception's message."""
        code = re.search(r"(?:return|exit) code (\d+)", str(exception))
        if code and int(code[1]) in FINAL_EXIT_CODES:
            return RetryDecision.fail(f"exit code {code[1]}: the request must be changed first")
        return RetryDecision.default()


def read_flags(path: str) -> dict[str, Any]:
    """The flags of a file by name, without the dashes; a list where a flag occurs several times."""
    values: dict[str, Any] = {}
    try:
        text = (Path(__file__).parent / path).read_text()
    except OSError as error:
        raise AirflowFailException(f"flags_file: {error}; deploy/dataflow has such files") from error
    for flag in text.split():
        name, _, value = flag.removeprefix("--").partition("=")
        values.setdefault(name, []).append(value or True)
    return {name: given[0] if len(given) == 1 else given for name, given in values.items()}


@task
def flags() -> dict[str, Any]:
    """The run's params as flags of the job; those not set are left to the file of flags, or to the job's defaults."""
    context = get_current_context()
    params = context["params"]
    from_file = read_flags(params["flags_file"]) if params["flags_file"] else {}
    runner = params.get("runner", "DataflowRunner")
    if from_file.pop("runner", runner) != runner:
        raise AirflowFailException(f"{params['flags_file']} is for another runner than {runner}: set runner")
    values = {name: params[name] for name in REQUEST if params[name] is not None}
    for name, text in WRITTEN.get(context["dag"].dag_id, {}).items():
        if values.get(name) == text:  # not what the request for a run says instead
            values[name] = context["task"].render_template(text, context)
    options = params["options"]
    both = [name for name in EXPERIMENTS if name in from_file and name in options]
    added = {name: as_list(from_file[name]) + as_list(options[name]) for name in both}
    return {**from_file, **values, **options, **added}


@task
def launch(values: dict[str, Any]) -> dict[str, Any]:
    """Flags as a template takes them: what is asked of Dataflow as `environment`, those of the job as `parameters`."""
    if wrong := sorted(LAUNCHERS.keys() & values.keys()):
        param = LAUNCHERS[wrong[0]]
        raise AirflowFailException(
            f"{wrong[0]} in options or flags_file is no option of a template: "
            + (f"set the param {param}" if param else "leave it out")
        )
    own = {name: value for name, value in values.items() if name in REQUEST or name in JOBS}
    environment = {ENVIRONMENT[name]: value for name, value in values.items() if name in ENVIRONMENT}
    experiments = [entry for name in EXPERIMENTS for entry in as_list(values.get(name, []))]
    elsewhere = {*own, *ENVIRONMENT, *EXPERIMENTS, PRIVATE}
    beams = [
        entry for name in values if name not in elsewhere for entry in pipeline_options(name, values[name])
    ]
    if experiments:
        environment["additionalExperiments"] = experiments
    if beams:
        environment["additionalPipelineOptions"] = beams
    if values.get(PRIVATE):
        environment["ipConfiguration"] = "WORKER_IP_PRIVATE"
    return {"environment": environment, "parameters": texts(own)}


def pipeline_options(name: str, value: Any) -> list[str]:
    """A flag of Beam as the entries of a list that has no dashes: one per value, a switch by its name alone."""
    values = [one for one in as_list(value) if one is not None and one is not False]
    return [
        name if one is True else f"{name}={one if isinstance(one, str) else json.dumps(one)}"
        for one in values
    ]


def as_list(value: Any) -> list[Any]:
    """A value that may occur several times."""
    return value if isinstance(value, list) else [value]


def texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Flags as parameters of a template, which are all strings."""
    joined = {name: ",".join(v) if isinstance(v, list) else v for name, v in values.items()}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in joined.items()}


def verify() -> BashOperator:
    """A task that checks every file of the output, with the job's access to its store, and returns the manifest."""
    return BashOperator(
        task_id="verify",
        bash_command='mapfile -t access < <(printf %s "$ACCESS")\n'
        '"$PYTHON" -m pipeline.verify --json "$OUTPUT" "${access[@]}"',
        env={
            "PYTHON": PYTHON,
            "OUTPUT": "{{ ti.xcom_pull(task_ids='flags')['output'] }}",
            "ACCESS": ACCESS,
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        append_env=True,
        output_processor=json.loads,
        retry_policy=RetryUnlessFinal(),
    )


@task(outlets=[FEATURES])
def publish(manifest: dict[str, Any]) -> dict[str, Any]:
    """Publishes an asset event that says where the features are, how many, and which model made them."""
    context = get_current_context()
    fields = (
        "shards",
        "inputs",
        "features",
        "failures",
        "failures_by_code",
        "model",
        "precision",
        "dimensions",
    )
    output = context["ti"].xcom_pull(task_ids="flags")["output"]
    counts = {"output": output, **{name: manifest[name] for name in fields}}
    context["outlet_events"][FEATURES].extra = counts
    return counts


def bit_features():
    """Runs the job on DirectRunner, Flink or Dataflow, then verifies and publishes its output."""
    extract = BeamRunPythonPipelineOperator(
        task_id="extract",
        runner="{{ params.runner }}",
        py_interpreter=PYTHON,
        py_options=["-m"],
        py_file="pipeline.main",
        pipeline_options=flags(),
        dataflow_config={
            "job_name": "bit-features",
            "project_id": "{{ params.project or '' }}",
            "location": "{{ params.region }}",
        },
        retry_policy=RetryUnlessFinal(),
    )
    verified = verify()
    chain(extract, verified, publish(verified.output))


def bit_features_template():
    """Runs the job as a Dataflow Flex Template, then verifies and publishes its output."""
    asked = launch(flags())
    extract = DataflowStartFlexTemplateOperator(
        task_id="extract",
        project_id="{{ params.project or '' }}",
        location="{{ params.region }}",
        body={
            "launchParameter": {
                "jobName": "bit-features",
                "containerSpecGcsPath": "{{ params.template }}",
                "parameters": asked["parameters"],
                "environment": asked["environment"],
            }
        },
        deferrable=True,
        append_job_name=True,
    )
    verified = verify()
    chain(extract, verified, publish(verified.output))


JOB = {
    **REQUEST,
    "runner": Param(
        "DirectRunner", enum=["DirectRunner", "FlinkRunner", "DataflowRunner"], description="Beam runner"
    ),
    **FURTHER,
    **GOOGLE,
}
TEMPLATE = {
    "template": Param(
        type="string", pattern=r"^gs://.+\.json$", description="Path of the Flex Template's JSON file"
    ),
    **REQUEST,
    "output": Param(type="string", pattern=r"^gs://.*[^/]$", description=OUTPUT),
    **FURTHER,
    **GOOGLE,
}


WRITTEN: dict[
    str, dict[str, Any]
] = {}  # DAG with a schedule -> what its file says, which may be templates of Airflow


def create(name: str, schedule: str | None = None, **values: Any) -> None:
    """Makes the DAG of this name: of the Flex Template, if `values`, which are defaults of params, have one."""
    is_template = name == "bit_features_template" or "template" in values
    params = TEMPLATE if is_template else JOB
    if unknown := sorted(values.keys() - params.keys()):
        raise ValueError(
            f"{name}: {unknown[0]} is no param; there are {', '.join(params)}, and options for further flags"
        )
    settled = {
        param: Param(value, description=params[param].description, **params[param].schema)
        for param, value in values.items()
    }
    WRITTEN[name] = values
    tasks = bit_features_template if is_template else bit_features
    dag(
        name,
        schedule=schedule,
        catchup=False,
        max_active_runs=1,
        default_args=DEFAULTS,
        params={**params, **settled},
        doc_md=__doc__,
        tags=["bit-features"],
    )(tasks)()


create("bit_features")
create("bit_features_template")
for path in sorted(SCHEDULED.glob("*.json")):
    try:
        create(f"bit_features_{path.stem}", **json.loads(path.read_text()))
    except (TypeError, ValueError) as error:  # Airflow shows it, and none of these DAGs until it is mended
        raise ValueError(f"{path}: {error}") from error
