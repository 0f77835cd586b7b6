"""A plan with many shards: a file whose ranges are the elements of the graph, and the same output as without it."""

import pickle
from pathlib import Path

import apache_beam as beam
import pytest

from pipeline import options, plan, run
from tests import helpers
from transforms import plan_file
from transforms.commit.layout import Layout
from transforms.elements import Shard
from transforms.plan_file import Range, ReadPlan
from transforms.sources.uri_list import UriSlice


def shards(count):
    return tuple(
        Shard(i, count, UriSlice("list.txt", "txt", 9 * i, 9 * i + 9, 1, f"{i:064x}"), f"list.txt[{9 * i}]")
        for i in range(count)
    )


@pytest.fixture
def layout(tmp_path):
    return Layout(str(tmp_path / "out"))


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_short_plan_is_in_the_graph_and_no_file(layout, monkeypatch, count):
    monkeypatch.setattr(plan_file, "IN_GRAPH", 7)
    elements = plan_file.elements(layout, shards(count))
    assert elements == shards(count)
    assert [s for element in elements for s in ReadPlan(layout).process(element)] == list(shards(count))
    assert not Path(layout.folder).exists()


@pytest.mark.parametrize("count", [8, 14, 15, 100])
def test_ranges_of_a_long_plan_give_its_shards_in_order(layout, monkeypatch, count):
    monkeypatch.setattr(plan_file, "IN_GRAPH", 7)
    elements = plan_file.elements(layout, shards(count))
    assert 4 <= len(elements) <= 7
    assert all(isinstance(element, Range) for element in elements)
    step = pickle.loads(pickle.dumps(ReadPlan(layout)))
    step.setup()
    assert [shard for element in elements for shard in step.process(element)] == list(shards(count))
    assert list(step.process(elements[-1])) == list(shards(count))[-len(list(step.process(elements[-1]))) :]


def test_other_shards_to_do_are_another_file(layout, monkeypatch):
    monkeypatch.setattr(plan_file, "IN_GRAPH", 2)
    first, second = (plan_file.elements(layout, some) for some in (shards(9), shards(9)[3:]))
    assert first[0].path != second[0].path
    assert plan_file.elements(layout, shards(9)) == first
    assert [s.index for element in first for s in ReadPlan(layout).process(element)] == list(range(9))


def test_a_plan_that_was_deleted_is_an_error_unless_the_output_is_complete(layout, monkeypatch):
    monkeypatch.setattr(plan_file, "IN_GRAPH", 2)
    elements = plan_file.elements(layout, shards(9))
    Path(elements[0].path).unlink()
    with pytest.raises(FileNotFoundError, match=r"plan-\w+ was deleted .* run the same command again"):
        list(ReadPlan(layout).process(elements[0]))
    Path(layout.manifest).write_text("{}")
    assert list(ReadPlan(layout).process(elements[0])) == []


def test_a_worker_with_another_python_says_so(layout):
    step = ReadPlan(layout)
    step.setup()
    step._python = (3, 9)
    with pytest.raises(RuntimeError, match=r"launched with Python 3\.9, .* build the image with"):
        step.setup()


def test_the_graph_of_many_shards_is_as_small_as_that_of_the_limit(layout):
    def described(count):
        pipeline = beam.Pipeline(runner="FnApiRunner")
        pipeline | beam.Create(plan_file.elements(layout, shards(count)))
        return pipeline.to_runner_api().ByteSize()

    assert described(plan_file.IN_GRAPH) < 2_000_000
    assert described(3 * plan_file.IN_GRAPH + 1) < 1_000_000


@pytest.fixture
def many(tmp_path, monkeypatch):
    """Flags of a job over nine shards, more than its graph may hold, and what it writes with a graph that may."""
    pattern = helpers.write_shards(tmp_path / "in", (2, 1, 0, 3, 1, 2, 1, 1, 2))
    flags = [f"--input={pattern}", "--batch_size=2"]
    helpers.job(*flags, output=tmp_path / "few")
    monkeypatch.setattr(plan_file, "IN_GRAPH", 4)
    return flags, helpers.contents(tmp_path / "few")


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading", "multi_processing"])
def test_the_output_is_that_of_a_plan_in_the_graph(tmp_path, many, mode):
    flags, expected = many
    workers = () if mode == "in_memory" else ("--direct_num_workers=2", f"--direct_running_mode={mode}")
    helpers.job(*flags, *workers, output=tmp_path / "out")
    assert helpers.contents(tmp_path / "out") == expected


def test_a_run_with_a_plan_file_resumes_and_leaves_nothing(tmp_path, many):
    flags, expected = many
    output = tmp_path / "out"
    helpers.job(*flags, output=output)
    for index in (0, 1, 4, 5, 6, 8):
        (output / "receipts" / f"{index:05d}-of-00009.json").unlink()
    (output / "manifest.json").unlink()
    (output / ".tmp").mkdir()
    (output / ".tmp" / "plan-0123456789abcdef").write_bytes(b"left by a run that was killed")
    helpers.job(*flags, output=output)
    assert helpers.contents(output) == expected


def test_failures_are_retried_through_a_plan_file(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_file, "IN_GRAPH", 2)
    images = [tmp_path / f"{i}.jpg" for i in range(6)]
    for i, path in enumerate(images[:-1]):
        path.write_bytes(helpers.encoded(i))
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in images))
    flags = [f"--input={tmp_path}/list.txt", "--images_per_shard=1"]
    helpers.job(*flags, output=tmp_path / "out")
    assert helpers.manifest(tmp_path / "out")["failures"] == 1
    images[-1].write_bytes(helpers.encoded(5))
    helpers.job(*flags, "--retry_failures", output=tmp_path / "out")
    assert helpers.manifest(tmp_path / "out")["failures"] == 0
    assert len(helpers.read_all(tmp_path / "out")) == 6


def test_the_job_defines_its_graph_with_ranges(tmp_path, many):
    flags, _ = many
    config, beam_options = options.parse([*flags, f"--output={tmp_path / 'out'}", *helpers.TINY])
    pipeline = beam.Pipeline(runner="FnApiRunner", options=beam_options)
    run.define(config, plan.make(config, "weights"), pipeline)
    assert len(list((tmp_path / "out" / ".tmp").glob("plan-*"))) == 1
