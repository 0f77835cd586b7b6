"""An export of many shards: its parts are ranges of plan files, and its files are those of a plan in the graph."""

import json
import pickle
import random
from pathlib import Path

import apache_beam as beam
import pytest

from pipeline import export, export_plan
from tests import helpers
from tests.exporting.conftest import run
from transforms import plan_file
from transforms.commit.files import FileSummary
from transforms.commit.layout import Layout
from transforms.elements import Shard
from transforms.exporting import steps
from transforms.exporting.base import Export, Part, Place
from transforms.fetching.settings import FetchSettings
from transforms.plan_file import Range, ReadPlan
from transforms.sources.base import ReadSettings
from transforms.sources.pictures import ShardPictures
from transforms.sources.uri_list import UriSlice
from transforms.storage.door import StoreSettings


def planned(output, to, format="parquet"):
    return export_plan.make(*export.parse([str(output), f"--to={to}", f"--format={format}"]))


@pytest.mark.parametrize(
    ("format", "workers"),
    [
        ("parquet", ()),
        ("npy", ("--direct_num_workers=2",)),
        ("tensorboard", ("--direct_num_workers=2", "--direct_running_mode=multi_processing")),
    ],
)
def test_the_files_are_those_of_a_plan_in_the_graph(output, tmp_path, monkeypatch, format, workers):
    run(output, f"--to={tmp_path}/few", f"--format={format}")
    monkeypatch.setattr(plan_file, "IN_GRAPH", 1)
    run(output, f"--to={tmp_path}/many", f"--format={format}", *workers)
    assert helpers.contents(tmp_path / "many") == helpers.contents(tmp_path / "few")


def test_an_export_that_was_killed_goes_on_with_the_parts_that_are_left(output, tmp_path, monkeypatch):
    to = tmp_path / "to"
    run(output, f"--to={to}", "--format=parquet")
    whole = helpers.contents(to)
    for number in (0, 2):
        (to / f"features-{number:05d}-of-00003.parquet").unlink()
    written = (to / "features-00001-of-00003.parquet").stat().st_mtime_ns
    monkeypatch.setattr(plan_file, "IN_GRAPH", 1)
    planned(output, to).define(beam.Pipeline(runner="FnApiRunner"), StoreSettings())
    assert len(list((to / ".export").glob("plan-*"))) == 2  # of the parts to do, and of all
    (to / ".export" / "plan-0123456789abcdef").write_bytes(b"of an earlier export")
    run(output, f"--to={to}", "--format=parquet")
    assert helpers.contents(to) == whole
    assert (to / "features-00001-of-00003.parquet").stat().st_mtime_ns == written


@pytest.mark.parametrize("format", ["parquet", "npy", "tensorboard"])
def test_a_plan_that_was_deleted_is_an_error_unless_the_export_is_finished(
    output, tmp_path, monkeypatch, format
):
    monkeypatch.setattr(plan_file, "IN_GRAPH", 1)
    plan = planned(output, tmp_path / "to", format)
    export_plan.enter(plan)
    files = steps.PlanFiles(plan.export)
    (element,) = plan_file.elements(files, plan.parts)
    step = pickle.loads(pickle.dumps(ReadPlan(files)))
    assert list(step.process(element)) == list(plan.parts)
    Path(element.path).unlink()
    with pytest.raises(FileNotFoundError, match=r"\.export; run the same command again"):
        list(step.process(element))
    run(output, f"--to={tmp_path}/to", f"--format={format}")
    assert list(step.process(element)) == []


def parts(count):
    """Parts with pictures, whose numbers and digests are as different as those of an output."""
    some = random.Random(0)
    layout, settings = Layout("gs://bucket/features"), ReadSettings(1, "", "", "uri", (), FetchSettings())
    for i in range(count):
        slice = UriSlice("gs://bucket/list.txt", "txt", 9 * i, 9 * i + 9, 1, f"{some.getrandbits(256):064x}")
        shard = Shard(i, count, slice, f"list.txt[{9 * i}]")
        name, size = f"features-{shard.label}.tfrecord", some.randrange(10**8)
        file = FileSummary(name, size, f"{some.getrandbits(32):08x}")
        yield Part(
            shard.label, 1024, 1024 * i, file, ShardPictures(layout, shard, settings, 1024, some.randrange(9))
        )


def requested(folder):
    manifest = json.dumps({"dimensions": {"embedding": 6144}})
    layout, place = Layout("gs://bucket/features"), Place(str(folder))
    return Export(layout, place, "tensorboard", "float32", "none", 10_000, 1, manifest, "{}")


@pytest.mark.parametrize("has_columns", [True, False])
def test_the_graph_of_many_parts_is_as_small_as_that_of_the_limit(tmp_path, monkeypatch, has_columns):
    def described(count):
        every = tuple(parts(count))
        plan = export_plan.Plan(requested(tmp_path), every, every, {}, False, has_columns)
        pipeline = beam.Pipeline(runner="FnApiRunner")
        plan.define(pipeline, StoreSettings())
        return pipeline.to_runner_api().ByteSize()

    assert plan_file.IN_GRAPH <= 10_000
    monkeypatch.setattr(plan_file, "IN_GRAPH", 1000)
    assert described(1000) < 400_000
    assert described(3001) < 200_000


def test_ranges_give_the_parts_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_file, "IN_GRAPH", 7)
    every = tuple(parts(100))
    files = steps.PlanFiles(requested(tmp_path))
    elements = plan_file.elements(files, every)
    assert len(elements) == 7
    assert all(isinstance(element, Range) for element in elements)
    assert [part for element in elements for part in ReadPlan(files).process(element)] == list(every)
