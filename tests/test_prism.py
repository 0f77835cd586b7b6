"""The whole job on Beam's Prism, started as a process of its own."""

import json

import pytest

from tests import engines, helpers
from tests.feeding.lethal import costs_itself
from transforms import plan_file

pytestmark = pytest.mark.xdist_group("engines")


@pytest.fixture(scope="module")
def flags():
    return [*helpers.TINY, "--runner=PrismRunner", f"--prism_location={engines.prism()}"]


def test_gives_the_bytes_of_direct_runner(tmp_path, flags):
    pattern = helpers.write_shards(tmp_path / "in", (5, 3, 0, 4))
    common = [f"--input={pattern}", "--batch_size=2"]
    helpers.job(*common, output=tmp_path / "direct")
    offspring = engines.Offspring()
    environment = offspring.environment
    done = helpers.job_process(*flags, *common, f"--output={tmp_path / 'prism'}", env=environment)
    assert helpers.contents(tmp_path / "prism") == helpers.contents(tmp_path / "direct")
    assert "4 of 4 shards to do with PrismRunner" in done.stderr
    assert done.stdout == ""
    assert not offspring.left()


def test_gives_them_with_a_plan_file_too(tmp_path, flags, monkeypatch):
    pattern = helpers.write_shards(tmp_path / "in", (2, 1, 0, 3, 1, 2, 1))
    common = [f"--input={pattern}", "--batch_size=2"]
    helpers.job(*common, output=tmp_path / "direct")
    monkeypatch.setattr(plan_file, "IN_GRAPH", 3)
    helpers.job(*flags, *common, output=tmp_path / "prism")
    assert helpers.contents(tmp_path / "prism") == helpers.contents(tmp_path / "direct")


def test_a_lethal_image_costs_itself(tmp_path, flags):
    offspring = engines.Offspring()
    costs_itself(tmp_path, *flags, **offspring.environment)
    assert not offspring.left()


def test_a_failing_job_ends_with_a_sentence_and_1(tmp_path, flags):
    pattern = helpers.write_shards(tmp_path / "in", (2, 2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "receipts").write_text("a file where the folder of receipts must be")
    report = tmp_path / "report.json"
    done = helpers.job_process(
        *flags, f"--input={pattern}", f"--output={tmp_path / 'out'}", f"--report_file={report}", expect=1
    )
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: StorageFailed: ")
    assert "receipts" in error
    assert json.loads(report.read_text())["status"] == "failed"
