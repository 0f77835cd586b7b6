"""deploy/airflow in a real Airflow, which has a virtual environment of its own: parsed, run, run again, refused."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from google.cloud import dataflow_v1beta3

from pipeline import flags, options, worker_image
from samples.make_input import write_input
from tests import engines, helpers

pytestmark = [
    pytest.mark.xdist_group("airflow"),
    pytest.mark.skipif(
        sys.version_info < (3, 11), reason="deploy/airflow/requirements.txt is for 3.11 and later"
    ),
]

DEPLOY = helpers.REPO / "deploy" / "airflow"
FLAGS = helpers.REPO / "deploy" / "dataflow"
LOCK = DEPLOY / "requirements.txt"


OPTIONS_OF_BEAM = {
    "labels": ["team=images", "cost=research"],
    "autoscaling_algorithm": "NONE",
    "flexrs_goal": "COST_OPTIMIZED",
    "s3_region_name": "eu-west-1",
    "enable_hot_key_logging": True,
    "s3_disable_ssl": False,
    "min_cpu_platform": "Intel Skylake",
    "hdfs_port": 9870,
    "num_workers": 2,
    "experiments": "enable_x",
    "dataflow_service_options": ["flexrs"],
    "scaled_decoding": True,
}


def conf(name: str, **more) -> dict:
    """A configuration of deploy/airflow/conf as a user would change it."""
    return {**json.loads((DEPLOY / "conf" / f"{name}.json").read_text()), **more}


def airflow_python() -> Path:
    """The interpreter of an environment with exactly the packages of the lock file, made once and kept."""
    key = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    return engines.environment(f"airflow-{key}", "--require-hashes", "--no-deps", "-r", str(LOCK))


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """What came of parsing the DAGs and of several runs (tests/airflow_side/run_dags.py), and the output."""
    home = tmp_path_factory.mktemp("airflow")
    python = airflow_python()
    write_input(home / "in")
    output = home / "out"
    inputs = {"input": f"{home}/in/tfrecords/*.tfrecord", "output": str(output), "model": "untrained/tiny"}
    request = conf("direct", **inputs, image_size=helpers.SIDE, key_feature="image/filename")
    dags = home / "dags"
    dags.mkdir()
    for path in (DEPLOY / "bit_features_dag.py", *FLAGS.glob("*.flags")):
        shutil.copy(path, dags)
    photos = home / "photos"
    photos.mkdir()
    daily = conf("daily", input=str(photos), output=f"{home}/days/{{{{ ds }}}}", skip_done=f"{home}/days/*")
    (dags / "scheduled").mkdir()
    (dags / "scheduled" / "daily.json").write_text(
        json.dumps({**daily, "model": "untrained/tiny", "image_size": helpers.SIDE})
    )
    plan = {
        "days": {
            "2026-11-27": [str(helpers.REPO / "samples" / "photos" / "china.jpg"), str(photos)],
            "2026-11-28": [str(helpers.REPO / "samples" / "photos" / "flower.jpg"), str(photos)],
        },
        "runs": {
            "first": request,
            "second": {**request, "options": {"s3_region_name": "a region", "s3_disable_ssl": True}},
            "bad param": {**request, "image_size": 0},
            "bad option": {**request, "options": {"overwrite": True}},
            "bad request": {**request, "input": f"{home}/nothing-*.tfrecord"},
        },
        "templates": {
            "documented": conf("template_l4"),
            "few flags": {
                "template": "gs://bucket/templates/bit-features.json",
                "input": "gs://bucket/in/*.tfrecord",
                "output": "gs://bucket/out",
                "model": "untrained/tiny",
                "project": "project",
                "key_feature": "image/filename",
                "options": {"top_k": 5, "outputs": ["embedding", "logits"], "no_opt_out": True},
            },
            "options of Beam": conf("template_l4", flags_file=None, options=OPTIONS_OF_BEAM),
            **{
                f"option {name}": conf("template_l4", options={name: "mine"})
                for name in ("project", "job_name", "runner")
            },
        },
        "flags": {
            "flink": conf("flink"),
            "dataflow_l4": conf("dataflow_l4"),
            "another precision": conf("dataflow_l4", precision="float16", flags_file="a100.flags"),
            "another runner": conf("dataflow_l4", runner="DirectRunner"),
            "another experiment": conf("dataflow_l4", options={"experiments": "enable_x"}),
            "no such file": conf("dataflow_l4", flags_file="l40.flags"),
        },
    }
    (home / "plan.json").write_text(json.dumps(plan))
    interpreter = home / "python"
    interpreter.write_text(
        f'#!/bin/sh\nprintf "%s|" "$@" >> {home}/started\necho >> {home}/started\nexec {sys.executable} "$@"\n'
    )
    interpreter.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "BIT_FEATURES_PYTHON": str(interpreter),
        "PYTHONPATH": str(helpers.REPO),  # the project is not installed into the tests' environment
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    script = helpers.REPO / "tests" / "airflow_side" / "run_dags.py"
    with open(home / "log", "wb") as log:
        for command in (
            [str(python.with_name("airflow")), "db", "migrate"],
            [str(python), str(script), str(dags), str(home / "plan.json"), str(home / "result.json")],
        ):
            done = subprocess.run(command, env=environment, cwd=home, stdout=log, stderr=log, timeout=900)
            assert done.returncode == 0, (home / "log").read_text()[-5000:]
    result = json.loads((home / "result.json").read_text())
    started = (home / "started").read_text().splitlines()
    return {**result, "home": home, "output": output, "log": (home / "log").read_text(), "started": started}


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
        "launch": "_PythonDecoratedOperator",
        "extract": "DataflowStartFlexTemplateOperator",
    }


def test_params_agree_with_the_flags_of_the_job(airflow):
    known = flags.parser()
    actions = {action.dest: action for action in known._actions}
    for dag in airflow["dags"].values():
        for name, schema in dag["params"].items():
            if name in ("runner", "flags_file", "options", "project", "region", "template"):
                continue
            action = actions[name]
            if "enum" in schema:
                assert schema["enum"] == [None, *action.choices]
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


def test_a_scheduled_dag_does_each_day_what_is_new(airflow):
    assert airflow["dags"]["bit_features_daily"]["schedule"] == "@daily"
    assert airflow["dags"]["bit_features"]["schedule"] is None
    for date, name in (("2026-11-27", "china"), ("2026-11-28", "flower")):
        run = airflow["days"][date]
        assert run["state"] == "success", airflow["log"][-5000:]
        (event,) = run["events"]
        folder = airflow["home"] / "days" / date
        assert (event["output"], event["inputs"]) == (str(folder), 1)
        assert [record["key"] for record in helpers.read_all(folder)] == [
            [f"{airflow['home']}/photos/{name}.jpg".encode()]
        ]


def test_a_second_run_does_nothing_and_counts_the_same(airflow):
    first, second = airflow["runs"]["first"], airflow["runs"]["second"]
    assert second["state"] == "success"
    assert second["events"] == first["events"]
    assert airflow["log"].count("nothing to do: all shards are committed already") == 1
    assert airflow["log"].count("3 of 3 shards to do") == 1


def test_the_output_is_verified_with_the_access_of_the_job(airflow):
    lines = [line for line in airflow["started"] if line.startswith("-m|pipeline.verify|")]
    daily = [line for line in lines if f"{airflow['home']}/days/" in line]
    assert [line.split("/")[-1] for line in daily] == ["2026-11-27|", "2026-11-28|"]
    verified = [line for line in lines if line not in daily]
    plain = f"-m|pipeline.verify|--json|{airflow['output']}|"
    assert verified == [plain, f"{plain}--s3_region_name=a region|--s3_disable_ssl|"]


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
    launch = airflow["bodies"]["few flags"]["launchParameter"]
    assert launch["containerSpecGcsPath"] == "gs://bucket/templates/bit-features.json"
    assert launch["parameters"] == {
        "input": "gs://bucket/in/*.tfrecord",
        "output": "gs://bucket/out",
        "model": "untrained/tiny",
        "input_format": "auto",
        "key_feature": "image/filename",
        "max_failure_rate": "0.5",
        "top_k": "5",
        "outputs": "embedding,logits",
        "no_opt_out": "true",
    }
    assert launch["environment"] == {}


def test_the_template_of_a_gpu_gets_its_environment(airflow):
    """What `gcloud` sends for the command of docs/running.md."""
    launch = airflow["bodies"]["documented"]["launchParameter"]
    options = conf("template_l4")["options"]
    assert launch["environment"] == {
        "machineType": "g2-standard-8",
        "maxWorkers": 8,
        "serviceAccountEmail": options["service_account_email"],
        "tempLocation": options["temp_location"],
        "stagingLocation": options["staging_location"],
        "sdkContainerImage": options["sdk_container_image"],
        "subnetwork": options["subnetwork"],
        "ipConfiguration": "WORKER_IP_PRIVATE",
        "additionalExperiments": [
            "no_use_multiple_sdk_containers",
            "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver",
        ],
        "additionalPipelineOptions": [
            "worker_disk_type=compute.googleapis.com/projects//zones//diskTypes/pd-balanced",
            "disk_size_gb=100",
            "number_of_worker_harness_threads=2",
            "sdk_location=container",
        ],
    }
    assert launch["parameters"] == {
        "input": "gs://my-bucket/images/*.tfrecord",
        "output": "gs://my-bucket/features",
        "model": "bit/m-r101x3",
        "input_format": "auto",
        "max_failure_rate": "0.5",
        "batch_size": "128",
        "precision": "bfloat16",
        "offline": "true",
    }


def test_a_request_for_the_template_is_one_of_the_service(airflow):
    template = json.loads((FLAGS / "flex_template.json").read_text())
    parameters = {entry["name"]: entry["regexes"] for entry in template["metadata"]["parameters"]}
    for launch in (body["launchParameter"] for body in airflow["bodies"].values() if body):
        request = dataflow_v1beta3.LaunchFlexTemplateParameter.from_json(json.dumps(launch))  # refuses others
        assert request.environment.machine_type == launch["environment"].get("machineType", "")
        for name, value in launch["parameters"].items():
            assert all(re.fullmatch(regex, value) for regex in parameters[name]), name


def test_every_flag_has_its_place_in_the_request():
    """What is in no list of the DAG is taken for an option of Beam."""
    dag = ast.parse((DEPLOY / "bit_features_dag.py").read_text())
    assigned = {
        target.id: node.value for node in dag.body if isinstance(node, ast.Assign) for target in node.targets
    }
    request = {key.value for key in assigned["REQUEST"].keys}
    environment, experiments, private, jobs, launchers = (
        ast.literal_eval(assigned[name])
        for name in ("ENVIRONMENT", "EXPERIMENTS", "PRIVATE", "JOBS", "LAUNCHERS")
    )
    own = {action.dest for action in flags.parser()._actions if action.dest != "help"}
    assert not request & {*jobs}
    assert request | {*jobs} == own
    elsewhere = {*environment, *experiments, private, *launchers}
    assert not elsewhere & own
    beams = {flag[2:] for flag in options._beam_parser()._option_string_actions}
    assert elsewhere - {"launcher_machine_type"} <= beams
    for path in FLAGS.glob("*.flags"):
        assert {flag[2:].partition("=")[0] for flag in path.read_text().split()} <= own | beams, path


def test_an_option_of_beam_is_no_parameter_of_the_template(airflow):
    launch = airflow["bodies"]["options of Beam"]["launchParameter"]
    assert launch["environment"] == {
        "numWorkers": 2,
        "additionalExperiments": ["enable_x", "flexrs"],
        "additionalPipelineOptions": [
            "labels=team=images",
            "labels=cost=research",
            "autoscaling_algorithm=NONE",
            "flexrs_goal=COST_OPTIMIZED",
            "s3_region_name=eu-west-1",
            "enable_hot_key_logging",
            "min_cpu_platform=Intel Skylake",
            "hdfs_port=9870",
        ],
    }
    assert launch["parameters"] == {
        "input": "gs://my-bucket/images/*.tfrecord",
        "output": "gs://my-bucket/features",
        "model": "bit/m-r101x3",
        "input_format": "auto",
        "max_failure_rate": "0.5",
        "scaled_decoding": "true",
    }
    options_sent = launch["environment"]["additionalPipelineOptions"]
    beam = PipelineOptions([f"--{option}" for option in options_sent]).get_all_options()
    assert beam["labels"] == ["team=images", "cost=research"]
    assert (beam["hdfs_port"], beam["enable_hot_key_logging"]) == ("9870", True)


@pytest.mark.parametrize("name", ["project", "job_name", "runner"])
def test_what_the_request_itself_says_is_refused_by_name_among_the_options(airflow, name):
    assert airflow["bodies"][f"option {name}"] == {}
    assert f"{name} in options or flags_file is no option of a template" in airflow["log"]


def command_line(values: dict) -> list[str]:
    """As Airflow's operator makes it of pipeline options."""
    flags = []
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            flags.append(f"--{name}" if one is True else f"--{name}={one}")
    return flags


def test_the_configuration_for_flink_is_a_command_of_the_job(airflow):
    values = airflow["flags"]["flink"]
    config, beam_options = options.parse([*command_line(values), "--runner=FlinkRunner"])
    settings = beam_options.get_all_options()
    assert (config.model.batch_size, config.model.precision) == (128, "bfloat16")
    for name, value in conf("flink")["options"].items():
        assert settings[name] == value, name


def test_the_configuration_for_dataflow_is_the_flags_of_the_gpu_as_they_are(airflow):
    values = airflow["flags"]["dataflow_l4"]
    line = command_line({name: value for name, value in values.items() if name not in ("project", "region")})
    documented = (FLAGS / "l4.flags").read_text().split()
    assert set(documented) - {"--runner=DataflowRunner"} <= set(line)
    config, beam_options = options.parse([*line, "--runner=DataflowRunner"])
    assert (config.model.batch_size, config.model.precision) == (128, "bfloat16")
    settings = beam_options.get_all_options()
    assert settings["use_public_ips"] is False
    assert settings["machine_type"] == "g2-standard-8"
    assert worker_image.check(beam_options, "DataflowRunner", (3, 11)) == ""


def test_params_come_before_the_file_of_flags(airflow):
    values = airflow["flags"]["another precision"]
    assert (values["precision"], values["machine_type"]) == ("float16", "a2-highgpu-1g")


def test_a_file_of_flags_for_another_runner_starts_nothing(airflow):
    assert airflow["flags"]["another runner"] == {}
    assert "l4.flags is for another runner than DirectRunner: set runner" in airflow["log"]


def test_an_experiment_is_added_to_those_of_the_file(airflow):
    values = airflow["flags"]["another experiment"]
    assert values["experiments"] == ["no_use_multiple_sdk_containers", "enable_x"]


def test_a_file_of_flags_that_is_missing_starts_nothing(airflow):
    assert airflow["flags"]["no such file"] == {}
    assert "l40.flags'; deploy/dataflow has such files" in airflow["log"]
