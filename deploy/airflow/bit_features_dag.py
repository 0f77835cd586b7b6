"""Airflow 3: two DAGs that run the job and verify its output. `bit_features` starts it on DirectRunner, Flink or Dataflow;
`bit_features_template` starts the Dataflow Flex Template.

BIT_FEATURES_PYTHON names the interpreter of the virtual environment in which the project is installed: `bit_features` runs
the job with it, and both DAGs verify the output with it. See docs/running.md.
"""

from __future__ import annotations

import json
import os
import re
from datetime import timedelta
from typing import Any

from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator
from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Asset, Param, chain, dag, get_current_context, task
from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy

PYTHON = os.environ.get("BIT_FEATURES_PYTHON", "/opt/bit-features/bin/python")
FEATURES = Asset("bit_features")
# The job's: 2 the request is wrong, 3 too many images failed. A retry would end the same way.
FINAL_EXIT_CODES = (2, 3)
OPTIONAL = ["null", "string"]
OUTPUT = "Folder for features, failure ledgers, receipts and manifest; an unfinished run is resumed"

REQUEST = {
    "input": Param(
        type="string",
        minLength=1,
        description="TFRecords, WebDataset tars, Parquet files with images, lists of URIs (.txt, .csv, .jsonl, .parquet) or "
        "image files: paths, folders, globs or {00..12} ranges, separated by commas",
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
    "image_size": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        description="Side of the square model input, in pixels. Default: what the model was trained at, or 224",
    ),
    "batch_size": Param(32, type="integer", minimum=1, description="Images per model call; 128 suits a GPU"),
    "precision": Param(
        "float32",
        enum=["float32", "tensorfloat32", "bfloat16", "float16"],
        description="Number format of the network: on GPUs, bfloat16 (T4, V100: float16) is faster and less exact",
    ),
    "max_failure_rate": Param(
        0.5,
        type="number",
        minimum=0,
        maximum=1,
        description="Share of the images, 0 to 1, that may fail",
    ),
}
OPTIONS = Param(
    {},
    type="object",
    propertyNames={"pattern": "^[a-z][a-z0-9_]*$", "not": {"enum": ["overwrite"]}},
    description="Further flags of the job and of its runner, without the dashes",
)
GOOGLE = {
    "project": Param(None, type=OPTIONAL, minLength=1, description="Google Cloud project; only for Dataflow"),
    "region": Param(
        "us-central1", type="string", minLength=1, description="Google Cloud region; only for Dataflow"
    ),
}
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


@task
def flags() -> dict[str, Any]:
    """The run's params as flags of the job; those not set are left to the job's defaults."""
    params = get_current_context()["params"]
    values = {**{name: params[name] for name in REQUEST}, **params["options"]}
    return {name: value for name, value in values.items() if value is not None}


@task
def texts(values: dict[str, Any]) -> dict[str, str]:
    """Flags as parameters of a template, which are all strings."""
    joined = {name: ",".join(v) if isinstance(v, list) else v for name, v in values.items()}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in joined.items()}


def verify() -> BashOperator:
    """A task that checks every file of the output and returns the manifest."""
    return BashOperator(
        task_id="verify",
        bash_command='"$PYTHON" -m pipeline.verify --json "$OUTPUT"',
        env={"PYTHON": PYTHON, "OUTPUT": "{{ params.output }}", "TF_CPP_MIN_LOG_LEVEL": "3"},
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
    counts = {"output": context["params"]["output"], **{name: manifest[name] for name in fields}}
    context["outlet_events"][FEATURES].extra = counts
    return counts


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    params={
        **REQUEST,
        "runner": Param(
            "DirectRunner", enum=["DirectRunner", "FlinkRunner", "DataflowRunner"], description="Beam runner"
        ),
        "options": OPTIONS,
        **GOOGLE,
    },
    doc_md=__doc__,
    tags=["bit-features"],
)
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


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    params={
        "template": Param(
            type="string", pattern=r"^gs://.+\.json$", description="Path of the Flex Template's JSON file"
        ),
        **REQUEST,
        "output": Param(type="string", pattern=r"^gs://.*[^/]$", description=OUTPUT),
        "options": OPTIONS,
        **GOOGLE,
    },
    doc_md=__doc__,
    tags=["bit-features"],
)
def bit_features_template():
    """Runs the job as a Dataflow Flex Template, then verifies and publishes its output."""
    extract = DataflowStartFlexTemplateOperator(
        task_id="extract",
        project_id="{{ params.project or '' }}",
        location="{{ params.region }}",
        body={
            "launchParameter": {
                "jobName": "bit-features",
                "containerSpecGcsPath": "{{ params.template }}",
                "parameters": texts(flags()),
            }
        },
        deferrable=True,
        append_job_name=True,
    )
    verified = verify()
    chain(extract, verified, publish(verified.output))


bit_features()
bit_features_template()
