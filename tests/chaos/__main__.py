"""A job under chaos for as long as one likes: `python -m tests.chaos --engine=flink --shards=200 --every=20 --minutes=60`.

Runs the job without trouble first, then again and again into new folders, of the store and of the disk in turn, while every
so often something is killed, stopped, cut off or filled at random; whatever ends is started again. Each run has to end with
the bytes of the first. Prints a line for everything that happens. Needs root, for the disk that fills up.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests import stores
from tests.chaos import trouble
from tests.chaos.drive import Run
from tests.chaos.stage import stage


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("direct", "flink"), default="direct")
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--images", type=int, default=16, help="of a shard")
    parser.add_argument("--every", type=float, default=20.0, help="seconds from one trouble to the next")
    parser.add_argument("--minutes", type=float, default=10.0, help="no further run begins after these")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    chosen = parser.parse_args()
    kinds = list(trouble.EVERYWHERE if chosen.engine == "direct" else trouble.ON_A_CLUSTER)
    began, hit, runs = time.monotonic(), Counter(), 0
    with (
        tempfile.TemporaryDirectory() as name,
        stage(Path(name), (chosen.images,) * chosen.shards, chosen.engine, chosen.seed) as (scene, flags),
    ):
        say(f"{chosen.engine}, {chosen.shards} shards, --seed={chosen.seed}")
        whole = Run(scene, flags, f"{scene.disk}/whole", 0.0, 0.0, most_seconds=3600)
        whole.to_the_end([])
        expected = stores.contents(whole.output)
        say(f"undisturbed: {time.monotonic() - began:.0f} s")
        while not runs or time.monotonic() - began < 60 * chosen.minutes:
            random.Random(chosen.seed + runs).shuffle(kinds)
            output = f"{scene.disk}/out-{runs}" if runs % 2 else scene.store.folder()
            run = Run(
                scene,
                flags,
                output,
                chosen.every,
                min(30.0, chosen.every),
                7200,
                tell=say,
            )
            started = time.monotonic()
            run.to_the_end([kind for kind in kinds if runs % 2 or kind is not trouble.fill_disk])
            run.check(expected)
            hit.update(run.hit)
            runs += 1
            seconds = time.monotonic() - started
            say(
                f"run {runs} to {output}: {seconds:.0f} s, {len(run.hit)} troubles, {run.starts} starts, same bytes"
            )
    if left := scene.offspring.left():
        raise SystemExit(f"left behind: {left}")
    print(
        f"{runs} runs, {sum(hit.values())} troubles in {(time.monotonic() - began) / 60:.0f} minutes: {dict(hit)}"
    )


if __name__ == "__main__":
    main()
