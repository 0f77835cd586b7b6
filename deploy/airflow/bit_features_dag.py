"""Airflow 3: the job as two DAGs. `bit_features` starts it from a prepared interpreter, on DirectRunner, Flink or
Dataflow; `bit_features_template` starts the Dataflow Flex Template, and needs nothing of the job on the Airflow host but
the interpreter that verifies the output.

BIT_FEATURES_PYTHON names the interpreter of the virtual environment in which the project is installed. See docs/running.md.
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
# Of the job: 2 the request is wrong, 3 too many images failed. Neither gets better by itself.
FINAL_EXIT_CODES = (2, 3)
OPTIONAL = ["null", "string"]

REQUEST = {
    "input": Param(type="string", minLength=1, description="Globs, files or a folder, separated by commas"),
    "output": Param(type="string", pattern=r"^(/|[a-z0-9]+://).*[^/]$", description="Folder; a run goes on"),
    "model": Param("bit/m-r101x3", type="string", minLength=1, description="Short name, handle or path"),
    "input_format": Param("auto", pattern=r"^[a-z_]+$"),
    "image_feature": Param(None, type=OPTIONAL, minLength=1),
    "uri_column": Param(None, type=OPTIONAL, minLength=1),
    "key_feature": Param(None, type=OPTIONAL, minLength=1),
    "pass_through": Param(None, type=OPTIONAL, minLength=1, description="Features, separated by commas"),
    "images_per_shard": Param(1000, type="integer", minimum=1),
    "image_size": Param(None, type=["null", "integer"], minimum=1, description="Default: the model's"),
    "batch_size": Param(32, type="integer", minimum=1),
    "precision": Param("float32", enum=["float32", "tensorfloat32", "bfloat16", "float16"]),
    "max_failure_rate": Param(0.5, type="number", minimum=0, maximum=1),
}
OPTIONS = Param(
    {},
    type="object",
    propertyNames={"pattern": "^[a-z][a-z0-9_]*$", "not": {"enum": ["overwrite"]}},
    description="More flags of the job and of its runner",
)
GOOGLE = {
    "project": Param(None, type=OPTIONAL, minLength=1),
    "region": Param("us-central1", type="string", minLength=1),
}
DEFAULTS: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(minutes=1),
    "retry_exponential_backoff": 2.0,
}


class RetryUnlessFinal(RetryPolicy):
    """Fails a task at once where the job's exit code says that another try cannot end otherwise."""

    def evaluate(self, exception, try_number, max_tries, context=None) -> RetryDecision:
        code = re.search(r"(?:return|exit) code (\d+)", str(exception))
        if code and int(code[1]) in FINAL_EXIT_CODES:
            return RetryDecision.fail(f"exit code {code[1]}: the request must change first")
        return RetryDecision.default()


@task
def flags() -> dict[str, Any]:
    """The run's params as flags of the job. What is not set is left to the job."""
    params = get_current_context()["params"]
    given = {**{name: params[name] for name in REQUEST}, **params["options"]}
    return {name: value for name, value in given.items() if value is not None}


@task
def texts(values: dict[str, Any]) -> dict[str, str]:
    """Flags as the parameters of a template, which are all strings."""
    joined = {name: ",".join(v) if isinstance(v, list) else v for name, v in values.items()}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in joined.items()}


def verify() -> BashOperator:
    """Checks every file of the output; its result is the manifest."""
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
    """Tells downstream DAGs where the features are, how many, and what made them."""
    context = get_current_context()
    told = (
        "shards",
        "inputs",
        "features",
        "failures",
        "failures_by_code",
        "model",
        "precision",
        "dimensions",
    )
    counts = {"output": context["params"]["output"], **{name: manifest[name] for name in told}}
    context["outlet_events"][FEATURES].extra = counts
    return counts


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    params={
        **REQUEST,
        "runner": Param("DirectRunner", enum=["DirectRunner", "FlinkRunner", "DataflowRunner"]),
        "options": OPTIONS,
        **GOOGLE,
    },
    doc_md=__doc__,
    tags=["bit-features"],
)
def bit_features():
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
    checked = verify()
    chain(extract, checked, publish(checked.output))


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULTS,
    params={
        "template": Param(type="string", pattern=r"^gs://.+\.json$", description="The Flex Template's file"),
        **REQUEST,
        "output": Param(type="string", pattern=r"^gs://.*[^/]$", description="Folder; a run goes on"),
        "options": OPTIONS,
        **GOOGLE,
    },
    doc_md=__doc__,
    tags=["bit-features"],
)
def bit_features_template():
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
    checked = verify()
    chain(extract, checked, publish(checked.output))


bit_features()
bit_features_template()
