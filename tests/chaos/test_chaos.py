"""The short form: every kind of trouble once, on Flink with --soak. `python -m tests.chaos` goes on as long as one likes."""

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
    "kill_task_manager": r"taskmanager-\d killed",
    "kill_job_manager": r"jobmanager killed",
}
FURTHER = r".*: over|the command ended with .*"  # what the log tells besides


def kinds_told(log):
    """The kinds of trouble that a log tells of, in order; a line that tells of none is itself."""
    for line in log:
        told = re.sub(r"^\d\d:\d\d:\d\d ", "", line)
        if not re.fullmatch(FURTHER, told):
            yield next((kind for kind, story in STORIES.items() if re.fullmatch(story, told)), line)


def runs_through(kinds, folder, engine, shards, is_stored):
    """Runs jobs until each of these kinds has come once; fails if one of them ends with other bytes."""
    with stage(folder, shards, engine, seed=20261126) as (scene, flags):
        helpers.job(*flags, output=folder / "whole")
        whole = helpers.contents(folder / "whole")
        missing = list(kinds)
        while missing:
            output = scene.store.folder() if is_stored else f"{scene.disk}/out-{len(missing)}"
            run = Run(scene, flags, output, every=1.0, lasts=3.0, most_seconds=600)
            run.to_the_end(missing, once=True)
            run.check(whole)
            assert run.hit, run.log
            assert [*kinds_told(run.log)] == run.hit
            missing = [kind for kind in missing if kind.__name__ not in run.hit]
    assert not scene.offspring.left()


ON_DISK = (trouble.pause_worker, trouble.kill_decoder, trouble.fill_disk)
IN_STORE = (trouble.cut_network, trouble.kill_launcher, trouble.kill_worker)


@pytest.mark.parametrize(("kinds", "is_stored"), [(ON_DISK, False), (IN_STORE, True)], ids=["disk", "store"])
def test_a_job_in_processes_outlives_every_kind_of_trouble(tmp_path, kinds, is_stored):
    assert {*ON_DISK, *IN_STORE} == {*trouble.EVERYWHERE}
    runs_through(kinds, tmp_path, "direct", (8,) * 16, is_stored)


@pytest.mark.soak
@pytest.mark.xdist_group("engines")
def test_a_job_on_flink_outlives_the_troubles_of_a_cluster(tmp_path):
    kinds = (trouble.cut_network, trouble.kill_task_manager, trouble.kill_worker, trouble.kill_job_manager)
    assert {*trouble.ON_A_CLUSTER} - {*trouble.EVERYWHERE} < {*kinds}
    runs_through(kinds, tmp_path, "flink", (8,) * 16, is_stored=True)
