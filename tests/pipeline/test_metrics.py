"""What the workers count comes back through Beam's metrics, and agrees with the manifest, on each engine."""

import json
import re

import pytest

from pipeline import bottleneck, options, plan, prepare, run, runners
from tests import engines, helpers
from transforms import metrics
from transforms.counters import Counts

ENGINES = {
    "direct": lambda: (),
    "threads": lambda: ("--direct_num_workers=2",),
    "processes": lambda: ("--direct_num_workers=2", "--direct_running_mode=multi_processing"),
    "prism": lambda: ("--runner=PrismRunner", f"--prism_location={engines.prism()}"),
    "flink": engines.embedded_flink,
}
SOME_TIME = ("read-msec", "decode-msec", "model-msec", "write-msec", "commit-msec", "wait-msec")


@pytest.fixture
def pattern(tmp_path):
    """Three shards: good images, one that cannot be decoded, one without an image."""
    helpers.write_shards(tmp_path / "in", (5, 0))
    records = [
        helpers.image_example(9),
        helpers.example({"image/encoded": b"no image"}),
        helpers.example({"other": b""}),
    ]
    helpers.write_tfrecord(tmp_path / "in" / "in-9.tfrecord", records)
    return f"{tmp_path}/in/in-*.tfrecord"


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(name, marks=pytest.mark.xdist_group("engines") if name in ("prism", "flink") else ())
        for name in ENGINES
    ],
)
def test_the_counts_are_those_of_the_manifest(tmp_path, pattern, engine):
    output = tmp_path / "out"
    flags = [*helpers.TINY, *ENGINES[engine](), "--batch_size=2"]
    config, beam_options = options.parse([*flags, f"--input={pattern}", f"--output={output}"])
    planned = plan.make(config, "weights")
    prepare.prepare(planned)
    counts = metrics.read(run.run(config, planned, beam_options, runners.name_of(beam_options)))
    manifest = helpers.manifest(output)
    assert manifest["failures_by_code"] == {"not_image": 1, "missing_feature": 1}
    assert counts.failures_by_code == manifest["failures_by_code"]
    assert (counts.in_images, counts.out_features) == (manifest["inputs"], manifest["features"]) == (8, 6)
    assert counts.shards == manifest["shards_done"] == 3
    sums = counts.metrics()
    assert all(sums[name] > 0 for name in SOME_TIME), sums
    parts = (counts.wait_read_seconds, counts.wait_decode_seconds, counts.wait_write_seconds)
    assert counts.wait_seconds == pytest.approx(sum(parts), abs=0.1)


def test_the_report_holds_the_counts_of_this_run_alone(tmp_path, pattern):
    report = tmp_path / "report.json"
    for output in ("one", "two"):
        helpers.job(f"--input={pattern}", f"--report_file={report}", output=tmp_path / output)
        counters = json.loads(report.read_text())["counters"]
        assert (counters["in-images"], counters["out-features"], counters["failures-not_image"]) == (8, 6, 1)
    helpers.job(f"--input={pattern}", f"--report_file={report}", output=tmp_path / "two")
    assert json.loads(report.read_text())["counters"] is None  # there was nothing to do


def test_a_bottleneck_is_found_in_other_processes(tmp_path, pattern, monkeypatch):
    monkeypatch.setattr(bottleneck, "_MIN_SECONDS", 0)
    report = tmp_path / "report.json"
    flags = ENGINES["processes"]()
    helpers.job(f"--input={pattern}", *flags, f"--report_file={report}", output=tmp_path / "out")
    summary = json.loads(report.read_text())
    assert summary["verdict"]["stage"] == max(summary["stage_seconds"], key=summary["stage_seconds"].get)
    assert summary["counters"]["out-features"] == summary["features"] == 6


def test_each_metric_is_documented():
    page = (helpers.REPO / "docs" / "running.md").read_text()
    table = page.partition("### Metrics")[2].partition("### Prism")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)]
    assert sorted(documented) == sorted([*Counts().metrics(), "failures-CODE"])


class Silent:
    """The result of an engine without metrics."""

    def metrics(self):
        raise NotImplementedError


def test_an_engine_without_metrics_is_no_error():
    assert metrics.read(Silent()) is None
