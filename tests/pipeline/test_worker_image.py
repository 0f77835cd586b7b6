"""The workers' image and the launcher have the same Python, as far as the image's name tells."""

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import runners, worker_image
from pipeline.flags import RequestError
from tests import helpers

REGISTRY = "europe-west4-docker.pkg.dev/py3.9-project/python3.8/"


@pytest.mark.parametrize(
    ("image", "version"),
    [
        (f"{REGISTRY}bit-features:1-py3.11", "3.11"),
        ("bit-features:py311", "3.11"),
        ("bit-features-python3.12:0.2", "3.12"),
        ("apache/beam_python3.10_sdk:2.77.0", "3.10"),
        (f"{REGISTRY}bit-features:1-py3.11@sha256:py3.12", "3.11"),
        ("localhost:5000/bit-features:python-3.13-cuda", "3.13"),
        (f"{REGISTRY}bit-features:1", ""),
        (f"{REGISTRY}bit-features", ""),
        ("bit-features:numpy3.11", ""),
        ("bit-features:20260101", ""),
    ],
)
def test_the_python_that_a_name_says(image, version):
    assert worker_image.python_of(image) == version


@pytest.mark.parametrize(
    "flags",
    [
        ["--runner=DataflowRunner", "--sdk_container_image=images/bit-features:1-py3.12"],
        ["--runner=FlinkRunner", "--sdk_container_image=images/bit-features:1-py3.12"],
        ["--runner=SparkRunner", "--environment_type=DOCKER", "--environment_config=bit-features:1-py3.12"],
    ],
)
def test_another_python_is_refused_with_the_remedy(flags):
    options = PipelineOptions(flags)
    runner = runners.name_of(options)
    with pytest.raises(RequestError, match=r"py3\.12 has Python 3\.12 .* this is Python 3\.11: .* Launch"):
        worker_image.check(options, runner, (3, 11))
    assert worker_image.check(options, runner, (3, 12)) == ""


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (["--sdk_container_image=images/bit-features:1"], "must have Python 3.11, as here"),
        (["--setup_file=./setup.py"], ""),
        (["--extra_package=bit_features-1-py3-none-any.whl"], ""),
    ],
)
def test_what_cannot_be_told_is_said(flags, note):
    options = PipelineOptions(["--runner=DataflowRunner", *flags])
    said = worker_image.check(options, "DataflowRunner", (3, 11))
    assert note in said
    assert bool(note) == bool(said)


@pytest.mark.parametrize(
    "flags",
    [
        ["--runner=DirectRunner", "--sdk_container_image=bit-features:1-py3.1"],
        ["--runner=FlinkRunner", "--environment_type=EXTERNAL", "--environment_config=localhost:5000"],
        ["--runner=PrismRunner"],
    ],
)
def test_workers_without_an_image_are_none_of_its_business(flags):
    options = PipelineOptions(flags)
    assert worker_image.check(options, runners.name_of(options), (3, 11)) == ""


def test_dataflow_without_an_image_or_another_python_starts_nothing(tmp_path, capsys):
    pattern = helpers.write_shards(tmp_path / "in", (1,))
    common = [f"--input={pattern}", "--runner=DataflowRunner", "--project=p", "--region=r"]
    common += [f"--temp_location={tmp_path}"]
    helpers.job(*common, output=tmp_path / "out", expect=2)
    assert "error: DataflowRunner needs --sdk_container_image=IMAGE" in capsys.readouterr().err
    helpers.job(*common, "--sdk_container_image=i:py3.7", output=tmp_path / "out", expect=2)
    assert "error: --sdk_container_image=i:py3.7 has Python 3.7 by its name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
