"""The short form: every kind of trouble once. `python -m tests.chaos` goes on for as long as one likes."""

import re

import pytest

from tests import helpers
from tests.chaos import trouble
from tests.chaos.drive import Run
from tests.chaos.stage import stage

# How the log tells of each kind, after the time.
STORIES = {
    "kill_worker": r"worker \d+ killed",
    "pause_worker": r"worker \d+ stopped",
    "kill_decoder": r"decoder \d+ killed",
    "kill_launcher": r"launcher \d+ killed",
    "cut_network": r"store cut off",
    "fill_disk": r"disk full",
}
FURTHER = r".*: over|the command ended with .*"  # what the log tells besides


def kinds_told(log):
    """The kinds of trouble that a log tells of, in order; a line that tells of none is itself."""
    for line in log:
        told = re.sub(r"^\d\d:\d\d:\d\d ", "", line)
        if not re.fullmatch(FURTHER, told):
            yield next((kind for kind, story in STORIES.items() if re.fullmatch(story, told)), line)


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
            assert [*kinds_told(run.log)] == run.hit
            hit.update(run.hit)
            kinds = [kind for kind in kinds if kind.__name__ not in hit]
        assert hit == {kind.__name__ for kind in trouble.EVERYWHERE} == set(STORIES)
        assert not scene.offspring.left()
