"""The launching host: no TensorFlow needed to submit, nothing on stdout, help, progress."""

import argparse
import io
import subprocess
import sys

import pytest
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

from pipeline import console, options, progress, runners
from pipeline.plan import make
from pipeline.progress import Progress, Snapshot
from pipeline.terminal import Terminal
from tests import helpers
from transforms import counters


def test_planning_and_building_the_graph_import_no_tensorflow(tmp_path):
    pattern = helpers.write_shards(tmp_path / "in", (2,))
    program = f"""
import sys
import apache_beam as beam
from pipeline import main, options, plan, run, weights
config, beam_options = options.parse(["--input={pattern}", "--output={tmp_path}/out", "--model=untrained/r101x3"])
made = plan.make(config, weights.identify(config.model, is_local_run=False))
pipeline = beam.Pipeline(runner="FnApiRunner", options=beam_options)
run.define(config, made, pipeline)
proto = pipeline.to_runner_api()
assert len(made.todo) == 1 and proto.components.transforms
heavy = [name for name in ("tensorflow", "tensorflow_hub", "tfx_bsl", "keras") if name in sys.modules]
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_with_nothing_to_do_and_a_refused_one_import_no_tensorflow(tmp_path):
    pattern = helpers.write_shards(tmp_path / "in", (2,))
    helpers.job(f"--input={pattern}", output=tmp_path / "out")
    program = f"""
import sys
from pipeline.main import main
argv = [*{helpers.TINY!r}, "--input={pattern}", "--output={tmp_path}/out"]
assert main(argv) == 0
assert main([*argv, "--pass_through=label"]) == 2
assert "tensorflow" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 of 1 shard to do" in done.stderr


def test_importing_the_launcher_leaves_the_process_as_it_was():
    program = "import gc, threading, pipeline.main; assert gc.isenabled() and threading.active_count() == 1"
    done = subprocess.run([sys.executable, "-c", program], cwd=helpers.REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_on_stdout_and_a_plain_line_on_stderr(tmp_path):
    pattern = helpers.write_shards(tmp_path / "in", (3, 2))
    done = helpers.job_process(*helpers.TINY, f"--input={pattern}", f"--output={tmp_path / 'out'}")
    assert done.stdout == ""
    assert "\r" not in done.stderr
    assert "2 of 2 shards to do with FnApiRunner" in done.stderr
    assert f"{tmp_path / 'out'}: 5 features, 0 failures" in done.stderr


def test_help_is_grouped_and_has_an_example_for_each_kind_of_input(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = options.parser().format_help()
    for group in ("input:", "output:", "model:", "fetching images by URI:"):
        assert f"\n{group}\n" in text
    for kind in ("tfrecord", ".tar", "urls.csv", "photos/"):
        assert kind in text
    assert len(text.splitlines()) < 140
    assert all(len(line) <= 80 for line in text.splitlines())


def test_help_says_what_each_flag_does_and_what_its_default_is():
    for action in options.parser()._actions:
        assert action.help, action.dest
        if action.default not in (None, "", 0.0, [], False, argparse.SUPPRESS):
            assert "(default: " in action.help, action.dest


def test_beam_and_airflow_flags_are_accepted_and_reach_beam():
    argv = [
        "--input=a",
        "--output=b",
        "--model=untrained/tiny",
        "--direct_num_workers=3",
        "--labels=airflow-version=v3",
    ]
    config, beam_options = options.parse([*argv, "--runner=DirectRunner"])
    assert beam_options.view_as(DirectOptions).direct_num_workers == 3
    assert runners.name_of(beam_options) == "FnApiRunner"
    assert config.inputs == ("a",)


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        ([], "in_memory"),
        (["--direct_num_workers=1"], "in_memory"),
        (["--direct_num_workers=2"], "multi_threading"),
        (["--direct_num_workers", "2"], "multi_threading"),
        (["--direct_num_workers=0"], "multi_threading"),
        (["--direct_num_workers=2", "--direct_running_mode=multi_processing"], "multi_processing"),
        (["--direct_running_mode", "in_memory", "--direct_num_workers=2"], "in_memory"),
    ],
)
def test_several_workers_are_threads_by_default(flags, mode):
    _, beam_options = options.parse(["--input=a", "--output=b", "--model=untrained/tiny", *flags])
    assert beam_options.view_as(DirectOptions).direct_running_mode == mode


@pytest.mark.parametrize(
    ("flag", "runner"),
    [
        (None, "FnApiRunner"),
        ("directrunner", "FnApiRunner"),
        ("FlinkRunner", "FlinkRunner"),
        ("PrismRunner", "PrismRunner"),
        ("direct", "FnApiRunner"),
        ("flink", "FlinkRunner"),
        ("sparkrunner", "SparkRunner"),
        ("some.module.OfTheirs", "some.module.OfTheirs"),
    ],
)
def test_direct_runner_means_the_engine_in_this_process(flag, runner):
    assert runners.name_of(PipelineOptions([f"--runner={flag}"] if flag else [])) == runner


def test_inputs_by_comma_and_by_repeating():
    argv = ["--input=a,b", "--input=c", "--output=o", "--model=untrained/tiny", "--pass_through=x,y"]
    config, _ = options.parse(argv)
    assert config.inputs == ("a", "b", "c")
    assert config.read.pass_through == ("x", "y")


def test_image_size_follows_the_model_unless_given():
    argv = ["--input=a", "--output=o", "--model=bit/m-r101x3/ilsvrc2012_classification"]
    assert options.parse(argv)[0].preprocessing.image_size == 480
    assert options.parse([*argv, "--image_size=224"])[0].model.image_size == 224


def test_a_line_of_progress():
    line = Snapshot(30, 120, 2, 1, 4, 0.25, 10.0).line()
    assert line == "30/120 images, 3.0/s, 2 failed, shard 1/4, about 30s left"
    assert Snapshot(8, 0, 0, 0, 4, 0.0, 150.0).line() == "8 images, 0.053/s, 0 failed, shard 0/4"
    assert Snapshot(40, 120, 2, 1, 4, 0.25, 10.0, first=10).line().startswith("40/120 images, 3.0/s, ")
    assert Snapshot(8, 0, 0, 0, 4, 0.1, 0.1, first=8).line() == "8 images, 0 failed, shard 0/4"
    assert Snapshot(0, 120, 0, 0, 4, 0.0, 30.0, doing="compiling for a GPU").line() == "compiling for a GPU"
    assert Snapshot(0, 120, 0, 0, 4, 0.0, 30.0).line() == "starting"
    assert Snapshot(10, 0, 0, 1, 2, 0.5, 7265.0).line().endswith("about 2h01m left")


@pytest.mark.parametrize("in_process", [True, False])
def test_progress_follows_the_run(tmp_path, monkeypatch, capsys, in_process):
    pattern = helpers.write_shards(tmp_path / "in", (3, 2))
    argv = [*helpers.TINY, f"--input={pattern}", f"--output={tmp_path / 'out'}"]
    config, _ = options.parse(argv)
    plan = make(config, "weights")
    counters.PROCESS.does("loading the model")
    live = Progress(plan, in_process)
    assert (live.snapshot().images, live.snapshot().fraction) == (0, 0)
    assert live.snapshot().line().startswith("loading the model" if in_process else "waiting for the first")
    helpers.job(f"--input={pattern}", output=tmp_path / "out")
    end = live.snapshot()
    assert (end.images, end.failures, end.shards, end.shards_total, end.fraction) == (5, 0, 2, 2, 1.0)
    monkeypatch.setattr(progress, "_LIVE_SECONDS", 0)
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0)
    monkeypatch.setattr(progress, "_SHARE", 0)
    capsys.readouterr()
    live.draw()
    assert capsys.readouterr().err.startswith("5 images, ")
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", Terminal(screen))
    live.draw()
    console.show("")
    assert screen.getvalue().startswith("5 images, ")
    assert screen.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, 100), (0.5, 20)])
def test_lines_that_take_long_are_fewer(monkeypatch, seconds, lines):
    """With a million receipts to list, the thread that draws would do nothing else."""
    now, drawn = [0.0], []

    class Slow(progress.Display):
        interval_seconds = 1.0

        def line(self):
            now[0] += seconds
            drawn.append(now[0])
            return ""

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    display = Slow(in_process=False)
    while now[0] < 100:
        now[0] += 0.25
        display.draw()
    assert abs(len(drawn) - lines) <= 1
