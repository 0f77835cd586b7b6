"""The job is killed (SIGKILL, its whole process group) at chosen and random moments until it ends by itself.

`python -m tests.test_kill KILLS [SEED]` goes on until that many kills have hit, and prints what it did.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from pipeline import verify
from tests import helpers
from tests.killing import KILLED, Server

SECONDS_WHOLE = 2.0  # about what an uninterrupted run takes


class Job:
    """A job of several shards with good and bad images, and what an uninterrupted run of it leaves."""

    def __init__(self, folder: Path, server: Server, of_records: bool):
        self.server = server
        self.folder = folder
        bad = helpers.example({"image/encoded": b"no image"})
        folder.mkdir()
        if of_records:
            shards = [[0, 1, 2], [3, None], [], [4, None, 5, 6], [7]]
            for index, seeds in enumerate(shards):
                examples = [bad if seed is None else helpers.image_example(seed) for seed in seeds]
                helpers.write_tfrecord(folder / "in" / f"in-{index}.tfrecord", examples)
            self.flags = [f"--input={folder}/in", "--batch_size=2"]
        else:
            (folder / "in").mkdir()
            for seed in range(8):
                data = helpers.encoded(seed) if seed != 3 else b"no image"
                (folder / "in" / f"{seed}.jpg").write_bytes(data)
            self.flags = [f"--input={folder}/in", "--images_per_shard=3", "--batch_size=2"]
        code, _, self.moments = self.run(folder / "whole")
        assert code == 0, server.errors()
        self.whole = helpers.contents(folder / "whole")

    def run(self, output: Path, **kill):
        return self.server.run([*helpers.TINY, *self.flags, f"--output={output}"], **kill)

    def killed_until_done(self, output: Path, kills: list[dict]) -> list[dict]:
        """Kills a job again and again, lets it end, and checks all that is promised; returns the kills that hit."""
        hit: list[dict] = []
        done: dict[str, tuple] = {}
        for kill in [*kills, {}]:
            code, read, _ = self.run(output, **kill)
            assert code == 0 or (kill and code == KILLED), self.server.errors()
            assert not set(read) & set(done), "a shard was computed again although its receipt was there"
            for label, before in done.items():
                assert files_of(output, label) == before, f"{label} was touched after its commit"
            if code == 0:
                break
            done = {path.stem: files_of(output, path.stem) for path in output.glob("receipts/*.json")}
            hit.append(kill)
        assert helpers.contents(output) == self.whole
        assert verify.main([str(output)]) == verify.COMPLETE
        assert not (output / ".tmp").exists()
        return hit


def files_of(output: Path, label: str) -> tuple:
    """Identity and state of the files of a committed shard."""
    paths = sorted([*output.glob(f"*-{label}.*"), *output.glob(f"receipts/{label}.json")])
    return tuple(
        (path.name, *path.stat()[:3], path.stat().st_mtime_ns, path.stat().st_size) for path in paths
    )


class Chooser:
    """Draws kills: mostly at a moment of the job, sometimes at a point in time."""

    def __init__(self, job: Job, seed: int):
        self._random = random.Random(seed)
        self._moments = job.moments

    def any(self) -> dict:
        if self._random.random() < 0.3:
            return {"seconds": self._random.uniform(0, SECONDS_WHOLE)}
        return self.at(self._random.choice(sorted(self._moments)))

    def at(self, name: str) -> dict:
        return {"kill": [name, self._random.randint(1, self._moments[name])]}

    def story(self) -> list[dict]:
        return [self.any() for _ in range(self._random.randint(1, 6))]


def names(kills: list[dict]) -> list[str]:
    return [kill["kill"][0] if "kill" in kill else "at a point in time" for kill in kills]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


PHASES = (  # must be among the moments, whatever these are called some day
    "after fetch",
    "before submit",
    "after _put",
    "before infer",
    "half a record",
    "after close_durably temporary.tfrecord",
    "after create_only claim",
    "after place features",
    "before create_only receipt",
    "after create_only receipt",
    "before write_atomic manifest",
    "after write_atomic manifest",
)


def test_killed_at_every_kind_of_moment_the_job_ends_as_if_nothing_had_been(tmp_path, server):
    jobs = [Job(tmp_path / kind, server, kind == "records") for kind in ("records", "list")]
    waiting = [(0, name) for name in jobs[0].moments]
    waiting += [(1, name) for name in jobs[1].moments if name not in jobs[0].moments]
    assert {name for _, name in waiting} >= set(PHASES)
    choosers = [Chooser(job, seed=20261122) for job in jobs]
    stories = kills = 0
    while waiting:
        which = waiting[0][0]
        # The first is sure to hit; a later one may have passed already, and then waits for a story of its own.
        mine = [name for job, name in waiting if job == which][:3]
        story = jobs[which].killed_until_done(
            tmp_path / f"out-{stories}", [*map(choosers[which].at, mine), choosers[which].any()]
        )
        assert mine[0] in names(story)
        waiting = [(job, name) for job, name in waiting if job != which or name not in names(story)]
        stories, kills = stories + 1, kills + len(story)
    print(f"{kills} kills in {stories} stories")


def soak(kills: int, seed: int) -> None:
    """Random stories until `kills` kills have hit."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        jobs = [Job(Path(folder) / kind, server, kind == "records") for kind in ("records", "list")]
        hit: Counter = Counter()
        stories = 0
        while sum(hit.values()) < kills:
            job = jobs[stories % 2]
            output = Path(folder) / "out"
            hit.update(names(job.killed_until_done(output, Chooser(job, seed + stories).story())))
            shutil.rmtree(output)
            stories += 1
        server.close()
    print(f"{sum(hit.values())} kills in {stories} stories from seed {seed}: each ended byte-identical")
    for name, count in hit.most_common():
        print(f"{count:6} {name}")


if __name__ == "__main__":
    soak(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
