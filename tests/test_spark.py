"""The whole job on Spark, embedded in Beam's job server for it."""

import pytest

from tests import engines, helpers

pytestmark = pytest.mark.xdist_group("engines")


def test_gives_the_bytes_of_direct_runner(tmp_path):
    pattern = helpers.write_shards(tmp_path / "in", (5, 3, 0, 4))
    common = [f"--input={pattern}", "--batch_size=2"]
    helpers.job(*common, output=tmp_path / "direct")
    offspring = engines.Offspring()
    done = helpers.job_process(
        *helpers.TINY,
        *engines.embedded_spark(),
        "--spark_master_url=local[2]",
        *common,
        f"--output={tmp_path / 'spark'}",
        env=offspring.environment,
    )
    assert done.stdout == ""
    assert "4 of 4 shards to do with SparkRunner" in done.stderr
    assert helpers.contents(tmp_path / "spark") == helpers.contents(tmp_path / "direct")
    assert not offspring.left()
