"""The table at the end of `python -m benchmarks`: the figures that the scripts report, compared with the aims."""

import importlib.util
import sys

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import aims, figures
from tests import helpers


def test_figures_come_from_a_benchmark_to_the_table(monkeypatch):
    monkeypatch.chdir(helpers.REPO)
    program = "from benchmarks import figures; figures.report(ratio=1.0, other=2); figures.report(ratio=0.5)"
    assert benchmarks.run([sys.executable, "-c", program], 60) == ("", {"ratio": 0.5, "other": 2})


def test_a_benchmark_that_fails_or_hangs_is_reported_and_keeps_its_figures(monkeypatch):
    monkeypatch.chdir(helpers.REPO)
    program = "from benchmarks import figures; figures.report(ratio=1); raise SystemExit(3)"
    assert benchmarks.run([sys.executable, "-c", program], 60) == ("failed with exit code 3", {"ratio": 1})
    failure, reported = benchmarks.run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
    assert failure.startswith("stopped after")
    assert reported == {}


def test_without_the_table_no_figure_is_kept(monkeypatch, tmp_path):
    monkeypatch.delenv(figures.VARIABLE, raising=False)
    figures.report(ratio=1)
    assert figures.read(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("value", "bounds", "line"),
    [
        (0.8, {"least": 0.8}, "| q | 0.80 | at least 0.80 | yes |"),
        (0.79, {"least": 0.8}, "| q | 0.79 | at least 0.80 | no |"),
        (40, {"most": 40}, "| q | 40.00 | at most 40.00 | yes |"),
        (41, {"most": 40}, "| q | 41.00 | at most 40.00 | no |"),
        (1, {}, "| q | 1.00 |  |  |"),
    ],
)
def test_an_aim_is_met_or_missed(value, bounds, line):
    row = aims.Row("q", "run", lambda f: f["x"], "{:.2f}", **bounds)
    assert row.line({"run": {"x": value}}) == line


def test_a_figure_that_is_missing_is_no_success():
    row = aims.Row("q", "run", lambda f: f["x"], "{:.2f}", least=1)
    assert row.line({"run": {}}) == "| q | not measured | at least 1.00 |  |"


def test_peers_are_all_that_resize_and_are_not_ours():
    rates = {"bare libjpeg-turbo": 9, "ours": 5, "ours, scaled_decoding": 6, "Pillow": 3, "OpenCV": 4}
    reported = {f"{aims.SMALL}: {name}": rate for name, rate in rates.items()} | {"PNG: OpenCV": 8}
    assert aims.best_peer(reported) == 4
    table = aims.table({"decode": reported})
    assert "of bare libjpeg-turbo | 0.56 | at least 0.80 | no |" in table
    assert "of the fastest peer | 1.25 | at least 1.00 | yes |" in table
    assert "scaled decoding, of a full decode | not measured |  |  |" in table


def test_every_run_has_a_script_and_a_row_and_every_row_a_run():
    for name in benchmarks.QUICK:
        assert importlib.util.find_spec(f"benchmarks.{benchmarks.script(name)}"), name
    assert {row.run for row in aims.ROWS} == set(benchmarks.QUICK)
