"""The short form: every kind of trouble once. `python -m tests.chaos` goes on for as long as one likes."""

import pytest

from tests import helpers
from tests.chaos import trouble
from tests.chaos.drive import Run
from tests.chaos.stage import stage


@pytest.mark.slow
def test_a_job_in_processes_outlives_every_kind_of_trouble(tmp_path):
    with stage(tmp_path, (8,) * 24, "direct", seed=20261126) as (scene, flags):
        helpers.job(*flags, "--direct_running_mode=in_memory", output=tmp_path / "whole")
        whole = helpers.contents(tmp_path / "whole")
        hit: set[str] = set()
        kinds = list(trouble.EVERYWHERE)
        while kinds:
            run = Run(scene, flags, scene.disk / f"out-{len(hit)}", every=1.0, lasts=3.0, most_seconds=600)
            run.to_the_end(kinds, once=True)
            run.check(whole)
            assert run.hit, run.log
            hit.update(run.hit)
            kinds = [kind for kind in kinds if kind.__name__ not in hit]
        assert len(run.log) >= len(run.hit)
        assert not scene.offspring.left()
