"""deploy/airflow in a real Airflow, which has a virtual environment of its own: parsed, run, run again, refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import flags
from samples.make_input import write_input
from tests import engines, helpers

pytestmark = [
    pytest.mark.xdist_group("airflow"),
    pytest.mark.skipif(
        sys.version_info < (3, 11), reason="deploy/airflow/requirements.txt is for 3.11 and later"
    ),
]

DEPLOY = helpers.REPO / "deploy" / "airflow"
LOCK = DEPLOY / "requirements.txt"


def airflow_python() -> Path:
    """The interpreter of an environment with exactly the packages of the lock file, made once and kept."""
    key = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = engines.CACHE / f"airflow-{key}"
    python = folder / "bin" / "python"
    pip = '"$1" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement "$2"'
    script = f'"$0" -m venv --clear "$3" && {pip}'
    return engines.install(
        python, ["bash", "-c", script, sys.executable, str(python), str(LOCK), str(folder)]
    )


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """What came of parsing the DAGs and of several runs (tests/airflow_side/run_dags.py), and the output."""
    home = tmp_path_factory.mktemp("airflow")
    python = airflow_python()
    write_input(home / "in")
    output = home / "out"
    request = {
        "input": f"{home}/in/tfrecords/*.tfrecord",
        "output": str(output),
        "model": "untrained/tiny",
        "image_size": helpers.SIDE,
        "key_feature": "image/filename",
    }
    plan = {
        "runs": {
            "first": request,
            "second": request,
            "bad param": {**request, "image_size": 0},
            "bad option": {**request, "options": {"overwrite": True}},
            "bad request": {**request, "input": f"{home}/nothing-*.tfrecord"},
        },
        "template": {
            **request,
            "template": "gs://bucket/templates/bit-features.json",
            "input": "gs://bucket/in/*.tfrecord",
            "output": "gs://bucket/out",
            "project": "project",
            "options": {"top_k": 5, "outputs": ["embedding", "logits"], "no_opt_out": True},
        },
    }
    (home / "plan.json").write_text(json.dumps(plan))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DEPLOY),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "BIT_FEATURES_PYTHON": sys.executable,
        "PYTHONPATH": str(helpers.REPO),  # the project is not installed into the tests' environment
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    script = helpers.REPO / "tests" / "airflow_side" / "run_dags.py"
    with open(home / "log", "wb") as log:
        for command in (
            [str(python.with_name("airflow")), "db", "migrate"],
            [str(python), str(script), str(DEPLOY), str(home / "plan.json"), str(home / "result.json")],
        ):
            done = subprocess.run(command, env=environment, cwd=home, stdout=log, stderr=log, timeout=900)
            assert done.returncode == 0, (home / "log").read_text()[-5000:]
    result = json.loads((home / "result.json").read_text())
    return {**result, "output": output, "log": (home / "log").read_text()}


def test_the_dags_parse_without_beam_tensorflow_or_the_project(airflow):
    assert airflow["errors"] == {}
    assert airflow["imported"] == []
    expected = {
        "flags": "_PythonDecoratedOperator",
        "publish": "_PythonDecoratedOperator",
        "verify": "BashOperator",
    }
    assert airflow["dags"]["bit_features"]["tasks"] == {
        **expected,
        "extract": "BeamRunPythonPipelineOperator",
    }
    assert airflow["dags"]["bit_features_template"]["tasks"] == {
        **expected,
        "texts": "_PythonDecoratedOperator",
        "extract": "DataflowStartFlexTemplateOperator",
    }


def test_params_agree_with_the_flags_of_the_job(airflow):
    known = flags.parser()
    actions = {action.dest: action for action in known._actions}
    for dag in airflow["dags"].values():
        for name, schema in dag["params"].items():
            if name in ("runner", "options", "project", "region", "template"):
                continue
            action = actions[name]
            if "enum" in schema:
                assert schema["enum"] == list(action.choices)
            elif action.choices:
                assert all(re.fullmatch(schema["pattern"], choice) for choice in action.choices)
            if isinstance(action.default, (int, float, str)) and action.default and name in dag["defaults"]:
                assert dag["defaults"][name] in (action.default, None), name


def test_a_run_ends_with_verified_features_and_an_asset_event_that_counts_them(airflow):
    first = airflow["runs"]["first"]
    assert first["state"] == "success", airflow["log"][-5000:]
    assert set(first["tasks"].values()) == {"success"}
    (event,) = first["events"]
    assert event == {
        "output": str(airflow["output"]),
        "shards": 3,
        "inputs": 13,
        "features": 13,
        "failures": 0,
        "failures_by_code": {},
        "model": {"name": "untrained/tiny", "weights": "tiny, seeded"},
        "precision": "float32",
        "dimensions": {"embedding": 256},
    }
    keys = [record["key"] for record in helpers.read_all(airflow["output"])]
    assert keys[0] == [b"astronaut.jpg"]
    assert len(keys) == 13


def test_a_second_run_does_nothing_and_counts_the_same(airflow):
    first, second = airflow["runs"]["first"], airflow["runs"]["second"]
    assert second["state"] == "success"
    assert second["events"] == first["events"]
    assert airflow["log"].count("nothing to do: all shards are committed already") == 1
    assert airflow["log"].count("3 of 3 shards to do") == 1


def test_a_wrong_param_is_refused_before_a_task_runs(airflow):
    assert "image_size" in airflow["runs"]["bad param"]["refused"]
    assert "ParamValidationError" in airflow["runs"]["bad param"]["refused"]
    assert "ParamValidationError" in airflow["runs"]["bad option"]["refused"]


def test_a_wrong_request_is_not_tried_again(airflow):
    run = airflow["runs"]["bad request"]
    assert run["state"] == "failed"
    assert run["tasks"] == {
        "flags": "success",
        "extract": "failed",
        "verify": "upstream_failed",
        "publish": "upstream_failed",
    }
    assert run["tries"]["extract"] == 1
    assert len(re.findall(r"no file matches", airflow["log"])) == 1
    assert airflow["decisions"] == {
        f"{name} {code}": "default" if code == 1 else "fail"
        for name in ("extract", "verify")
        for code in (1, 2, 3)
    }


def test_the_template_gets_every_param_as_text(airflow):
    launch = airflow["body"]["launchParameter"]
    assert launch["containerSpecGcsPath"] == "gs://bucket/templates/bit-features.json"
    assert launch["parameters"] == {
        "input": "gs://bucket/in/*.tfrecord",
        "output": "gs://bucket/out",
        "model": "untrained/tiny",
        "input_format": "auto",
        "key_feature": "image/filename",
        "image_size": str(helpers.SIDE),
        "batch_size": "32",
        "precision": "float32",
        "max_failure_rate": "0.5",
        "top_k": "5",
        "outputs": "embedding,logits",
        "no_opt_out": "true",
    }
    template = json.loads((helpers.REPO / "deploy" / "dataflow" / "flex_template.json").read_text())
    parameters = {entry["name"]: entry["regexes"] for entry in template["metadata"]["parameters"]}
    for name, value in launch["parameters"].items():
        assert all(re.fullmatch(regex, value) for regex in parameters[name]), name
